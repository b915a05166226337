//! Where rbee keeps its files, and what its configuration says.
//!
//! A value comes from the environment (`RBEE_QUEEN__BIND`: section, two underscores, key), else from
//! the file, else it is the default; a daemon's flags come before all of them. What cannot be right
//! is an error at start that names the key, the file and the line.
#![warn(missing_docs)]

mod config;
mod error;
mod paths;
mod port_range;
mod read;

pub use config::{Config, HiveConfig, QueenConfig, RemoteHive, WorkerConfig};
pub use error::ConfigError;
pub use paths::Paths;
pub use port_range::{InvalidPortRange, PortRange};
