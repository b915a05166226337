//! The catalog's table in SQLite (`hive.db`, table `models`), which an operator can open.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use worker_contract::{
    GgufSummary, ModelAlias, ModelEntry, ModelProjector, ModelShard, Sha256Digest,
};

/// The version of the table's layout, in `PRAGMA user_version`.
const LAYOUT: i64 = 3;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS models (
    alias      TEXT PRIMARY KEY,
    sha256     TEXT NOT NULL,     -- the pinned digest; the file is models/<sha256>.gguf
    source     TEXT NOT NULL,     -- where the model came from, as the user gave it
    added_at   INTEGER NOT NULL,  -- seconds since the Unix epoch
    gguf       TEXT NOT NULL,     -- what the file says of itself, as JSON
    files      TEXT NOT NULL,     -- its file, or its parts in their order, as JSON: digest, size,
                                  -- times of change and inode when the digest was last computed
    projector  TEXT               -- the same of the file that it sees images with, if it does
) STRICT;";

/// From the first layout: one file a model, its stamp in columns of its own.
const FROM_1: &str = "
BEGIN;
ALTER TABLE models ADD COLUMN files TEXT NOT NULL DEFAULT '[]';
UPDATE models SET files =
    json_array(json_object('sha256', sha256, 'bytes', file_bytes, 'mtime', file_mtime));
ALTER TABLE models DROP COLUMN file_bytes;
ALTER TABLE models DROP COLUMN file_mtime;
PRAGMA user_version = 2;
COMMIT;";

/// From the second layout: no model sees.
const FROM_2: &str = "
BEGIN;
ALTER TABLE models ADD COLUMN projector TEXT;
PRAGMA user_version = 3;
COMMIT;";

/// What is being downloaded, so that a hive that is killed can go on with it.
const CREATE_DOWNLOADS: &str = "
CREATE TABLE IF NOT EXISTS downloads (
    operation  TEXT PRIMARY KEY   -- what was asked for, as JSON
) STRICT;
CREATE TABLE IF NOT EXISTS download_parts (
    operation  TEXT NOT NULL,
    part       TEXT NOT NULL,     -- an unfinished file that it needs: partial/<part>.part
    PRIMARY KEY (operation, part)
) STRICT;";

/// What is known beside the models.
const CREATE_NOTES: &str = "
CREATE TABLE IF NOT EXISTS notes (
    name   TEXT PRIMARY KEY,      -- what it is about
    value  TEXT NOT NULL
) STRICT;";

/// What there is where a damaged file was moved away.
const ANEW: &str = "one that is made again from the model files";

/// The name of the note which program was last asked what the models can do.
const KINDS_TOLD_BY: &str = "kinds_told_by";

/// The time of change of a file that was never looked at since it got into the table.
const NEVER: i64 = -1;

/// What tells a changed file from an unchanged one. Programs that copy files set the time of change to that
/// of the original; the times that the file system itself keeps they cannot set. It sets them as well when the
/// file gets or loses a name, as models do that share one: where the number of names is another, only the rest
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    /// When its bytes were changed, as its owner says; in nanoseconds since the Unix epoch.
    mtime: i64,
    /// When anything of it was changed, as the file system says. A row without one has its file looked at
    /// once.
    #[serde(default = "never")]
    ctime: i64,
    #[serde(default)]
    inode: u64,
    /// How many names it has; 0 where nobody has counted them.
    #[serde(default)]
    names: u64,
}

/// One file: as long as its stamp stays, its digest is not computed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PinnedFile {
    pub(super) sha256: Sha256Digest,
    #[serde(flatten)]
    pub(super) stamp: Stamp,
}

/// A row: the entry, and its files as they were when their digests were last computed.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub(super) entry: ModelEntry,
    pub(super) files: Vec<PinnedFile>,
    pub(super) projector: Option<PinnedProjector>,
}

