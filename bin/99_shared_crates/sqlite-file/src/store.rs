//! The file of a store, and how it fails.

use std::fmt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::{Layout, OpenError};

/// What a store is, and what its messages call it.
#[derive(Debug, Clone, Copy)]
pub struct StoreKind {
    /// What is in its file.
    pub layout: Layout,
    /// What stands before the path of its file, with the space between them; empty where the path says enough.
    pub before_path: &'static str,
    /// What its thread writes.
    pub content: &'static str,
    /// The name of its thread.
    pub thread: &'static str,
    /// Whether an operator is told what can be done about a file that cannot even be opened.
    pub advises_to_open: bool,
}

/// The file of a store.
#[derive(Debug, Clone)]
pub struct StoreFile {
    kind: &'static StoreKind,
    path: PathBuf,
}

impl StoreFile {
    /// The one that is at a path, or is to be made there.
    #[must_use]
    pub fn new(kind: &'static StoreKind, path: &Path) -> Self {
        Self { kind, path: path.to_owned() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is the file of.
    pub(crate) fn kind(&self) -> &'static StoreKind {
        self.kind
    }

    /// Opens it, with its tables; see [`open`](crate::open).
    ///
    /// # Errors
    /// It cannot be made, read or written, is no such file, or is of a later version.
    pub fn open(&self) -> Result<Connection, StoreError> {
        crate::open(&self.path, self.kind.layout).map_err(|error| self.failed(error))
    }

    /// A connection to what it holds, for a disk without room; see [`look`](crate::look).
    ///
    /// # Errors
    /// It cannot be read, is no such file, or is of a later version.
    pub fn look(&self) -> Result<Option<Connection>, StoreError> {
        crate::look(&self.path, self.kind.layout).map_err(|error| self.failed(error))
    }

    /// That it cannot be read or written, or is no such store.
    #[must_use]
    pub fn unusable(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Use { file: self.clone(), source }
    }

    fn failed(&self, error: OpenError) -> StoreError {
        let file = self.clone();
        match error {
            OpenError::Open(source) => StoreError::Open { file, source },
            OpenError::Use(source) => StoreError::Use { file, source },
            OpenError::TooNew { found } => {
                StoreError::TooNew { file, found, known: self.kind.layout.version }
            }
        }
    }

    fn advice_to_open(&self, error: &rusqlite::Error) -> String {
        if self.kind.advises_to_open { crate::advice(error, ANEW) } else { String::new() }
    }
}

impl fmt::Display for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.before_path, self.path.display())
    }
}

/// What there is where a damaged file was moved away.
const ANEW: &str = "an empty one";

/// A store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open {file}{}", .file.advice_to_open(.source))]
    Open {
        /// The file.
        file: StoreFile,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file cannot be read or written, or is no such store.
    #[error("cannot use {file}{}", crate::advice(.source, ANEW))]
    Use {
        /// The file.
        file: StoreFile,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of rbee.
    #[error(
        "{file} has version {found}, but this rbee knows versions up to {known}{}",
        crate::advice_too_new(.file.path(), *.known)
    )]
    TooNew {
        /// The file.
        file: StoreFile,
        /// Its version.
        found: i64,
        /// The latest version that is understood.
        known: i64,
    },
    /// Another program reads the file for so long that the write-ahead log grows without end.
    #[error("another program has been reading {file} for long; end it")]
    InUse {
        /// The file.
        file: StoreFile,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes {content}")]
    Thread {
        /// What it was to write.
        content: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl StoreError {
    /// What SQLite says about it, without the file.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Open { source, .. } | Self::Use { source, .. } => source.to_string(),
            Self::InUse { .. } => "another program has been reading the file for long".to_owned(),
            Self::TooNew { .. } | Self::Thread { .. } => self.to_string(),
        }
    }

    /// Whether only room is missing.
    #[must_use]
    pub fn is_want_of_room(&self) -> bool {
        match self {
            Self::Open { source, .. } => crate::is_want_of_room_to_open(source),
            Self::Use { source, .. } => crate::is_want_of_room(source),
            Self::TooNew { .. } | Self::InUse { .. } | Self::Thread { .. } => false,
        }
    }

    /// Whether the same may succeed later, when somebody has made room or has let go of the file.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Use { source, .. } => crate::is_passing(source),
            Self::InUse { .. } => true,
            Self::TooNew { .. } | Self::Thread { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    const LAYOUT: Layout = Layout { version: 2, tables: "" };
    const PLAIN: StoreKind = StoreKind {
        layout: LAYOUT,
        before_path: "",
        content: "things",
        thread: "things",
        advises_to_open: true,
    };
    const NAMED: StoreKind = StoreKind {
        before_path: "the store of things ",
        content: "the store of things",
        advises_to_open: false,
        ..PLAIN
    };

    #[test]
    fn a_failure_names_its_file_and_tells_what_can_be_done_and_what_may_pass() {
        let (plain, named) = (file(&PLAIN), file(&NAMED));
        let closed = || sqlite(ffi::SQLITE_CANTOPEN);
        let place =
            "look whether its folder can be written to, and whether its disk is full".to_owned();
        let opened = |file| StoreError::Open { file, source: closed() };
        check(&opened(plain.clone()), &format!("cannot open /x.db; {place}"), (false, true));
        check(&opened(named.clone()), "cannot open the store of things /x.db", (false, true));
        let full = named.unusable(sqlite(ffi::SQLITE_FULL));
        let told = "cannot use the store of things /x.db; free some space on its disk";
        check(&full, told, (true, true));
        let beside = plain.unusable(closed());
        check(&beside, &format!("cannot use /x.db; {place}"), (true, true));
        let damaged = plain.unusable(sqlite(ffi::SQLITE_CORRUPT));
        let told = "cannot use /x.db; move it away to begin with an empty one";
        check(&damaged, told, (false, false));
        let later = named.failed(OpenError::TooNew { found: 9 });
        let told = format!(
            "the store of things /x.db has version 9, but this rbee knows versions up to 2{}",
            crate::advice_too_new(Path::new("/x.db"), 2)
        );
        check(&later, &told, (false, false));
        let in_use = StoreError::InUse { file: named };
        let told = "another program has been reading the store of things /x.db for long; end it";
        check(&in_use, told, (false, true));
        let source = std::io::Error::other("there are too many");
        let none = StoreError::Thread { content: NAMED.content, source };
        check(&none, "cannot start the thread that writes the store of things", (false, false));
    }

    #[test]
    fn the_reason_of_a_failure_is_told_without_the_file_where_there_is_another() {
        let full = file(&NAMED).unusable(sqlite(ffi::SQLITE_FULL));
        assert_eq!(full.reason(), sqlite(ffi::SQLITE_FULL).to_string());
        let in_use = StoreError::InUse { file: file(&NAMED) };
        assert_eq!(in_use.reason(), "another program has been reading the file for long");
        let later = file(&NAMED).failed(OpenError::TooNew { found: 9 });
        assert_eq!(later.reason(), later.to_string());
    }

    #[track_caller]
    fn check(error: &StoreError, told: &str, (wants_room, passes): (bool, bool)) {
        assert_eq!(error.to_string(), told);
        assert_eq!((error.is_want_of_room(), error.is_passing()), (wants_room, passes), "{told}");
    }

    fn file(kind: &'static StoreKind) -> StoreFile {
        StoreFile::new(kind, Path::new("/x.db"))
    }

    fn sqlite(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }
}
