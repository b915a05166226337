//! The file `tokens.db`: made whole or not at all, opened for as long as it is used.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use sqlite_file::{Layout, OpenError, beside};

use crate::TokenError;
use crate::digest::SecretDigest;
use crate::file::sync_folder;
use crate::store::{MAX_TOKENS, StoredToken, TokenInfo};

const LAYOUT: Layout = Layout { version: 1, tables: TABLE };
const TABLE: &str = "
    CREATE TABLE tokens (
        number      INTEGER PRIMARY KEY,
        id          TEXT NOT NULL,
        name        TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        created_at  TEXT NOT NULL,
        sha256      TEXT NOT NULL  -- of the secret, which is kept nowhere
    );
";

/// The coarsest clock of a file system.
const TICK: Duration = Duration::from_secs(2);

/// Where it is.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("tokens.db")
}

/// All tokens, the oldest first; `None` if there is no file. Needs no room on the disk.
pub(crate) fn read(folder: &Path) -> Result<Option<Vec<StoredToken>>, TokenError> {
    let path = file(folder);
    // A file of which it is not known whether it is there is none that is missing.
    match fs::metadata(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokenError::File { path, source }),
    }
    let opened = sqlite_file::open_existing(&path, LAYOUT);
    // It is made whole, so that one without a table is damaged.
    let connection = opened.map_err(|e| unusable(&path, e))?;
    let connection = connection.ok_or_else(|| TokenError::Empty { path: path.clone() })?;
    rows(&connection).map(Some).map_err(|source| TokenError::Database { path, source })
}

/// Replaces all tokens: by another file, which is on the disk before it has the name of this one. So all readers see
/// either the one or the other, and what fails has not been done. What is written outlives a power cut: a token is shown
/// only once. Otherwise it counts all the same, and why a power cut may undo it is given. The folder must be locked.
pub(crate) fn write(
    folder: &Path,
    tokens: &[StoredToken],
) -> Result<Option<io::Error>, TokenError> {
    let path = file(folder);
    let fresh = beside(&path, ".new");
    let made = make(&fresh, &path, tokens).and_then(|()| {
        // What lies beside it would be taken as part of the next one.
        remove_beside(&path)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| TokenError::File { path: path.clone(), source })
    });
    if let Err(error) = made {
        // Room may be what is missing; what stays is removed before the next change.
        remove_all(&fresh).ok();
        return Err(error);
    }
    Ok(sync_folder(folder).err())
}

/// Makes the whole file under another name.
fn make(fresh: &Path, path: &Path, tokens: &[StoredToken]) -> Result<(), TokenError> {
    let failed = |source| TokenError::File { path: fresh.to_owned(), source };
    // What a crash has left.
    remove_all(fresh).map_err(failed)?;
    put(fresh, tokens)?;
    finish(fresh, path).map_err(failed)
}

/// All is in the file itself afterwards, so that it can be renamed.
fn put(path: &Path, tokens: &[StoredToken]) -> Result<(), TokenError> {
    let failed = |source| TokenError::Database { path: path.to_owned(), source };
    let mut connection = sqlite_file::open(path, LAYOUT).map_err(|e| unusable(path, e))?;
    fill(&mut connection, tokens).and_then(|()| end_log(&connection)).map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))
}

/// Puts a file on the disk, with a time that no earlier one had: they may have the same length and, as numbers are used
/// again, the same number, and there are file systems whose clock ticks once in two seconds.
fn finish(fresh: &Path, path: &Path) -> io::Result<()> {
    let mut time = SystemTime::now();
    if let Ok(earlier) = fs::metadata(path) {
        let earlier = earlier.modified()?;
        time = time.max(earlier.checked_add(TICK).unwrap_or(earlier));
    }
    let file = File::options().write(true).open(fresh)?;
    file.set_modified(time)?;
    file.sync_all()
}

fn fill(connection: &mut Connection, tokens: &[StoredToken]) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    let change = connection.transaction()?;
    for StoredToken { info, sha256 } in tokens {
        change.execute(
            "INSERT INTO tokens (id, name, fingerprint, created_at, sha256)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![info.id, info.name, info.fingerprint, info.created_at, sha256.to_hex()],
        )?;
    }
    change.commit()
}

/// From then on whoever opens the file makes none beside it.
fn end_log(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String =
        connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    if mode == "delete" {
        return Ok(());
    }
    let in_use = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(in_use, None))
}

fn rows(connection: &Connection) -> rusqlite::Result<Vec<StoredToken>> {
    let mut select = connection.prepare(
        "SELECT id, name, fingerprint, created_at, sha256 FROM tokens ORDER BY number LIMIT ?1",
    )?;
    // Earlier files may have brought more than can be made.
    let most = i64::try_from(2 * MAX_TOKENS).unwrap_or(i64::MAX);
    select.query_map([most], token)?.collect()
}

fn token(row: &Row<'_>) -> rusqlite::Result<StoredToken> {
    let info = TokenInfo {
        id: row.get(0)?,
        name: row.get(1)?,
        fingerprint: row.get(2)?,
        created_at: row.get(3)?,
    };
    let wrong =
        |reason: &str| rusqlite::Error::FromSqlConversionFailure(4, Type::Text, reason.into());
    let sha256 = SecretDigest::try_from(row.get::<_, String>(4)?).map_err(wrong)?;
    Ok(StoredToken { info, sha256 })
}

fn unusable(path: &Path, error: OpenError) -> TokenError {
    let path = path.to_owned();
    match error {
        OpenError::Open(source) | OpenError::Use(source) => TokenError::Database { path, source },
        OpenError::TooNew { found } => TokenError::TooNew { path, found, known: LAYOUT.version },
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    remove(path)?;
    remove_beside(path)
}

fn remove_beside(path: &Path) -> io::Result<()> {
    ["-wal", "-shm", "-journal"].into_iter().try_for_each(|suffix| remove(&beside(path, suffix)))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
