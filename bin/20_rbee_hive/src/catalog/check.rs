//! Whether the files of a model are those that were added.

use std::fs::{self, File};
use std::path::PathBuf;

use serde::Serialize;
use worker_contract::{ModelAlias, Sha256Digest};

use super::copy::{self, Watcher};
use super::staged::digest_of;
use super::store::{PinnedFile, Stamp, Store};
use super::{Catalog, CatalogError};

/// What came of computing the digests of a model again.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) model: Compared,
    /// Of a model that sees images.
    pub(crate) projector: Option<Compared>,
}

/// The digest that a file should have and that which it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Compared {
    pub(crate) pinned: Sha256Digest,
    pub(crate) actual: Sha256Digest,
}

/// The files of a model, which are those that were added.
#[derive(Debug)]
pub(crate) struct CheckedFiles {
    /// The file, or the first part.
    pub(crate) model: PathBuf,
    pub(crate) projector: Option<PathBuf>,
}

impl Verified {
    /// Whether all files are those that were added.
    pub(crate) fn matches(&self) -> bool {
        self.model.matches() && self.projector.as_ref().is_none_or(Compared::matches)
    }
}

impl Compared {
    pub(crate) fn matches(&self) -> bool {
        self.pinned == self.actual
    }
}

impl Catalog {
    /// The files of a model, after a check that all are those that were added. Blocking.
    ///
    /// Digests are computed again only if the files are not as they were the last time, as far as the file
    /// system tells.
    pub(crate) fn checked_files(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<CheckedFiles, CatalogError> {
        let model = self.checked_file(alias, watcher)?;
        let projector = self.checked_projector(alias, watcher)?;
        Ok(CheckedFiles { model, projector })
    }

    /// The same for the file of the model itself, or its first part.
    pub(crate) fn checked_file(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<PathBuf, CatalogError> {
        let pinned = self.pinned(alias)?;
        let paths = self.files_of(&pinned.entry);
        let mut unchanged = true;
        let mut files = Vec::with_capacity(pinned.files.len());
        for (path, file) in paths.iter().zip(&pinned.files) {
            let metadata = fs::metadata(path);
            let metadata = metadata.map_err(|_| CatalogError::FileGone { alias: alias.clone() })?;
            let stamp = Stamp::of(&metadata);
            unchanged &= file.stamp.is_of_the_same_bytes_as(&stamp);
            files.push(PinnedFile { sha256: file.sha256.clone(), stamp });
        }
        let Some(first) = paths.into_iter().next().filter(|_| !pinned.files.is_empty()) else {
            return Err(CatalogError::FileGone { alias: alias.clone() });
        };
        if unchanged {
            if files != pinned.files {
                self.note_files(&self.store(), &pinned.entry.sha256, &files)?;
            }
            return Ok(first);
        }
        let Compared { pinned, actual } = self.verify_file(alias, watcher)?;
        if pinned == actual {
            return Ok(first);
        }
        Err(CatalogError::Changed { alias: alias.clone(), pinned, actual })
    }

    /// Computes the digests of a model's files. Blocking.
    pub(crate) fn verify(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<Verified, CatalogError> {
        let model = self.verify_file(alias, watcher)?;
        let before = self.pinned(alias)?.entry.gguf.size_bytes;
        let projector = watcher.after(before, |watcher| self.verify_projector(alias, watcher))?;
        Ok(Verified { model, projector })
    }

    fn verify_file(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<Compared, CatalogError> {
        let entry = self.pinned(alias)?.entry;
        let (files, unmoved) = self.hash_files(alias, watcher)?;
        let digests: Vec<_> = files.iter().map(|file| file.sha256.clone()).collect();
        let actual = digest_of(&digests);
        if actual == entry.sha256 && unmoved {
            self.note_files(&self.store(), &actual, &files)?;
        }
        Ok(Compared { pinned: entry.sha256, actual })
    }

    /// The files of a model as they lie on the disk, and whether none changed meanwhile. Blocking.
    pub(super) fn hash_files(
        &self,
        alias: &ModelAlias,
        watcher: &mut Watcher<'_>,
    ) -> Result<(Vec<PinnedFile>, bool), CatalogError> {
        let reading = |source| CatalogError::Io { doing: "the model file cannot be read", source };
        let (mut files, mut unmoved, mut before) = (Vec::new(), true, 0);
        for path in self.files_of(&self.pinned(alias)?.entry) {
            let opened = File::open(path);
            let mut file = opened.map_err(|_| CatalogError::FileGone { alias: alias.clone() })?;
            let metadata = file.metadata().map_err(reading)?;
            let sha256 = watcher.after(before, |watcher| copy::hash(&mut file, watcher));
            let sha256 = sha256.map_err(CatalogError::of_copy)?;
            let stamp = Stamp::of(&metadata);
            let after = Stamp::of(&file.metadata().map_err(reading)?);
            unmoved &= stamp.is_of_the_same_bytes_as(&after);
            files.push(PinnedFile { sha256, stamp });
            before += metadata.len();
        }
        Ok((files, unmoved))
    }

    /// Remembers the state of files whose digests are known, for all names that stand for them.
    pub(super) fn note_files(
        &self,
        store: &Store,
        digest: &Sha256Digest,
        files: &[PinnedFile],
    ) -> Result<(), CatalogError> {
        store.set_files(digest, files)?;
        self.change_view(|view| {
            for pinned in view.values_mut().filter(|pinned| pinned.entry.sha256 == *digest) {
                pinned.files = files.to_vec();
            }
        });
        Ok(())
    }
}
