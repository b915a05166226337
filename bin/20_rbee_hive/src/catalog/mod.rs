//! The models on this machine's disk: each a file `models/<sha256>.gguf`, or the parts of a split one
//! in a folder `models/<sha256>/`, and a row in SQLite. What a model sees images with lies beside it.
//!
//! A model is pinned by its SHA-256 when it is added, and its file is refused at load if its bytes
//! are others by then. Several names may stand for the same file. Reading the list touches no disk;
//! whatever does is blocking and belongs on a blocking thread. A table that is lost or damaged is made
//! again from what lies beside the files.
//!
//! What a GGUF file contains is none of the catalog's business: the worker reads it.

mod alias;
mod candidate;
mod change;
mod check;
mod copy;
mod error;
mod files;
pub(crate) mod foreign;
mod garbage;
mod open;
mod projector;
pub(crate) mod shard;
mod staged;
mod store;
mod unfinished;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_contract::{ModelAlias, ModelEntry, Sha256Digest};

pub(crate) use self::alias::{from_file_name, quantization_in};
pub(crate) use self::candidate::{Candidate, Sharing, free_space};
pub(crate) use self::change::Imported;
pub(crate) use self::check::Verified;
pub(crate) use self::copy::{Watcher, hex_digest, hex_digest_of};
pub(crate) use self::error::CatalogError;
pub(crate) use self::projector::Over;
pub(crate) use self::staged::{Place, Staged, StagedFile, digest_of};
pub(crate) use self::store::StoreError;
pub(crate) use self::unfinished::Noted;
pub(crate) use self::usage::{BeingRemoved, InUse, ModelUsage};

use self::store::{Pinned, Store};

/// How many similar names an error lists.
const NEAREST: usize = 3;
/// The folder of what is being downloaded, among the models.
const PARTIAL: &str = "partial";

/// The catalog of one hive.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: PathBuf,
    /// What readers see; always equal to the table.
    view: Mutex<Arc<BTreeMap<ModelAlias, Pinned>>>,
    /// Locked for a whole change: row, file and view.
    store: Mutex<Store>,
    running: unfinished::Running,
}

impl Catalog {
    /// All models, by name.
    pub(crate) fn list(&self) -> Vec<ModelEntry> {
        self.view().values().map(|pinned| pinned.entry.clone()).collect()
    }

    /// One model.
    pub(crate) fn get(&self, alias: &ModelAlias) -> Result<ModelEntry, CatalogError> {
        self.pinned(alias).map(|pinned| pinned.entry)
    }

    /// A model with these bytes, under any name.
    pub(crate) fn with_digest(&self, digest: &Sha256Digest) -> Option<ModelEntry> {
        let view = self.view();
        let mut found = view.values().filter(|pinned| pinned.entry.sha256 == *digest);
        found.next().map(|pinned| pinned.entry.clone())
    }

    /// All names of these bytes.
    pub(crate) fn names_of(&self, digest: &Sha256Digest) -> Vec<ModelAlias> {
        let view = self.view();
        let names = view.values().filter(|pinned| pinned.entry.sha256 == *digest);
        names.map(|pinned| pinned.entry.alias.clone()).collect()
    }

    /// Where a file with these bytes is: that of a model, a part of one, or what one sees with.
    pub(crate) fn file_with(&self, digest: &Sha256Digest) -> Option<PathBuf> {
        let view = self.view();
        view.values().find_map(|pinned| {
            let entry = &pinned.entry;
            if entry.projector.as_ref().is_some_and(|projector| projector.sha256 == *digest) {
                return Some(files::projector(&self.models, &entry.sha256));
            }
            let part = entry.shards.iter().position(|shard| shard.sha256 == *digest);
            let index =
                part.or_else(|| (entry.shards.is_empty() && entry.sha256 == *digest).then_some(0))?;
            self.files_of(entry).into_iter().nth(index)
        })
    }

    /// Where unfinished downloads lie: on the disk of the models, so that they can be renamed.
    pub(crate) fn partial(&self) -> PathBuf {
        self.models.join(PARTIAL)
    }

    /// Where a model's file is, or its first part. Nobody has looked at it.
    pub(crate) fn first_file(&self, entry: &ModelEntry) -> PathBuf {
        self.files_of(entry).swap_remove(0)
    }

    fn pinned(&self, alias: &ModelAlias) -> Result<Pinned, CatalogError> {
        let view = self.view();
        view.get(alias).cloned().ok_or_else(|| CatalogError::Unknown {
            alias: alias.clone(),
            nearest: nearest(alias, view.keys()),
        })
    }

    fn files_of(&self, entry: &ModelEntry) -> Vec<PathBuf> {
        files::of(&self.models, &entry.sha256, entry.shards.len())
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

    /// Writes the names of a file down beside it.
    fn label(&self, digest: &Sha256Digest) {
        let view = self.view();
        let names = view.values().filter(|pinned| pinned.entry.sha256 == *digest);
        files::label(&self.models, digest, names.map(|pinned| pinned.entry.clone()).collect());
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
