//! The file: where it is, what is in it.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::StoreError;

/// The version of the tables below.
const VERSION: i64 = 1;

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
    let connection =
        open_file(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    let use_error = |source| StoreError::Use { path: path.to_owned(), source };
    configure(&connection).map_err(use_error)?;
    let found = version(&connection).map_err(use_error)?;
    if found > VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known: VERSION });
    }
    if found == 0 {
        let create = format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
        connection.execute_batch(&create).map_err(use_error)?;
    }
    Ok(connection)
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    create_private(path);
    Connection::open(path)
}

/// Makes the file readable for its owner alone. Where that fails, opening it tells why.
fn create_private(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).ok();
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // An operator may look at the file with a tool of their own meanwhile.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
    )
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}