/// What a model sees with, as it was when its digest was last computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PinnedProjector {
    #[serde(flatten)]
    pub(super) file: PinnedFile,
    pub(super) source: String,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            bytes: metadata.len(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            names: metadata.nlink(),
        }
    }

    /// Whether a file that had this stamp and has that one now has the bytes that it had.
    pub(super) fn is_of_the_same_bytes_as(&self, now: &Self) -> bool {
        let by_names = self.names > 0 && self.names != now.names;
        (self.bytes, self.mtime, self.inode) == (now.bytes, now.mtime, now.inode)
            && (self.ctime == now.ctime || by_names)
    }

    /// That of a file that nobody has looked at.
    fn unseen(bytes: u64) -> Self {
        Self { bytes, mtime: NEVER, ctime: NEVER, inode: 0, names: 0 }
    }
}

impl Pinned {
    /// A row for files whose digests are to be computed before they are used.
    pub(super) fn unchecked(entry: ModelEntry) -> Self {
        let file = |sha256: &Sha256Digest, bytes| PinnedFile {
            sha256: sha256.clone(),
            stamp: Stamp::unseen(bytes),
        };
        let files = match entry.shards.as_slice() {
            [] => vec![file(&entry.sha256, entry.gguf.size_bytes)],
            shards => shards.iter().map(|shard| file(&shard.sha256, shard.size_bytes)).collect(),
        };
        let projector = entry.projector.as_ref().map(|found| PinnedProjector {
            file: file(&found.sha256, found.size_bytes),
            source: found.source.clone(),
        });
        Self { entry, files, projector }
    }

    /// The same with another projector.
    pub(super) fn with_projector(mut self, projector: Option<PinnedProjector>) -> Self {
        self.entry.projector = projector.as_ref().map(PinnedProjector::shown);
        self.projector = projector;
        self
    }
}

impl PinnedProjector {
    fn shown(&self) -> ModelProjector {
        let PinnedFile { sha256, stamp } = self.file.clone();
        ModelProjector { sha256, size_bytes: stamp.bytes, source: self.source.clone() }
    }
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
    /// The damaged file cannot be renamed.
    #[error("the damaged file cannot be kept aside")]
    SetAside(#[source] std::io::Error),
    /// A row is not what this program writes.
    #[error("the row of model {alias:?} is not readable: {reason}")]
    Row {
        /// Which row.
        alias: String,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// What an operator can do about it, as the rest of a sentence that has named the file.
    pub(crate) fn advice(&self, file: &Path) -> String {
        match self {
            Self::Sqlite(error) => sqlite_file::advice(error, ANEW),
            Self::Damaged(_) | Self::SetAside(_) | Self::Row { .. } => {
                format!("; move it away to begin with {ANEW}")
            }
            Self::Layout { .. } => sqlite_file::advice_too_new(file, LAYOUT),
        }
    }

    /// Whether the file holds nothing that can be used, whoever reads it.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => sqlite_file::is_damage(error),
            Self::Damaged(_) | Self::Row { .. } => true,
            Self::Layout { .. } | Self::SetAside(_) => false,
        }
    }
}

