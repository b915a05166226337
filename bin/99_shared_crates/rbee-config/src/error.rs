//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

/// The configuration or its folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file has a key that no part of rbee reads.
    #[error("{}:{line}: unknown key `{key}`{}", file.display(), suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key with its section: `queen.bidn`.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The file has a name with a dot, of which TOML makes two.
    #[error("{}:{line}: unknown key `{section}.{name}`; a name with a dot wants quotes: [{section}.\"{name}\"]", file.display())]
    DottedName {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Where the name stands: `models`.
        section: String,
        /// The name that was probably meant: `qwen2.5`.
        name: String,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value in the file has the wrong type or is out of bounds.
    #[error("{}:{line}: `{key}`: {message}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key with its section: `queen.bind`.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    /// An environment variable looks like a setting, but there is no such setting.
    #[error("the environment variable {variable} is no setting{}", suggestion(nearest.as_deref()))]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// The variable that was probably meant.
        nearest: Option<String>,
    },
    /// An environment variable would be a setting of one model or hive, which only the file has.
    #[error(
        "the environment variable {variable} is no setting: {section} are set in config.toml only, in [{section}.NAME]"
    )]
    InFileOnly {
        /// The variable.
        variable: String,
        /// The section: `models`.
        section: &'static str,
    },
    /// An environment variable has the wrong type or is out of bounds.
    #[error("the environment variable {variable}: {message}")]
    Variable {
        /// The variable.
        variable: String,
        /// What is wrong with its value.
        message: String,
    },
    /// Nothing says where this user's files are.
    #[error("there is no home folder; set HOME, or RBEE_HOME to a folder for all of rbee's files")]
    NoHome,
    /// The file cannot be read.
    #[error("cannot read the configuration {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file that somebody named cannot be read.
    #[error("cannot read {}, named by --config", file.display())]
    NamedUnreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder cannot be made, or not be closed to others.
    #[error("cannot make the folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}
