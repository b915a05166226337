//! A file of SQLite with a version: made where it is missing, refused where a later rbee wrote it.
//!
//! It is its owner's alone (0600), and written ahead (WAL), so that a crash corrupts nothing. An operator
//! may look at it with a tool of their own meanwhile. What is in it, and what a failure means to a user,
//! is left to others.
//!
//! Where there is no room to write, what a file holds can be [looked](look) at all the same, and [`Trouble`] has the reason
//! for those who are to know.
//!
//! A store is such a file whose rows a thread of its own writes, behind a [`WriteQueue`]: how a record is written, and what
//! the log says, is what each store [keeps](Keep) to itself.
#![warn(missing_docs)]

mod store;
#[cfg(test)]
mod tests;
mod trouble;
mod waiting;
mod writer;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use store::{StoreError, StoreFile, StoreKind};
pub use trouble::Trouble;
pub use writer::{Keep, News, QueueFull, WriteQueue};

/// How long another one may have the file.
const BUSY: Duration = Duration::from_secs(5);
/// How large the write-ahead log is left when all of it is in the file, in bytes.
const LOG_KEPT: u64 = 4 << 20;
/// How large it may become while another program reads the file for long, in bytes: it cannot shrink then.
const LOG_MOST: u64 = 64 << 20;
/// How many free pages stay in a file, for the next rows.
const SPARE_PAGES: i64 = 256;
/// How many pages are copied into memory between two looks at whether it has ended.
const COPIED_AT_ONCE: i32 = 1024;

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

impl OpenError {
    /// Whether only room is missing.
    #[must_use]
    pub fn is_want_of_room(&self) -> bool {
        match self {
            Self::Open(error) => is_want_of_room_to_open(error),
            Self::Use(error) => is_want_of_room(error),
            Self::TooNew { .. } => false,
        }
    }
}

/// Opens a file, with its tables.
///
/// # Errors
/// It cannot be made, read or written, is no such file, or is of a later version.
pub fn open(path: &Path, layout: Layout) -> Result<Connection, OpenError> {
    create_private(path);
    let connection = Connection::open(path).map_err(OpenError::Open)?;
    connection.busy_timeout(BUSY).map_err(OpenError::Use)?;
    let found = version(&connection, layout)?;
    if found == 0 {
        // Before there is any page. Elsewhere it is passed over.
        let shrink = connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL");
        shrink.map_err(OpenError::Use)?;
    }
    // Only then: it can change the file.
    configure(&connection).map_err(OpenError::Use)?;
    if found == 0 {
        let Layout { version, tables } = layout;
        let create = format!("BEGIN; {tables} PRAGMA user_version = {version}; COMMIT;");
        connection.execute_batch(&create).map_err(OpenError::Use)?;
    } else {
        // It is tried again at the next opening; what is wrong with the file shows itself where it is used.
        make_shrinkable(&connection).ok();
    }
    Ok(connection)
}

/// A connection to a file that is there, which is not made otherwise. `None` where there is none, or nothing in it yet.
///
/// # Errors
/// The file cannot be read, is no such file, or is of a later version.
pub fn open_existing(path: &Path, layout: Layout) -> Result<Option<Connection>, OpenError> {
    existing(path, layout, "")
}

