//! The file `tokens.db`: made whole or not at all, opened for as long as it is used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use sqlite_file::{Layout, OpenError};

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

/// What the name of its write-ahead log has more.
const LOG: &str = "-wal";

/// Where it is.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("tokens.db")
}

/// Its write-ahead log.
pub(crate) fn log(database: &Path) -> PathBuf {
    beside(database, LOG)
}

/// Whether a file is such a log.
pub(crate) fn is_log(path: &Path) -> bool {
    path.to_string_lossy().ends_with(LOG)
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
    let opened = match sqlite_file::open_existing(&path, LAYOUT) {
        Err(error) if error.is_want_of_room() => sqlite_file::look(&path, LAYOUT),
        opened => opened,
    };
    // It is made whole, so that one without a table is damaged.
    let connection = opened.map_err(|e| unusable(&path, e))?;
    let connection = connection.ok_or_else(|| TokenError::Empty { path: path.clone() })?;
    rows(&connection).map(Some).map_err(|source| TokenError::Database { path, source })
}

/// Replaces all tokens. What is written outlives a power cut: a token is shown only once.
pub(crate) fn write(folder: &Path, tokens: &[StoredToken]) -> Result<(), TokenError> {
    let path = file(folder);
    if path.exists() {
        return put(&path, tokens);
    }
    let fresh = beside(&path, ".new");
    let failed = |source| TokenError::File { path: path.clone(), source };
    // What a crash has left, and what belonged to a file that was taken away.
    for left in [fresh.clone(), beside(&fresh, LOG), beside(&fresh, "-shm")] {
        remove(&left).map_err(failed)?;
    }
    for left in [log(&path), beside(&path, "-shm")] {
        remove(&left).map_err(failed)?;
    }
    put(&fresh, tokens)?;
    fs::rename(&fresh, &path).and_then(|()| sync_folder(folder)).map_err(failed)
}

/// All is in the file itself afterwards, so that it can be renamed.
fn put(path: &Path, tokens: &[StoredToken]) -> Result<(), TokenError> {
    let failed = |source| TokenError::Database { path: path.to_owned(), source };
    let mut connection = sqlite_file::open(path, LAYOUT).map_err(|e| unusable(path, e))?;
    replace(&mut connection, tokens).map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))
}

fn replace(connection: &mut Connection, tokens: &[StoredToken]) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    let change = connection.transaction()?;
    change.execute("DELETE FROM tokens", [])?;
    for StoredToken { info, sha256 } in tokens {
        change.execute(
            "INSERT INTO tokens (id, name, fingerprint, created_at, sha256)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![info.id, info.name, info.fingerprint, info.created_at, sha256.to_hex()],
        )?;
    }
    change.commit()?;
    // Where somebody reads, it happens when that has ended.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
