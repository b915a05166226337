//! A file of SQLite with a version: made where it is missing, refused where a later rbee wrote it.
//!
//! It is its owner's alone (0600), and written ahead (WAL), so that a crash corrupts nothing. An operator
//! may look at it with a tool of their own meanwhile. What is in it, and what a failure means to a user,
//! is left to others.
#![warn(missing_docs)]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

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

/// Whether a file is damaged, or was never one of SQLite.
#[must_use]
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether a value in a row is none that was asked for, such as a text that is not UTF-8. The rest can be read.
#[must_use]
pub fn is_foreign_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    matches!(
        error,
        FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..)
    )
}

/// Whether it is for what is in a file that it cannot be used: damage, foreign values, or tables that are not as they
/// were made. A disk that is full or fails, and a file that is in use, are none of these.
#[must_use]
pub fn is_of_content(error: &rusqlite::Error) -> bool {
    let is_other = match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::Unknown | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch
        ),
        None => matches!(error, rusqlite::Error::SqlInputError { .. }),
    };
    is_other || is_damage(error) || is_foreign_value(error)
}

/// What an operator can do about a failure, as the rest of a sentence that has named the file. Only a damaged one
/// is worth moving away; `anew` says what there is then.
#[must_use]
pub fn advice(error: &rusqlite::Error, anew: &str) -> String {
    match error.sqlite_error_code() {
        _ if is_damage(error) => format!("; move it away to begin with {anew}"),
        Some(ErrorCode::DiskFull) => "; free some space on its disk".to_owned(),
        Some(ErrorCode::SystemIoFailure) => "; look whether its disk is full, or fails".to_owned(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "; look whether its folder can be written to, and whether its disk is full".to_owned()
        }
        _ => String::new(),
    }
}

/// Gives a damaged file another name, with what SQLite keeps beside it, so that another one can be made
/// in its place; tells the name.
///
/// # Errors
/// It cannot be renamed.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let names = (1_u32..).map(|number| beside(&format!(".damaged-{number}")));
    let kept = names.take(1000).find(|name| !name.exists());
    let kept = kept.unwrap_or_else(|| beside(".damaged"));
    std::fs::rename(path, &kept)?;
    for suffix in ["-wal", "-shm"] {
        let mut name = kept.clone().into_os_string();
        name.push(suffix);
        match std::fs::rename(beside(suffix), name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
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
    fn a_damaged_file_is_told_from_one_that_is_in_use_and_can_be_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.db");
        std::fs::write(&file, [7; 8192]).unwrap();
        std::fs::write(folder.path().join("x.db-wal"), "more").unwrap();
        let Err(OpenError::Use(error)) = open(&file, LAYOUT) else { panic!("it is none") };
        assert!(is_damage(&error), "{error}");
        let kept = set_aside(&file).unwrap();
        assert_eq!(std::fs::read(&kept).unwrap(), [7; 8192]);
        drop(open(&file, LAYOUT).unwrap());
        std::fs::write(&file, [8; 8192]).unwrap();
        assert_ne!(set_aside(&file).unwrap(), kept, "the first is not lost by the second");
        let first = open(&file, LAYOUT).unwrap();
        first.busy_timeout(Duration::ZERO).unwrap();
        let other = connect(&file).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (7)").unwrap();
        assert!(!is_damage(&first.execute_batch("INSERT INTO t VALUES (8)").unwrap_err()));
    }

    #[test]
    fn what_is_in_a_file_is_told_from_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.db");
        let connection = open(&file, LAYOUT).unwrap();
        let text = |connection: &Connection| -> rusqlite::Result<String> {
            connection.query_row("SELECT x FROM t", [], |row| row.get(0))
        };
        connection.execute_batch("INSERT INTO t VALUES (CAST(x'ff' AS TEXT))").unwrap();
        let foreign = text(&connection).unwrap_err();
        assert!(is_foreign_value(&foreign) && is_of_content(&foreign), "{foreign}");
        connection.execute_batch("UPDATE t SET x = 7").unwrap();
        assert!(is_foreign_value(&text(&connection).unwrap_err()), "a number is no text");
        connection.execute_batch("ALTER TABLE t RENAME COLUMN x TO y").unwrap();
        let renamed = text(&connection).unwrap_err();
        assert!(is_of_content(&renamed) && !is_foreign_value(&renamed), "{renamed}");
        connection.execute_batch("PRAGMA query_only = ON").unwrap();
        let refused = connection.execute_batch("DELETE FROM t").unwrap_err();
        assert!(!is_of_content(&refused), "{refused}");
        let Err(OpenError::Open(folder)) = open(folder.path(), LAYOUT) else { panic!("a folder") };
        assert!(!is_of_content(&folder), "{folder}");
    }

    #[test]
    fn only_who_has_a_damaged_file_is_told_to_move_it_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.db");
        let connection = open(&file, LAYOUT).unwrap();
        // As on a disk that has no page left.
        connection.execute_batch("PRAGMA max_page_count = 2").unwrap();
        let rows = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i FROM n";
        let full = connection.execute_batch(rows).unwrap_err();
        assert_eq!(advice(&full, "none"), "; free some space on its disk", "{full}");
        drop(connection);
        std::fs::write(&file, [7; 8192]).unwrap();
        let Err(OpenError::Use(damaged)) = open(&file, LAYOUT) else { panic!("it is none") };
        assert_eq!(advice(&damaged, "none"), "; move it away to begin with none");
        let Err(OpenError::Open(folder)) = open(folder.path(), LAYOUT) else { panic!("a folder") };
        assert!(advice(&folder, "none").contains("can be written to"), "{folder}");
        let other = rusqlite::Error::QueryReturnedNoRows;
        assert_eq!(advice(&other, "none"), "");
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
