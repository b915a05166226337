//! The file: where it is, what is in it.

use std::path::Path;

use rusqlite::Connection;
use sqlite_file::{Layout, OpenError};

use super::StoreError;

const LAYOUT: Layout = Layout { version: 1, tables: TABLES };

const TABLES: &str = "
    CREATE TABLE decisions (
        id         INTEGER PRIMARY KEY,
        at_ms      INTEGER NOT NULL,  -- since the Unix epoch
        kind       TEXT NOT NULL,
        request_id TEXT,
        caller     TEXT,              -- a token's fingerprint, or 'local'
        model      TEXT,
        worker_id  TEXT,
        reason     TEXT NOT NULL,
        why        TEXT NOT NULL,
        detail     TEXT               -- JSON
    );
";

/// Opens the file, with its table.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    sqlite_file::open(path, LAYOUT).map_err(|error| failed(path, error))
}

/// A connection to what the file holds, for a disk without room; see [`sqlite_file::look`].
pub(super) fn look(path: &Path) -> Result<Option<Connection>, StoreError> {
    sqlite_file::look(path, LAYOUT).map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: OpenError) -> StoreError {
    let path = path.to_owned();
    match error {
        OpenError::Open(source) => StoreError::Open { path, source },
        OpenError::Use(source) => StoreError::Use { path, source },
        OpenError::TooNew { found } => StoreError::TooNew { path, found, known: LAYOUT.version },
    }
}
