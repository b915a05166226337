//! The models on this machine's disk: each a file `models/<sha256>.gguf` and a row in SQLite.
//!
//! A model is pinned by its SHA-256 when it is added, and its file is refused at load if its bytes
//! are others by then. Several names may stand for the same file. Reading the list touches no disk;
//! whatever does is blocking and belongs on a blocking thread.
//!
//! What a GGUF file contains is none of the catalog's business: the worker reads it.

mod alias;
mod candidate;
mod copy;
mod error;
mod store;
mod usage;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;
use worker_contract::{GgufSummary, ModelAlias, ModelEntry, Sha256Digest};

pub(crate) use self::candidate::Candidate;
pub(crate) use self::copy::Watcher;
pub(crate) use self::error::CatalogError;
pub(crate) use self::store::StoreError;
pub(crate) use self::usage::{InUse, ModelUsage};

use self::candidate::{Copied, PARTIAL_PREFIX, stamp};
use self::store::{FileStamp, Pinned, Store};

/// How many similar names an error lists.
const NEAREST: usize = 3;

/// The catalog of one hive.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: PathBuf,
    /// What readers see; always equal to the table.
    view: Mutex<Arc<BTreeMap<ModelAlias, Pinned>>>,
    /// Locked for a whole change: row, file and view.
    store: Mutex<Store>,
}

/// What came of an import.
#[derive(Debug)]
pub(crate) enum Imported {
    /// The model is in the catalog.
    Added(ModelEntry),
    /// It already was, under this very name.
    AlreadyThere(ModelEntry),
}

/// What came of computing a digest again.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) pinned: Sha256Digest,
    pub(crate) actual: Sha256Digest,
}

impl Catalog {
    /// Opens the catalog, and removes the unfinished copies of a hive that was killed.
    pub(crate) fn open(database: &Path, models: &Path) -> Result<Self, StoreError> {
        let store = Store::open(database)?;
        let view = store.all()?.into_iter().map(|pinned| (pinned.entry.alias.clone(), pinned));
        let view = Mutex::new(Arc::new(view.collect()));
        remove_partial_copies(models);
        Ok(Self { models: models.into(), view, store: Mutex::new(store) })
    }

    /// All models, by name.
    pub(crate) fn list(&self) -> Vec<ModelEntry> {
        self.view().values().map(|pinned| pinned.entry.clone()).collect()
    }

    /// One model.
    pub(crate) fn get(&self, alias: &ModelAlias) -> Result<ModelEntry, CatalogError> {
        self.pinned(alias).map(|pinned| pinned.entry)
    }

    /// Copies the file into the models folder and pins its digest. Blocking.
    ///
    /// The same file under the same name again is fine; another file under a used name is not.
    pub(crate) fn import(
        &self,
        mut candidate: Candidate,
        alias: ModelAlias,
        gguf: GgufSummary,
        watcher: &mut Watcher<'_>,
    ) -> Result<Imported, CatalogError> {
        if let Ok(pinned) = self.pinned(&alias) {
            let given = candidate.hash(watcher)?;
            let there = same_or_taken(pinned.entry, given)?;
            if self.checked_file(&alias, watcher).is_err() {
                self.restore(candidate, &there, watcher)?;
            }
            return Ok(Imported::AlreadyThere(there));
        }
        let copied = candidate.copy_into(&self.models, watcher)?;
        let entry = ModelEntry {
            alias,
            sha256: copied.sha256.clone(),
            source: candidate.path().display().to_string(),
            added_at: unix_now(),
            gguf,
        };
        self.add(entry, copied)
    }

