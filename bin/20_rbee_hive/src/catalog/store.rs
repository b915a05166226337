//! The catalog's table in SQLite (`hive.db`, table `models`), which an operator can open.

use std::path::Path;

use rusqlite::{Connection, Row, params};
use worker_contract::{GgufSummary, ModelAlias, ModelEntry, Sha256Digest};

/// The version of the table's layout, in `PRAGMA user_version`.
const LAYOUT: i64 = 1;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS models (
    alias      TEXT PRIMARY KEY,
    sha256     TEXT NOT NULL,     -- the pinned digest; the file is models/<sha256>.gguf
    source     TEXT NOT NULL,     -- where the model came from, as the user gave it
    added_at   INTEGER NOT NULL,  -- seconds since the Unix epoch
    gguf       TEXT NOT NULL,     -- what the file says of itself, as JSON
    file_bytes INTEGER NOT NULL,  -- the file's size when its digest was last computed
    file_mtime INTEGER NOT NULL   -- and its time of change, in nanoseconds since the Unix epoch
) STRICT;";

/// Size and time of change of a file: as long as both stay, its digest is not computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    /// In bytes.
    pub(super) bytes: i64,
    /// In nanoseconds since the Unix epoch.
    pub(super) mtime: i64,
}

/// A row: the entry, and the file as it was when its digest was last computed.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub(super) entry: ModelEntry,
    pub(super) stamp: FileStamp,
}

/// The table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A check of the file found damage.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// The file is of a later rbee.
    #[error("its layout is version {found}, this rbee knows up to {LAYOUT}")]
    Layout {
        /// The version in the file.
        found: i64,
    },
    /// A row is not what this program writes.
    #[error("the row of model {alias:?} is not readable: {reason}")]
    Row {
        /// Which row.
        alias: String,
        /// What is wrong.
        reason: String,
    },
}

/// The open table.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
}

impl Store {
    pub(super) fn open(file: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(StoreError::Damaged(check));
        }
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > LAYOUT {
            return Err(StoreError::Layout { found });
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(CREATE)?;
        connection.pragma_update(None, "user_version", LAYOUT)?;
        Ok(Self { connection })
    }

    pub(super) fn all(&self) -> Result<Vec<Pinned>, StoreError> {
        let mut select = self.connection.prepare("SELECT * FROM models ORDER BY alias")?;
        let rows = select.query_map([], |row| Ok(read(row)))?;
        rows.map(|row| row?).collect()
    }

    pub(super) fn insert(&self, pinned: &Pinned) -> Result<(), StoreError> {
        let Pinned { entry, stamp } = pinned;
        let gguf = serde_json::to_string(&entry.gguf).expect("a summary is plain data");
        let added_at = i64::try_from(entry.added_at).unwrap_or(i64::MAX);
        self.connection.execute(
            "INSERT INTO models (alias, sha256, source, added_at, gguf, file_bytes, file_mtime)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                entry.alias.as_str(),
                entry.sha256.as_hex(),
                entry.source,
                added_at,
                gguf,
                stamp.bytes,
                stamp.mtime
            ],
        )?;
        Ok(())
    }

    pub(super) fn set_stamp(
        &self,
        digest: &Sha256Digest,
        stamp: FileStamp,
    ) -> Result<(), StoreError> {
        self.connection.execute(
            "UPDATE models SET file_bytes = ?2, file_mtime = ?3 WHERE sha256 = ?1",
            params![digest.as_hex(), stamp.bytes, stamp.mtime],
        )?;
        Ok(())
    }

    pub(super) fn delete(&self, alias: &ModelAlias) -> Result<(), StoreError> {
        self.connection.execute("DELETE FROM models WHERE alias = ?1", [alias.as_str()])?;
        Ok(())
    }
}

fn read(row: &Row<'_>) -> Result<Pinned, StoreError> {
    let alias: String = row.get("alias")?;
    let unreadable = |reason: String| StoreError::Row { alias: alias.clone(), reason };
    let sha256: String = row.get("sha256")?;
    let added_at: i64 = row.get("added_at")?;
    let gguf: String = row.get("gguf")?;
    let gguf: GgufSummary = serde_json::from_str(&gguf).map_err(|e| unreadable(e.to_string()))?;
    let entry = ModelEntry {
        alias: alias.parse().map_err(|e| unreadable(format!("{e}")))?,
        sha256: sha256.parse().map_err(unreadable)?,
        source: row.get("source")?,
        added_at: u64::try_from(added_at).unwrap_or(0),
        gguf,
    };
    let stamp = FileStamp { bytes: row.get("file_bytes")?, mtime: row.get("file_mtime")? };
    Ok(Pinned { entry, stamp })
}
