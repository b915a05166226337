//! What is wrong with a header, where, and what to do about it.

use std::fmt;
use std::io;

use super::limits::{NEWEST_VERSION, OLDEST_VERSION};

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It does not begin as a GGUF file does.
    #[error("it does not start with \"GGUF\"")]
    NotGguf,
    /// Reading failed.
    #[error("it cannot be read at byte {position}")]
    Unreadable {
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is of another version, or of a machine with another byte order.
    #[error(
        "its GGUF version is {found}, and only {OLDEST_VERSION} to {NEWEST_VERSION} can be read; convert the model again"
    )]
    Version {
        /// The version.
        found: u32,
    },
    /// It ends before its header does.
    #[error(
        "it ends at byte {size}, inside {inside} at byte {position}; download or copy it again"
    )]
    EndsEarly {
        /// What is cut.
        inside: &'static str,
        /// Where that begins.
        position: u64,
        /// The file's size, in bytes.
        size: u64,
    },
    /// The data of its tensors is not all there.
    #[error("it has {actual} bytes and its header promises {expected}; download or copy it again")]
    Truncated {
        /// Its size, in bytes.
        actual: u64,
        /// The size that it should have at least, in bytes.
        expected: u64,
    },
    /// A number is above its limit.
    #[error("{place}: {what} is {found}, and at most {limit} is allowed; do not use this file")]
    AboveLimit {
        /// Where.
        place: Place,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// It contradicts itself or the format.
    #[error("{place}: {problem}; convert or download the model again")]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
}

/// A place in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A position in the file.
    Byte(u64),
    /// A key's value.
    Key(String),
    /// A tensor's entry.
    Tensor(String),
}

impl Place {
    /// An error here that no other variant has a name for.
    pub(super) fn invalid(self, problem: impl Into<String>) -> GgufError {
        GgufError::Invalid { place: self, problem: problem.into() }
    }

    /// Refuses a number above its limit.
    pub(super) fn check_limit(
        self,
        what: &'static str,
        found: u64,
        limit: u64,
    ) -> Result<(), GgufError> {
        if found > limit {
            return Err(GgufError::AboveLimit { place: self, what, found, limit });
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(position) => write!(f, "at byte {position}"),
            Self::Key(key) => write!(f, "key {}", Shown(key)),
            Self::Tensor(name) => write!(f, "tensor {}", Shown(name)),
        }
    }
}

/// A name from a file that nobody trusts: without control characters, and not long.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 80;
        for character in self.0.chars().take(MOST) {
            write!(f, "{}", character.escape_debug())?;
        }
        if self.0.chars().nth(MOST).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
