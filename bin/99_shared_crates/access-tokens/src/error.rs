//! What can go wrong with tokens and secrets.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::MAX_TOKENS;

/// Tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of tokens cannot be read or written.
    #[error("cannot use the tokens in {path}{}", sqlite_file::advice(.source, "none, and make them anew"))]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file of tokens was written by a later version of rbee.
    #[error(
        "the tokens in {path} have version {found}, but this rbee knows versions up to {known}{}",
        sqlite_file::advice_too_new(.path, *.known)
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that is understood.
        known: i64,
    },
    /// The file of tokens is there, and there is nothing in it.
    #[error("{path} is empty, so nobody gets in; remove it and make the tokens anew")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file of tokens of an earlier rbee is damaged.
    #[error(
        "{path} is damaged, so nobody gets in; repair it, or remove it and make the tokens anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The file of the local secret is damaged.
    #[error("{path} holds no secret; remove it, so that another one is made, and restart rbee")]
    DamagedSecret {
        /// The file.
        path: PathBuf,
    },
    /// What should be a secret is none.
    #[error("a secret is one word of at least 32 printable characters")]
    NoSecret,
    /// The operating system gave no randomness.
    #[error("the operating system gave no random numbers")]
    NoRandomness,
    /// There is no such token.
    #[error("there is no token with the id or name {0:?}")]
    Unknown(String),
    /// The name is taken.
    #[error("there is a token named {0:?} already; revoke it or choose another name")]
    NameTaken(String),
    /// The name cannot be used.
    #[error("a token's name has 1 to 64 letters, digits, spaces or ._-@")]
    BadName,
    /// There are too many.
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    TooMany,
}

impl TokenError {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// Whether it is not for what is in a file that it cannot be used, so that it may be read a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge)
            }
            Self::Database { source, .. } => !sqlite_file::is_of_content(source),
            _ => false,
        }
    }
}