/// The open table.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    /// Whether the file had nothing in it, or less than a whole catalog, when it was opened.
    was_empty: bool,
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
        match found {
            1 => connection.execute_batch(&[FROM_1, FROM_2].concat())?,
            2 => connection.execute_batch(FROM_2)?,
            _ => connection.execute_batch(CREATE)?,
        }
        connection.execute_batch(CREATE_DOWNLOADS)?;
        connection.execute_batch(CREATE_NOTES)?;
        Ok(Self { connection, was_empty: found == 0 })
    }

    /// Whether nobody has said of the file that it is [whole](Self::mark_whole).
    pub(super) fn was_empty(&self) -> bool {
        self.was_empty
    }

    /// Says, by the version, that all models are in the file which lie in the folder. Until then they are looked for
    /// at each opening: a disk may have become full halfway.
    pub(super) fn mark_whole(&mut self) -> Result<(), StoreError> {
        self.connection.pragma_update(None, "user_version", LAYOUT)?;
        self.was_empty = false;
        Ok(())
    }

    pub(super) fn all(&self) -> Result<Vec<Pinned>, StoreError> {
        let mut select = self.connection.prepare("SELECT * FROM models ORDER BY alias")?;
        let rows = select.query_map([], |row| Ok(read(row)))?;
        rows.map(|row| row?).collect()
    }

    /// Writes a row; one that the name has already is replaced.
    pub(super) fn put(&self, pinned: &Pinned) -> Result<(), StoreError> {
        let Pinned { entry, files, projector } = pinned;
        let gguf = serde_json::to_string(&entry.gguf).expect("a summary is plain data");
        let added_at = i64::try_from(entry.added_at).unwrap_or(i64::MAX);
        self.connection.execute(
            "INSERT OR REPLACE INTO models (alias, sha256, source, added_at, gguf, files, projector)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                entry.alias.as_str(),
                entry.sha256.as_hex(),
                entry.source,
                added_at,
                gguf,
                json(files),
                projector.as_ref().map(json),
            ],
        )?;
        Ok(())
    }

    pub(super) fn set_files(
        &self,
        digest: &Sha256Digest,
        files: &[PinnedFile],
    ) -> Result<(), StoreError> {
        self.connection.execute(
            "UPDATE models SET files = ?2 WHERE sha256 = ?1",
            params![digest.as_hex(), json(files)],
        )?;
        Ok(())
    }

    pub(super) fn set_projector(
        &self,
        digest: &Sha256Digest,
        projector: Option<&PinnedProjector>,
    ) -> Result<(), StoreError> {
        self.connection.execute(
            "UPDATE models SET projector = ?2 WHERE sha256 = ?1",
            params![digest.as_hex(), projector.map(json)],
        )?;
        Ok(())
    }

    pub(super) fn kinds_told_by(&self) -> Result<Option<String>, StoreError> {
        let select = "SELECT value FROM notes WHERE name = ?1";
        let found = self.connection.query_row(select, [KINDS_TOLD_BY], |row| row.get(0));
        Ok(found.optional()?)
    }

    pub(super) fn set_kinds_told_by(&self, program: &str) -> Result<(), StoreError> {
        let insert = "INSERT OR REPLACE INTO notes (name, value) VALUES (?1, ?2)";
        self.connection.execute(insert, [KINDS_TOLD_BY, program])?;
        Ok(())
    }

    pub(super) fn begin_download(&self, operation: &str) -> Result<(), StoreError> {
        let insert = "INSERT OR IGNORE INTO downloads (operation) VALUES (?1)";
        self.connection.execute(insert, [operation])?;
        Ok(())
    }

    pub(super) fn end_download(&self, operation: &str) -> Result<(), StoreError> {
        self.connection.execute("DELETE FROM downloads WHERE operation = ?1", [operation])?;
        self.connection.execute("DELETE FROM download_parts WHERE operation = ?1", [operation])?;
        Ok(())
    }

    pub(super) fn note_parts(&self, operation: &str, parts: &[String]) -> Result<(), StoreError> {
        let insert = "INSERT OR IGNORE INTO download_parts (operation, part) VALUES (?1, ?2)";
        let mut insert = self.connection.prepare(insert)?;
        for part in parts {
            insert.execute([operation, part])?;
        }
        Ok(())
    }

    pub(super) fn parts_of(&self, operation: &str) -> Result<Vec<String>, StoreError> {
        let select = "SELECT part FROM download_parts WHERE operation = ?1";
        let mut select = self.connection.prepare(select)?;
        let found = select.query_map([operation], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    pub(super) fn downloads(&self) -> Result<Vec<String>, StoreError> {
        let mut select = self.connection.prepare("SELECT operation FROM downloads")?;
        let found = select.query_map([], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
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
    let files: String = row.get("files")?;
    let files: Vec<PinnedFile> =
        serde_json::from_str(&files).map_err(|e| unreadable(e.to_string()))?;
    let projector: Option<String> = row.get("projector")?;
    let projector: Option<PinnedProjector> = projector
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|e| unreadable(e.to_string()))?;
    let shard = |file: &PinnedFile| ModelShard {
        sha256: file.sha256.clone(),
        size_bytes: file.stamp.bytes,
    };
    let entry = ModelEntry {
        alias: alias.parse().map_err(|e| unreadable(format!("{e}")))?,
        sha256: sha256.parse().map_err(unreadable)?,
        source: row.get("source")?,
        added_at: u64::try_from(added_at).unwrap_or(0),
        shards: if files.len() < 2 { Vec::new() } else { files.iter().map(shard).collect() },
        projector: projector.as_ref().map(PinnedProjector::shown),
        gguf,
    };
    Ok(Pinned { entry, files, projector })
}

fn never() -> i64 {
    NEVER
}

fn json(files: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(files).expect("files are plain data")
}
