//! Adding, naming, replacing and removing models: row, files, label and view together.

use std::fs;
use std::path::PathBuf;

use worker_contract::{GgufSummary, ModelAlias, ModelEntry, ModelKind, Sha256Digest};

use super::candidate::{Candidate, Sharing};
use super::copy::Watcher;
use super::staged::{Staged, StagedFile, digest_of};
use super::store::{Pinned, PinnedFile, PinnedProjector, Stamp, Store};
use super::{Catalog, CatalogError, files};

/// What came of adding a model.
#[derive(Debug)]
pub(crate) enum Imported {
    /// The model is in the catalog.
    Added(ModelEntry),
    /// It already was, under this very name.
    AlreadyThere(ModelEntry),
}

impl Catalog {
    /// Brings a file, or the parts of a split one, into the models folder and pins the digest.
    /// Blocking. Also says whether bytes were copied.
    ///
    /// The same file under the same name again is fine; another file under a used name is not.
    pub(crate) fn import(
        &self,
        mut candidate: Candidate,
        alias: ModelAlias,
        gguf: GgufSummary,
        sharing: Sharing,
        watcher: &mut Watcher<'_>,
    ) -> Result<(Imported, bool), CatalogError> {
        if let Ok(pinned) = self.pinned(&alias) {
            let given = candidate.hash(watcher)?;
            let there = same_or_taken(pinned.entry, given)?;
            if self.checked_file(&alias, watcher).is_err() {
                let staged = candidate.stage(&self.models, sharing, watcher)?;
                self.restore(staged)?;
            }
            return Ok((Imported::AlreadyThere(there), false));
        }
        let source = candidate.path().display().to_string();
        let staged = candidate.stage(&self.models, sharing, watcher)?;
        let is_copy = staged.is_copy();
        Ok((self.add(staged, alias, source, gguf)?, is_copy))
    }

    /// Gives complete files a name. Blocking.
    pub(crate) fn add(
        &self,
        staged: Staged,
        alias: ModelAlias,
        source: String,
        gguf: GgufSummary,
    ) -> Result<Imported, CatalogError> {
        let store = self.store();
        let digest = staged.digest();
        if let Ok(pinned) = self.pinned(&alias) {
            let there = same_or_taken(pinned.entry, digest)?;
            staged.discard();
            return Ok(Imported::AlreadyThere(there));
        }
        self.put(&store, staged, alias, source, gguf, None).map(Imported::Added)
    }

    /// Gives a name to other files than it had, and what those see with. Blocking. The caller sees to it that
    /// no worker runs the model.
    pub(crate) fn replace(
        &self,
        staged: Staged,
        alias: &ModelAlias,
        source: String,
        gguf: GgufSummary,
        projector: Option<(StagedFile, String)>,
    ) -> Result<ModelEntry, CatalogError> {
        let store = self.store();
        let (before, digest) = (self.get(alias)?, staged.digest());
        // Another name of the same bytes sees with its own.
        let projector = projector.filter(|_| self.projector_of(&digest).is_none());
        let projector = projector.map(|(file, source)| {
            let file = file.put_at(&files::projector(&self.models, &digest))?;
            Ok::<_, CatalogError>(PinnedProjector { file, source })
        });
        let projector = projector.transpose()?;
        // With the row, so that a hive that is killed then has not lost it.
        self.put(&store, staged, alias.clone(), source, gguf, projector.clone())?;
        if let Some(projector) = projector {
            self.note_projector(&store, &digest, &projector)?;
            self.label(&digest);
        }
        self.forget_files(&before);
        self.get(alias)
    }

    /// Gives a model a further name. Blocking.
    pub(crate) fn name(
        &self,
        model: &ModelAlias,
        alias: ModelAlias,
    ) -> Result<Imported, CatalogError> {
        let store = self.store();
        let Pinned { entry, files, projector } = self.pinned(model)?;
        if let Ok(pinned) = self.pinned(&alias) {
            return same_or_taken(pinned.entry, entry.sha256).map(Imported::AlreadyThere);
        }
        let entry = ModelEntry { alias, added_at: super::unix_now(), ..entry };
        self.write(&store, Pinned { entry: entry.clone(), files, projector })?;
        Ok(Imported::Added(entry))
    }

    /// Pins a model, and all names of its files, to the files as they lie on the disk, if those have
    /// the digest that the operator agreed to. Blocking.
    pub(crate) fn pin(
        &self,
        alias: &ModelAlias,
        accepted: &Sha256Digest,
        gguf: &GgufSummary,
        watcher: &mut Watcher<'_>,
    ) -> Result<ModelEntry, CatalogError> {
        let (found, unmoved) = self.hash_files(alias, watcher)?;
        let digests: Vec<_> = found.iter().map(|file| file.sha256.clone()).collect();
        let actual = digest_of(&digests);
        let store = self.store();
        let before = self.pinned(alias)?.entry;
        if actual != *accepted || !unmoved {
            let (alias, pinned) = (alias.clone(), before.sha256);
            return Err(CatalogError::Changed { alias, pinned, actual });
        }
        if actual == before.sha256 {
            return Ok(before);
        }
        let parts = before.shards.len();
        // What one name of a file sees with, all do: those that had these bytes before come first.
        let there = self.projector_of(&actual);
        let projector = there.clone().or_else(|| self.projector_of(&before.sha256));
        files::rename(&self.models, &before.sha256, &actual, parts, there.is_some())
            .map_err(CatalogError::of_write)?;
        let view = self.view();
        for pinned in view.values().filter(|pinned| pinned.entry.sha256 == before.sha256) {
            let mut pinned = pinned.clone();
            pinned.entry.sha256 = actual.clone();
            pinned.entry.gguf = gguf.clone();
            for (shard, file) in pinned.entry.shards.iter_mut().zip(&found) {
                shard.sha256 = file.sha256.clone();
            }
            pinned.files.clone_from(&found);
            self.write(&store, pinned.with_projector(projector.clone()))?;
        }
        if let Some(projector) = projector {
            self.note_projector(&store, &actual, &projector)?;
            self.label(&actual);
        }
        files::label(&self.models, &before.sha256, Vec::new());
        self.get(alias)
    }

