//! Where rbee keeps its files, and what its configuration says.
//!
//! A setting comes from a flag, else from an environment variable, else from the file, else it is
//! the default. Flags are the daemons' own: they override fields of the same structs. What is
//! wrong is told with the place where it is written: file and line, or the variable.
#![warn(missing_docs)]

mod arguments;
mod bounds;
mod config;
mod environment;
mod error;
mod field_names;
mod load;
mod paths;
mod port_range;
mod unknown_keys;

pub use config::{Config, HiveConfig, QueenConfig, RemoteHive, WorkerConfig};
pub use environment::ignored_variables;
pub use error::ConfigError;
pub use paths::Paths;
pub use port_range::{InvalidPortRange, PortRange};
