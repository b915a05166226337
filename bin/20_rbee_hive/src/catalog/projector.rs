//! What a model sees images with: a file beside its own, pinned like them.
//!
//! It belongs to the bytes of a model, whatever names those have.

use std::fs::{self, File};
use std::path::PathBuf;

use worker_contract::{ModelAlias, ModelEntry, Sha256Digest};

use super::candidate::{Candidate, Sharing};
use super::check::Compared;
use super::copy::{self, Watcher};
use super::staged::StagedFile;
use super::store::{PinnedFile, PinnedProjector, Stamp, Store};
use super::{Catalog, CatalogError, files};

/// What a projector may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Of itself.
    TheSame,
    /// Of whichever is there. The caller sees to it that no worker runs the model.
    Any,
}

impl Catalog {
    /// Brings a projector into the models folder and pins its digest, for all names of the model.
    /// Blocking.
    ///
    /// The same file again is fine, and repairs one that is gone or was changed; another one has to be
    /// wished for.
    pub(crate) fn import_projector(
        &self,
        alias: &ModelAlias,
        mut candidate: Candidate,
        sharing: Sharing,
        over: Over,
        watcher: &mut Watcher<'_>,
    ) -> Result<ModelEntry, CatalogError> {
        let source = candidate.path().display().to_string();
        let file = candidate.stage_only(&self.models, sharing, watcher)?;
        self.attach(alias, file, source, over)
    }

    /// A file with these bytes under a further name, if one is in the catalog and was not changed.
    /// Blocking.
    pub(crate) fn stage_known(
        &self,
        digest: &Sha256Digest,
        watcher: &mut Watcher<'_>,
    ) -> Result<Option<StagedFile>, CatalogError> {
        let Some(path) = self.file_with(digest) else { return Ok(None) };
        let Ok(mut candidate) = Candidate::of_one(&path) else { return Ok(None) };
        let staged = candidate.stage_only(&self.models, Sharing::Linked, watcher)?;
        Ok(Some(staged).filter(|staged| staged.sha256 == *digest))
    }

    /// Lets a model see with a complete file. Blocking.
    pub(crate) fn attach(
        &self,
        alias: &ModelAlias,
        file: StagedFile,
        source: String,
        over: Over,
    ) -> Result<ModelEntry, CatalogError> {
        let store = self.store();
        let entry = self.get(alias)?;
        let source = match entry.projector {
            // One that is put back comes from where it came before.
            Some(there) if there.sha256 == file.sha256 => there.source,
            Some(there) if over == Over::TheSame => {
                let (alias, pinned) = (alias.clone(), there.sha256);
                return Err(CatalogError::SeesOtherwise { alias, pinned, given: file.sha256 });
            }
            _ => source,
        };
        let file = file.put_at(&files::projector(&self.models, &entry.sha256))?;
        self.note_projector(&store, &entry.sha256, &PinnedProjector { file, source })?;
        self.label(&entry.sha256);
        self.get(alias)
    }

    /// Lets a model see no longer, under any of its names. Blocking. The caller sees to it that no worker
    /// runs it.
    pub(crate) fn detach(&self, alias: &ModelAlias) -> Result<ModelEntry, CatalogError> {
        let store = self.store();
        let digest = self.get(alias)?.sha256;
        store.set_projector(&digest, None)?;
        self.change_view(|view| {
            for pinned in view.values_mut().filter(|pinned| pinned.entry.sha256 == digest) {
                *pinned = pinned.clone().with_projector(None);
            }
        });
        self.label(&digest);
        files::remove_projector(&self.models, &digest).map_err(CatalogError::of_write)?;
        self.get(alias)
    }

    /// What the files with this digest see with.
    pub(super) fn projector_of(&self, digest: &Sha256Digest) -> Option<PinnedProjector> {
        let view = self.view();
        view.values()
            .find(|pinned| pinned.entry.sha256 == *digest)
            .and_then(|pinned| pinned.projector.clone())
    }

    /// The projector of a model that has one, after a check that it is the one that was added.
    pub(crate) fn checked_projector(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<Option<PathBuf>, CatalogError> {
        let pinned = self.pinned(alias)?;
        let Some(projector) = pinned.projector else { return Ok(None) };
        let path = files::projector(&self.models, &pinned.entry.sha256);
        let metadata = fs::metadata(&path);
        let metadata = metadata.map_err(|_| CatalogError::SightGone { alias: alias.clone() })?;
        let stamp = Stamp::of(&metadata);
        if projector.file.stamp.is_of_the_same_bytes_as(&stamp) {
            if projector.file.stamp != stamp {
                let file = PinnedFile { stamp, ..projector.file };
                let found = PinnedProjector { file, ..projector };
                self.note_projector(&self.store(), &pinned.entry.sha256, &found)?;
            }
            return Ok(Some(path));
        }
        match self.verify_projector(alias, watcher)? {
            Some(Compared { pinned, actual }) if pinned != actual => {
                Err(CatalogError::SightChanged { alias: alias.clone(), pinned, actual })
            }
            _ => Ok(Some(path)),
        }
    }

    /// Computes the digest of a model's projector, if it has one.
    pub(super) fn verify_projector(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<Option<Compared>, CatalogError> {
        let reading = |source| CatalogError::Io { doing: "the projector cannot be read", source };
        let entry = self.pinned(alias)?.entry;
        let Some(projector) = entry.projector else { return Ok(None) };
        let opened = File::open(files::projector(&self.models, &entry.sha256));
        let mut file = opened.map_err(|_| CatalogError::SightGone { alias: alias.clone() })?;
        let stamp = Stamp::of(&file.metadata().map_err(reading)?);
        let actual = copy::hash(&mut file, watcher).map_err(CatalogError::of_copy)?;
        let after = Stamp::of(&file.metadata().map_err(reading)?);
        let unmoved = stamp.is_of_the_same_bytes_as(&after);
        if actual == projector.sha256 && unmoved {
            let file = PinnedFile { sha256: actual.clone(), stamp };
            let found = PinnedProjector { file, source: projector.source };
            self.note_projector(&self.store(), &entry.sha256, &found)?;
        }
        Ok(Some(Compared { pinned: projector.sha256, actual }))
    }

    pub(super) fn note_projector(
        &self,
        store: &Store,
        digest: &Sha256Digest,
        projector: &PinnedProjector,
    ) -> Result<(), CatalogError> {
        store.set_projector(digest, Some(projector))?;
        self.change_view(|view| {
            for pinned in view.values_mut().filter(|pinned| pinned.entry.sha256 == *digest) {
                *pinned = pinned.clone().with_projector(Some(projector.clone()));
            }
        });
        Ok(())
    }
}
