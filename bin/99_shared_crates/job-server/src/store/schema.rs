//! The file: where it is, what is in it.

use rusqlite::Connection;
use sqlite_file::{Layout, StoreError, StoreFile, StoreKind};

pub(super) const KIND: StoreKind = StoreKind {
    layout: Layout { version: 1, tables: TABLES },
    before_path: "the job store ",
    content: "the job store",
    thread: "job-store",
    advises_to_open: false,
};

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
pub(super) fn open(file: &StoreFile) -> Result<Connection, StoreError> {
    file.open().and_then(|connection| with_foreign_keys(file, connection))
}

/// A connection to what the file holds, for a disk without room; see [`StoreFile::look`].
pub(super) fn look(file: &StoreFile) -> Result<Option<Connection>, StoreError> {
    file.look()?.map(|connection| with_foreign_keys(file, connection)).transpose()
}

fn with_foreign_keys(file: &StoreFile, connection: Connection) -> Result<Connection, StoreError> {
    connection.execute_batch("PRAGMA foreign_keys = ON;").map_err(|e| file.unusable(e))?;
    Ok(connection)
}
