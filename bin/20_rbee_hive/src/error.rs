//! Why a hive does not start.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::catalog::StoreError;
use crate::supervisor::SetupError;

/// A hive cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HiveError {
    /// The folders of its files cannot be made.
    #[error("the folders of rbee cannot be made")]
    Folders(#[source] rbee_config::ConfigError),
    /// The secret that it shares with its workers cannot be had.
    #[error("the local secret cannot be read or made")]
    Secret(#[source] access_tokens::TokenError),
    /// Another process is the hive of these files.
    #[error(
        "another hive uses the same files (it holds {lock}): stop it, or give this one an \
         RBEE_HOME of its own"
    )]
    Busy {
        /// The file that the other one has locked.
        lock: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("{lock} cannot be locked")]
    Lock {
        /// The file.
        lock: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The catalog cannot be opened.
    #[error("the model catalog {file} cannot be opened: {reason}{advice}")]
    Catalog {
        /// The SQLite file.
        file: PathBuf,
        /// Why.
        reason: String,
        /// What to do about it, as the rest of the sentence.
        advice: String,
    },
    /// What the workers of an earlier hive are recognized by cannot be read or made.
    #[error("the file worker-tokens in the run folder cannot be written")]
    WorkerTokens(#[source] io::Error),
    /// No HTTP client can be made.
    #[error("no HTTP client can be made")]
    Client(#[source] reqwest::Error),
    /// The address that others are told is not one.
    #[error("advertise = {value:?} is neither a host name nor an IP address nor http://HOST")]
    Advertise {
        /// What was given.
        value: String,
    },
    /// Nobody knows how others reach this machine.
    #[error(
        "bound to {bind}, the hive cannot know under which address the queen reaches this machine: \
         name it with --advertise HOST or in the configuration, [hive] advertise = \"HOST\""
    )]
    AdvertiseMissing {
        /// Where the hive listens.
        bind: IpAddr,
    },
}

impl HiveError {
    pub(crate) fn supervisor(error: SetupError) -> Self {
        match error {
            SetupError::Client(source) => Self::Client(source),
            SetupError::Tokens(source) => Self::WorkerTokens(source),
        }
    }

    pub(crate) fn catalog(file: PathBuf, error: &StoreError) -> Self {
        let (reason, advice) = (error.to_string(), error.advice(&file));
        Self::Catalog { file, reason, advice }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn only_a_damaged_catalog_is_to_be_moved_away() {
        let failed =
            |code| StoreError::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for (error, advice, is_to_be_moved) in [
            (failed(ffi::SQLITE_FULL), "; free some space on its disk", false),
            (failed(ffi::SQLITE_IOERR), "; look whether its disk is full", false),
            (failed(ffi::SQLITE_CANTOPEN), "; look whether its folder can be written to", false),
            (failed(ffi::SQLITE_BUSY), "", false),
            (failed(ffi::SQLITE_CORRUPT), "; move it away", true),
            (StoreError::SetAside(denied), "; move it away", true),
        ] {
            let told = HiveError::catalog("/data/hive.db".into(), &error).to_string();
            let start =
                format!("the model catalog /data/hive.db cannot be opened: {error}{advice}");
            assert!(told.starts_with(&start), "{told}");
            assert_eq!(told.contains("move it away"), is_to_be_moved, "{told}");
            assert!(
                !told.contains("import"),
                "the catalog is made again from the model files: {told}"
            );
        }
    }
}
