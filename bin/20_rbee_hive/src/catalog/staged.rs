//! Complete files on the models' disk that no name stands for yet.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;
use worker_contract::{ModelShard, Sha256Digest};

use super::copy::hex_digest_of;
use super::store::{PinnedFile, Stamp};
use super::{CatalogError, files};
use crate::download::Hold;

/// The files of one model, in the order of its parts.
#[derive(Debug)]
pub(crate) struct Staged {
    parts: Vec<StagedFile>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct StagedFile {
    pub(crate) sha256: Sha256Digest,
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    /// Whether its bytes take disk that those of another file take as well.
    pub(crate) is_copy: bool,
}

/// Where a file lies, and what becomes of it if it is not wanted.
#[derive(Debug)]
pub(crate) enum Place {
    /// A copy, which goes.
    Temporary(TempPath),
    /// A second name of a file that somebody else can change; the name goes.
    Linked(TempPath),
    /// A download, which stays, and who keeps others from removing it.
    Downloaded(PathBuf, Option<Arc<Hold>>),
}

impl Staged {
    pub(crate) fn new(parts: Vec<StagedFile>) -> Self {
        Self { parts }
    }

    /// The digest that the model is pinned by.
    pub(crate) fn digest(&self) -> Sha256Digest {
        let digests: Vec<_> = self.parts.iter().map(|part| part.sha256.clone()).collect();
        digest_of(&digests)
    }

    /// The size of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Whether bytes were copied.
    pub(crate) fn is_copy(&self) -> bool {
        self.parts.iter().any(|part| part.is_copy)
    }

    /// Whether the bytes are those of files that somebody else can change.
    pub(super) fn is_linked(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.place, Place::Linked(_)))
    }

    /// The parts as a catalog lists them: none where the model is one file.
    pub(super) fn shards(&self) -> Vec<ModelShard> {
        let shard =
            |part: &StagedFile| ModelShard { sha256: part.sha256.clone(), size_bytes: part.bytes };
        if self.parts.len() < 2 { Vec::new() } else { self.parts.iter().map(shard).collect() }
    }

    /// Puts the files into their places, over what may be there.
    pub(super) fn put_in_place(self, models: &Path) -> Result<Vec<PinnedFile>, CatalogError> {
        let targets = files::of(models, &self.digest(), self.parts.len());
        let mut pinned = Vec::with_capacity(targets.len());
        let folder = targets.first().and_then(|first| first.parent()).unwrap_or(models);
        fs::create_dir_all(folder).map_err(CatalogError::of_write)?;
        for (part, target) in self.parts.into_iter().zip(&targets) {
            pinned.push(part.rename_to(target)?);
        }
        for folder in [folder, models] {
            make_durable(folder)?;
        }
        Ok(pinned)
    }

    /// Removes downloads that turned out to be no model.
    pub(crate) fn discard(self) {
        self.parts.into_iter().for_each(StagedFile::discard);
    }
}

impl StagedFile {
    /// Puts the file into its place, over what may be there.
    pub(super) fn put_at(self, target: &Path) -> Result<PinnedFile, CatalogError> {
        // What lies in the place has a name that says nothing of its bytes.
        if let Place::Downloaded(path, _) = &self.place
            && !path.is_file()
        {
            let _ = fs::remove_file(path.with_extension("json"));
            return Err(CatalogError::PartGone);
        }
        let pinned = self.rename_to(target)?;
        make_durable(target.parent().unwrap_or(Path::new(".")))?;
        Ok(pinned)
    }

    /// Removes a download that nobody wants.
    pub(crate) fn discard(self) {
        if let Place::Downloaded(path, _) = self.place {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(path.with_extension("json"));
        }
    }

    fn rename_to(self, target: &Path) -> Result<PinnedFile, CatalogError> {
        self.place.rename_to(target).map_err(CatalogError::of_write)?;
        let metadata = fs::metadata(target).map_err(CatalogError::of_write)?;
        Ok(PinnedFile { sha256: self.sha256, stamp: Stamp::of(&metadata) })
    }
}

/// A name is durable only when its folder is.
fn make_durable(folder: &Path) -> Result<(), CatalogError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(CatalogError::of_write)
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(path) | Self::Linked(path) => path,
            Self::Downloaded(path, _held) => path,
        }
    }

    fn rename_to(self, target: &Path) -> io::Result<()> {
        match self {
            Self::Temporary(path) | Self::Linked(path) => {
                // Of two names of one file, renaming one to the other leaves both.
                let from = path.to_path_buf();
                path.persist(target).map_err(|error| error.error)?;
                let _ = fs::remove_file(from);
                Ok(())
            }
            Self::Downloaded(path, _held) => {
                match fs::rename(&path, target) {
                    // Another job that waited for the same download was first.
                    Err(e) if e.kind() == io::ErrorKind::NotFound && target.is_file() => {}
                    renamed => renamed?,
                }
                let _ = fs::remove_file(path.with_extension("json"));
                Ok(())
            }
        }
    }
}

/// The digest of a model by those of its files: of several it is that of their digests as lines.
pub(crate) fn digest_of(files: &[Sha256Digest]) -> Sha256Digest {
    if let [only] = files {
        return only.clone();
    }
    let lines = files.iter().fold(String::new(), |lines, digest| lines + digest.as_hex() + "\n");
    hex_digest_of(lines.as_bytes())
}
