//! One machine of rbee: its workers, its models, its devices.
//!
//! [`Hive`] is all that others see: the HTTP API of the binary and a queen in the same process carry
//! out operations through [`Hive::execute`]. A hive decides nothing across machines, forwards no
//! inference, and never reads a model file's contents itself: the worker's binary does.
#![warn(missing_docs)]

mod announce;
mod catalog;
mod changes;
mod device;
mod download;
mod error;
mod heartbeat;
mod hive;
mod http;
mod kinds;
mod metrics;
mod operation;
mod ports;
mod settings;
mod supervisor;
mod worker_binary;

pub use announce::Announcement;
pub use error::HiveError;
pub use heartbeat::HeartbeatSink;
pub use hive::Hive;
pub use http::{MODEL_FILE_ROUTE, is_model_file, model_file, model_files, router};
pub use settings::HiveSettings;
