//! A file of SQLite with a version: made where it is missing, refused where a later rbee wrote it.
//!
//! It is its owner's alone (0600), and written ahead (WAL), so that a crash corrupts nothing. An operator
//! may look at it with a tool of their own meanwhile. What is in it, and what a failure means to a user,
//! is left to others.
#![warn(missing_docs)]

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

/// How long another one may have the file.
const BUSY: Duration = Duration::from_secs(5);

/// What is in a file.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Its version, from 1 on, in `PRAGMA user_version`.
    pub version: i64,
    /// The SQL that makes its tables.
    pub tables: &'static str,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened or made.
    #[error("it cannot be opened")]
    Open(#[source] rusqlite::Error),
    /// It cannot be read or written, or is no such file.
    #[error("it cannot be used")]
    Use(#[source] rusqlite::Error),
    /// A later rbee wrote it.
    #[error("it has version {found}")]
    TooNew {
        /// Its version.
        found: i64,
    },
}

/// Opens a file, with its tables.
///
/// # Errors
/// It cannot be made, read or written, is no such file, or is of a later version.
pub fn open(path: &Path, layout: Layout) -> Result<Connection, OpenError> {
    create_private(path);
    let connection = Connection::open(path).map_err(OpenError::Open)?;
    connection.busy_timeout(BUSY).map_err(OpenError::Use)?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(OpenError::Use)?;
    if found > layout.version {
        return Err(OpenError::TooNew { found });
    }
    // Only then: it can change the file.
    configure(&connection).map_err(OpenError::Use)?;
    if found == 0 {
        let Layout { version, tables } = layout;
        let create = format!("BEGIN; {tables} PRAGMA user_version = {version}; COMMIT;");
        connection.execute_batch(&create).map_err(OpenError::Use)?;
    }
    Ok(connection)
}

/// One more connection to a file that is open.
///
/// # Errors
/// It cannot be opened or read.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
}

/// Makes the file readable for its owner alone. Where that fails, opening it tells why.
fn create_private(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { version: 2, tables: "CREATE TABLE t (x INTEGER);" };

    #[test]
    fn a_file_is_made_once_kept_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.db");
        open(&file, LAYOUT).unwrap().execute_batch("INSERT INTO t VALUES (7)").unwrap();
        let connection = open(&file, LAYOUT).unwrap();
        let kept: i64 = connection.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7);
        connect(&file).unwrap().execute_batch("INSERT INTO t VALUES (8)").unwrap();
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(&file).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn what_a_later_rbee_wrote_what_is_none_and_what_cannot_be_opened_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let later = folder.path().join("later.db");
        open(&later, Layout { version: 3, ..LAYOUT }).unwrap();
        assert!(matches!(open(&later, LAYOUT), Err(OpenError::TooNew { found: 3 })));
        let none = folder.path().join("none.db");
        std::fs::write(&none, "no database at all, but a text that is long enough").unwrap();
        assert!(matches!(open(&none, LAYOUT), Err(OpenError::Use(_))));
        assert!(matches!(open(folder.path(), LAYOUT), Err(OpenError::Open(_))));
    }
}