    /// Which program was last asked what all models can do; `None` where none was. Blocking.
    pub(crate) fn kinds_told_by(&self) -> Result<Option<String>, CatalogError> {
        Ok(self.store().kinds_told_by()?)
    }

    /// Notes which program was asked what all models can do. Blocking.
    pub(crate) fn note_kinds_told_by(&self, program: &str) -> Result<(), CatalogError> {
        Ok(self.store().set_kinds_told_by(program)?)
    }

    /// Notes what a model can do, under all names of its files. Whether that is news. Blocking.
    pub(crate) fn note_kind(
        &self,
        digest: &Sha256Digest,
        kind: ModelKind,
    ) -> Result<bool, CatalogError> {
        let store = self.store();
        let view = self.view();
        let names = view.values().filter(|pinned| pinned.entry.sha256 == *digest);
        let mut is_news = false;
        for pinned in names.filter(|pinned| pinned.entry.gguf.kind != Some(kind)) {
            let mut pinned = pinned.clone();
            pinned.entry.gguf.kind = Some(kind);
            self.write(&store, pinned)?;
            is_news = true;
        }
        Ok(is_news)
    }

    /// Takes a model off the list, and its files off the disk unless another name stands for them.
    /// Blocking. The caller sees to it that no worker runs it.
    pub(crate) fn remove(&self, alias: &ModelAlias) -> Result<ModelEntry, CatalogError> {
        let store = self.store();
        let entry = self.get(alias)?;
        store.delete(alias)?;
        self.change_view(|view| {
            view.remove(alias);
        });
        self.forget_files(&entry);
        Ok(entry)
    }

    /// Puts back the files of a model whose own are gone or were changed.
    pub(crate) fn restore(&self, staged: Staged) -> Result<(), CatalogError> {
        let store = self.store();
        let digest = staged.digest();
        let files = staged.put_in_place(&self.models)?;
        self.note_files(&store, &digest, &files)
    }

    fn put(
        &self,
        store: &Store,
        staged: Staged,
        alias: ModelAlias,
        source: String,
        mut gguf: GgufSummary,
        projector: Option<PinnedProjector>,
    ) -> Result<ModelEntry, CatalogError> {
        let (sha256, shards) = (staged.digest(), staged.shards());
        // What the first part says of its size is not all.
        gguf.size_bytes = staged.bytes();
        let is_first = self.with_digest(&sha256).is_none();
        let parts = shards.len();
        // Whoever has these bytes of its own does not come to share those of somebody else. Others replace
        // also what another name stands for: it may have been tampered with.
        let own = if staged.is_linked() { self.intact(&sha256) } else { None };
        let found = match own {
            Some(own) => own,
            None => staged.put_in_place(&self.models)?,
        };
        self.note_files(store, &sha256, &found)?;
        let added_at = super::unix_now();
        let entry = ModelEntry { alias, sha256, source, added_at, shards, projector: None, gguf };
        // What one name of a file sees with, all do.
        let projector = projector.or_else(|| self.projector_of(&entry.sha256));
        let pinned = Pinned { entry, files: found, projector: None }.with_projector(projector);
        let entry = pinned.entry.clone();
        let written = self.write(store, pinned);
        if written.is_err() && is_first {
            let _ = files::remove(&self.models, &entry.sha256, parts);
        }
        written.map(|()| entry)
    }

    /// The files with a digest, if they are there as they were pinned.
    fn intact(&self, digest: &Sha256Digest) -> Option<Vec<PinnedFile>> {
        let entry = self.with_digest(digest)?;
        let files = self.pinned(&entry.alias).ok()?.files;
        let paths = files::of(&self.models, digest, files.len());
        let is_same = |(file, path): (&PinnedFile, &PathBuf)| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|now| file.stamp.is_of_the_same_bytes_as(&Stamp::of(&now)))
        };
        files.iter().zip(&paths).all(is_same).then_some(files)
    }

    fn write(&self, store: &Store, pinned: Pinned) -> Result<(), CatalogError> {
        store.put(&pinned)?;
        let digest = pinned.entry.sha256.clone();
        self.change_view(|view| {
            view.insert(pinned.entry.alias.clone(), pinned);
        });
        self.label(&digest);
        Ok(())
    }

    /// Removes files that no name stands for any more, and what was written of the names.
    fn forget_files(&self, entry: &ModelEntry) {
        self.label(&entry.sha256);
        if self.with_digest(&entry.sha256).is_some() {
            return;
        }
        let removed = files::remove(&self.models, &entry.sha256, entry.shards.len());
        if let Err(error) = removed {
            tracing::warn!(model = %entry.alias, %error, "the file of a deleted model stays on disk");
        }
    }
}

fn same_or_taken(there: ModelEntry, given: Sha256Digest) -> Result<ModelEntry, CatalogError> {
    if there.sha256 == given {
        return Ok(there);
    }
    Err(CatalogError::AliasTaken { alias: there.alias, pinned: there.sha256, given })
}