    /// The file of a model, after a check that it is the one that was added. Blocking.
    ///
    /// The digest is computed again only if size or time of change differ from the last time.
    pub(crate) fn checked_file(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<PathBuf, CatalogError> {
        let pinned = self.pinned(alias)?;
        let path = self.file_of(&pinned.entry.sha256);
        let metadata = fs::metadata(&path);
        let metadata = metadata.map_err(|_| CatalogError::FileGone { alias: alias.clone() })?;
        if stamp(&metadata) == pinned.stamp {
            return Ok(path);
        }
        let Verified { pinned, actual } = self.verify(alias, watcher)?;
        if pinned == actual {
            return Ok(path);
        }
        Err(CatalogError::Changed { alias: alias.clone(), pinned, actual })
    }

    /// Computes the digest of a model's file. Blocking.
    pub(crate) fn verify(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<Verified, CatalogError> {
        let pinned = self.pinned(alias)?.entry.sha256;
        let mut file = File::open(self.file_of(&pinned))
            .map_err(|_| CatalogError::FileGone { alias: alias.clone() })?;
        let reading = |source| CatalogError::Io { doing: "the model file cannot be read", source };
        let before = stamp(&file.metadata().map_err(reading)?);
        let actual = copy::hash(&mut file, watcher).map_err(CatalogError::of_copy)?;
        if actual == pinned && stamp(&file.metadata().map_err(reading)?) == before {
            self.note_stamp(&self.store(), &actual, before)?;
        }
        Ok(Verified { pinned, actual })
    }

    /// Takes a model off the list, and its file off the disk unless another name stands for it.
    /// Blocking. The caller sees to it that no worker runs it.
    pub(crate) fn remove(&self, alias: &ModelAlias) -> Result<ModelEntry, CatalogError> {
        let store = self.store();
        let entry = self.get(alias)?;
        store.delete(alias)?;
        self.change_view(|view| {
            view.remove(alias);
        });
        if !self.has_digest(&entry.sha256) {
            let removed = fs::remove_file(self.file_of(&entry.sha256));
            if let Err(error) = removed.as_ref()
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(model = %alias, %error, "the file of a deleted model stays on disk");
            }
        }
        Ok(entry)
    }

    fn add(&self, entry: ModelEntry, copied: Copied) -> Result<Imported, CatalogError> {
        let store = self.store();
        if let Ok(pinned) = self.pinned(&entry.alias) {
            return same_or_taken(pinned.entry, entry.sha256).map(Imported::AlreadyThere);
        }
        let path = self.file_of(&entry.sha256);
        let is_first = !self.has_digest(&entry.sha256);
        // Also replaces a file that another name stands for: its bytes may have been tampered with.
        let stamp = put_in_place(copied.file, &path, &self.models)?;
        self.note_stamp(&store, &entry.sha256, stamp)?;
        let pinned = Pinned { entry: entry.clone(), stamp };
        if let Err(error) = store.insert(&pinned) {
            if is_first {
                let _ = fs::remove_file(&path);
            }
            return Err(error.into());
        }
        self.change_view(|view| {
            view.insert(entry.alias.clone(), pinned);
        });
        Ok(Imported::Added(entry))
    }

    /// Puts back the file of a model whose own is gone or was changed.
    fn restore(
        &self,
        mut candidate: Candidate,
        entry: &ModelEntry,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), CatalogError> {
        let copied = candidate.copy_into(&self.models, watcher)?;
        let store = self.store();
        let stamp = put_in_place(copied.file, &self.file_of(&copied.sha256), &self.models)?;
        self.note_stamp(&store, &entry.sha256, stamp)
    }

    /// Remembers the state of a file whose digest is known, for all names that stand for it.
    fn note_stamp(
        &self,
        store: &Store,
        digest: &Sha256Digest,
        stamp: FileStamp,
    ) -> Result<(), CatalogError> {
        store.set_stamp(digest, stamp)?;
        self.change_view(|view| {
            for pinned in view.values_mut().filter(|pinned| pinned.entry.sha256 == *digest) {
                pinned.stamp = stamp;
            }
        });
        Ok(())
    }

    fn pinned(&self, alias: &ModelAlias) -> Result<Pinned, CatalogError> {
        let view = self.view();
        view.get(alias).cloned().ok_or_else(|| CatalogError::Unknown {
            alias: alias.clone(),
            nearest: nearest(alias, view.keys()),
        })
    }

    fn has_digest(&self, digest: &Sha256Digest) -> bool {
        self.view().values().any(|pinned| pinned.entry.sha256 == *digest)
    }

    fn file_of(&self, digest: &Sha256Digest) -> PathBuf {
        self.models.join(format!("{digest}.gguf"))
    }

    fn view(&self) -> Arc<BTreeMap<ModelAlias, Pinned>> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_view(&self, change: impl FnOnce(&mut BTreeMap<ModelAlias, Pinned>)) {
        change(Arc::make_mut(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same_or_taken(there: ModelEntry, given: Sha256Digest) -> Result<ModelEntry, CatalogError> {
    if there.sha256 == given {
        return Ok(there);
    }
    Err(CatalogError::AliasTaken { alias: there.alias, pinned: there.sha256, given })
}

fn put_in_place(
    copy: NamedTempFile,
    path: &Path,
    models: &Path,
) -> Result<FileStamp, CatalogError> {
    let file = copy.persist(path).map_err(|error| CatalogError::of_write(error.error))?;
    // The name is durable only when its folder is.
    File::open(models).and_then(|folder| folder.sync_all()).map_err(CatalogError::of_write)?;
    Ok(stamp(&file.metadata().map_err(CatalogError::of_write)?))
}

fn remove_partial_copies(models: &Path) {
    let Ok(files) = fs::read_dir(models) else {
        return;
    };
    for file in files.flatten() {
        if file.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
            tracing::info!(file = ?file.file_name(), "removing an unfinished copy");
            let _ = fs::remove_file(file.path());
        }
    }
}

fn nearest<'a>(alias: &ModelAlias, known: impl Iterator<Item = &'a ModelAlias>) -> Vec<ModelAlias> {
    let mut known: Vec<&ModelAlias> = known.collect();
    known.sort_by(|a, b| {
        let similarity = |other: &ModelAlias| strsim::jaro_winkler(alias.as_str(), other.as_str());
        similarity(b).total_cmp(&similarity(a))
    });
    known.into_iter().take(NEAREST).cloned().collect()
}

fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
