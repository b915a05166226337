//! What can be wrong with configuration.

use std::io;
use std::path::PathBuf;

/// Configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file says something that is not understood.
    #[error("{file}, line {line}: {message}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was perhaps meant.
        message: String,
    },
    /// An environment variable says something that is not understood.
    #[error("environment variable {name}: {message}")]
    InvalidVariable {
        /// The variable.
        name: String,
        /// What is wrong, and what was perhaps meant.
        message: String,
    },
    /// A value is out of its range.
    #[error("{key} is {value}: it must be {allowed}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A folder cannot be made.
    #[error("cannot make the folder {folder}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operating system knows no home folder.
    #[error("there is no home folder; set RBEE_HOME to the folder that rbee may use")]
    NoHome,
}
