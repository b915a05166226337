//! The file: where it is, what is in it.

use std::path::Path;

use rusqlite::Connection;
use sqlite_file::{Layout, OpenError};

use crate::StoreError;

const LAYOUT: Layout = Layout { version: 1, tables: TABLES };

const TABLES: &str = "
    CREATE TABLE jobs (
        number     INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id     TEXT NOT NULL UNIQUE,
        operation  TEXT NOT NULL,
        detail     TEXT NOT NULL,  -- JSON, without what is private
        caller     TEXT NOT NULL,
        state      TEXT NOT NULL,
        created_at TEXT NOT NULL,
        ended_at   TEXT,
        error      TEXT
    );
    CREATE TABLE job_events (
        job_id   TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
        event_id INTEGER NOT NULL,
        json     TEXT NOT NULL,
        PRIMARY KEY (job_id, event_id)
    ) WITHOUT ROWID;
";

/// Opens the file, with its tables.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    sqlite_file::open(path, LAYOUT)
        .map_err(|error| failed(path, error))
        .and_then(|connection| with_foreign_keys(path, connection))
}

/// A connection to what the file holds, for a disk without room; see [`sqlite_file::look`].
pub(super) fn look(path: &Path) -> Result<Option<Connection>, StoreError> {
    let looked = sqlite_file::look(path, LAYOUT).map_err(|error| failed(path, error))?;
    looked.map(|connection| with_foreign_keys(path, connection)).transpose()
}

fn with_foreign_keys(path: &Path, connection: Connection) -> Result<Connection, StoreError> {
    connection
        .execute_batch("PRAGMA foreign_keys = ON;")
        .map_err(|source| StoreError::Use { path: path.to_owned(), source })?;
    Ok(connection)
}

fn failed(path: &Path, error: OpenError) -> StoreError {
    let path = path.to_owned();
    match error {
        OpenError::Open(source) => StoreError::Open { path, source },
        OpenError::Use(source) => StoreError::Use { path, source },
        OpenError::TooNew { found } => StoreError::TooNew { path, found, known: LAYOUT.version },
    }
}