/// A connection to what a file holds, which needs no room on the disk. It has the file for itself, or is one to a copy of
/// it in memory where no file can be made beside it. Its changes are seen by it alone as long as they are in a transaction
/// that is rolled back. `None` where there is no such file, or nothing in it yet.
///
/// # Errors
/// The file cannot be read, is no such file, or is of a later version.
pub fn look(path: &Path, layout: Layout) -> Result<Option<Connection>, OpenError> {
    // So the index of the write-ahead log is in memory; and what is changed goes to no file before its time.
    let looked =
        existing(path, layout, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_spill = OFF;");
    match looked {
        // The write-ahead log is a file all the same, though an empty one.
        Err(OpenError::Use(error)) if is_lack_of_files(&error) && is_whole(path) => {
            let copy = in_memory(path).map_err(OpenError::Use)?;
            let found = version(&copy, layout)?;
            Ok((found != 0).then_some(copy))
        }
        looked => looked,
    }
}

/// Whether all that belongs to a file is in it: nobody writes it then, as that takes a log or a journal.
fn is_whole(path: &Path) -> bool {
    let holds =
        |beside: PathBuf| std::fs::metadata(beside).is_ok_and(|at| at.is_file() && at.len() > 0);
    !["-wal", "-journal"].into_iter().any(|suffix| holds(beside(path, suffix)))
}

/// A copy of a file that nobody writes, which may be changed.
fn in_memory(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let file = Connection::open_with_flags(format!("file:{}?immutable=1", encoded(path)), flags)?;
    let mut copy = Connection::open_in_memory()?;
    Backup::new(&file, &mut copy)?.run_to_completion(COPIED_AT_ONCE, Duration::ZERO, None)?;
    Ok(copy)
}

/// A path as it is in a URI.
fn encoded(path: &Path) -> String {
    let mut uri = String::new();
    for &byte in path.as_os_str().as_encoded_bytes() {
        // Into a string, which takes all.
        let _ = match byte {
            b'.' | b'-' | b'_' => uri.write_char(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.write_char(char::from(byte)),
            _ => write!(uri, "%{byte:02X}"),
        };
    }
    uri
}

fn existing(path: &Path, layout: Layout, how: &str) -> Result<Option<Connection>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(OpenError::Open)?;
    connection.busy_timeout(BUSY).map_err(OpenError::Use)?;
    connection.execute_batch(how).map_err(OpenError::Use)?;
    let found = version(&connection, layout)?;
    Ok((found != 0).then_some(connection))
}

fn version(connection: &Connection, layout: Layout) -> Result<i64, OpenError> {
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(OpenError::Use)?;
    if found > layout.version { Err(OpenError::TooNew { found }) } else { Ok(found) }
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

/// Whether there is no room for what was to be written, or for one more file beside one that is open, or the disk fails:
/// what can be read can be read all the same.
#[must_use]
pub fn is_want_of_room(error: &rusqlite::Error) -> bool {
    is_want_of_room_to_open(error) || is_lack_of_files(error)
}

/// The same of a file that could not even be opened: one that is missing, or closed to this user, wants no room.
#[must_use]
pub fn is_want_of_room_to_open(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// Whether, of a file that is open, no other can be made beside it. Where its folder is closed to this user, SQLite says
/// something else: that all is read-only.
fn is_lack_of_files(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen))
}

/// Whether it is for what was to be written, and for nothing else: the same is never written, and others can be.
#[must_use]
pub fn is_of_row(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig
        ),
        None => matches!(error, rusqlite::Error::ToSqlConversionFailure(_)),
    }
}

/// Whether the same may succeed later, when somebody has made room or has let go of the file.
#[must_use]
pub fn is_passing(error: &rusqlite::Error) -> bool {
    let is_in_the_way = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
        )
    );
    is_in_the_way || is_want_of_room(error)
}

/// Gives room back that deleted rows had, and keeps the write-ahead log from growing for ever: false where it is too
/// large, because another program has been reading the file for long, and nothing should be written before that ends.
///
/// # Errors
/// The file cannot be written.
pub fn tidy(connection: &Connection, path: &Path) -> rusqlite::Result<bool> {
    let size = || std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    if size() <= LOG_KEPT {
        return match shrink(connection) {
            // It takes room to give more back.
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(true),
        };
    }
    // Whoever reads is not waited for.
    connection.busy_timeout(Duration::ZERO)?;
    let cut = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(BUSY)?;
    match cut {
        Err(error) if !is_passing(&error) => Err(error),
        _ => Ok(size() <= LOG_MOST),
    }
}

fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    if free <= SPARE_PAGES {
        return Ok(());
    }
    // It gives back one page a step.
    let over = free - SPARE_PAGES;
    let mut pages = connection.prepare(&format!("PRAGMA incremental_vacuum({over})"))?;
    let mut pages = pages.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

/// Rewrites a file that can give no page back, as those of an earlier rbee, where that is worth it.
fn make_shrinkable(connection: &Connection) -> rusqlite::Result<()> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    if number("PRAGMA auto_vacuum")? != 0 || number("PRAGMA freelist_count")? <= SPARE_PAGES {
        return Ok(());
    }
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
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

/// What an operator can do about a file with the version of a later rbee, as the rest of a sentence that has named it.
/// Which of the two it is cannot be seen: a number is damaged as easily as it is raised.
#[must_use]
pub fn advice_too_new(path: &Path, known: i64) -> String {
    format!(
        "; use the later rbee, or move the file away. If there was no later one, the number is damaged: \
         `sqlite3 {} 'PRAGMA user_version = {known}'` mends it",
        path.display()
    )
}

/// Gives a damaged file another name, with what SQLite keeps beside it, so that another one can be made
/// in its place; tells the name.
///
/// # Errors
/// It cannot be renamed.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1_u32..).map(|number| beside(path, &format!(".damaged-{number}")));
    let kept = names.take(1000).find(|name| !name.exists());
    let kept = kept.unwrap_or_else(|| beside(path, ".damaged"));
    std::fs::rename(path, &kept)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(beside(path, suffix), beside(&kept, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
}

/// The name of what lies beside a file: its own with something after it, such as `-wal`.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = {LOG_KEPT};"
    ))
}

/// Makes the file readable for its owner alone. Where that fails, opening it tells why.
fn create_private(path: &Path) {
    // Whoever closes a file loses the locks that other connections of this process have on it.
    if path.exists() {
        return;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).ok();
}
