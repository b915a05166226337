//! The file: where it is, what is in it.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;

/// The version of the table below.
const VERSION: i64 = 1;

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
    let use_error = |source| StoreError::Use { path: path.to_owned(), source };
    create_private(path);
    let connection = connect(path).map_err(use_error)?;
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(use_error)?;
    if found > VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known: VERSION });
    }
    if found == 0 {
        let create = format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
        connection.execute_batch(&create).map_err(use_error)?;
    }
    Ok(connection)
}

/// A connection to the file.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // An operator may look at the file with a tool of their own meanwhile.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    Ok(connection)
}

/// Makes the file readable for its owner alone. Where that fails, opening it tells why.
fn create_private(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).ok();
}
