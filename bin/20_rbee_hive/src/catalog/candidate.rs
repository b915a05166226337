//! Files on their way into the catalog: opened and checked, then copied or shared.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};
use worker_contract::{ModelAlias, Sha256Digest};

use super::alias::from_file_name;
use super::copy::{Watcher, copy_and_hash, hash};
use super::error::CatalogError;
use super::shard::{self, Shard};
use super::staged::{Place, Staged, StagedFile, digest_of};

/// How the names of unfinished copies begin, so that those of a killed hive can be cleaned away.
pub(super) const PARTIAL_PREFIX: &str = ".import-";

/// A model that somebody wants to add: one readable regular file, or all parts of a split one.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// In the order of the parts.
    files: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    metadata: fs::Metadata,
}

/// How a file gets into the models folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// As a file of the catalog's own, which shares the blocks of the other where the disk can.
    Own,
    /// As the same file under a second name, where that is possible.
    Linked,
}

impl Candidate {
    /// Opens the file, or all parts of which it is one, and refuses what cannot be a model.
    pub(crate) fn open(path: &str) -> Result<Self, CatalogError> {
        if !Path::new(path).is_absolute() || path.contains('\0') {
            return Err(CatalogError::RelativePath { path: shown(path) });
        }
        let first = Opened::open(Path::new(path))?;
        let name = first.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(part) = name.strip_suffix(".gguf").and_then(Shard::of) else {
            return Ok(Self { files: vec![first] });
        };
        let parts = (1..=part.count).map(|index| {
            let path = first.path.with_file_name(shard::name(part.stem, index, part.count));
            Opened::open(&path)
        });
        Ok(Self { files: parts.collect::<Result<_, _>>()? })
    }

    /// Opens one file, whatever its name says of parts.
    pub(super) fn of_one(path: &Path) -> Result<Self, CatalogError> {
        Ok(Self { files: vec![Opened::open(path)?] })
    }

    /// The file, or the first part.
    pub(crate) fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.metadata.len()).sum()
    }

    /// The name that a user who gives none would expect.
    pub(crate) fn alias(&self) -> Result<ModelAlias, CatalogError> {
        let name = self.path().file_name().unwrap_or_default().to_string_lossy();
        from_file_name(&name).ok_or_else(|| CatalogError::NoAlias { file_name: name.into_owned() })
    }

    /// Its digest, without a copy.
    pub(super) fn hash(&mut self, watcher: &mut Watcher<'_>) -> Result<Sha256Digest, CatalogError> {
        let mut digests = Vec::with_capacity(self.files.len());
        let mut before = 0;
        for opened in &mut self.files {
            opened.rewind()?;
            let digest = watcher.after(before, |watcher| hash(&mut opened.file, watcher));
            digests.push(digest.map_err(CatalogError::of_copy)?);
            opened.check_unmoved()?;
            before += opened.metadata.len();
        }
        Ok(digest_of(&digests))
    }

    /// Brings it into the folder: by reference or under a second name where the file system can,
    /// else byte by byte after a look at the free space. The digest is that of the bytes there.
    pub(super) fn stage(
        &mut self,
        models: &Path,
        sharing: Sharing,
        watcher: &mut Watcher<'_>,
    ) -> Result<Staged, CatalogError> {
        let mut parts = Vec::with_capacity(self.files.len());
        let mut before = 0;
        for opened in &mut self.files {
            let part = watcher.after(before, |watcher| opened.stage(models, sharing, watcher));
            parts.push(part?);
            before += opened.metadata.len();
        }
        Ok(Staged::new(parts))
    }

    /// The same for a candidate of one file.
    pub(super) fn stage_only(
        &mut self,
        models: &Path,
        sharing: Sharing,
        watcher: &mut Watcher<'_>,
    ) -> Result<StagedFile, CatalogError> {
        self.files[0].stage(models, sharing, watcher)
    }
}

impl Opened {
    fn open(path: &Path) -> Result<Self, CatalogError> {
        let shown = || shown(&path.display().to_string());
        // Without O_NONBLOCK, opening a named pipe would wait for a writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|source| CatalogError::Open { path: shown(), source })?;
        let metadata =
            file.metadata().map_err(|source| CatalogError::Open { path: shown(), source })?;
        if !metadata.is_file() {
            return Err(CatalogError::NotAFile { path: shown() });
        }
        Ok(Self { path: path.into(), file, metadata })
    }

    fn stage(
        &mut self,
        models: &Path,
        sharing: Sharing,
        watcher: &mut Watcher<'_>,
    ) -> Result<StagedFile, CatalogError> {
        self.rewind()?;
        let linked = (sharing == Sharing::Linked).then(|| self.link(models)).flatten();
        let (sha256, place, is_copy) = if let Some(path) = linked {
            (hash(&mut self.file, watcher), Place::Linked(path), false)
        } else {
            let mut copy = part_file(models)?;
            let shared = by_reference(&self.file, copy.as_file());
            let sha256 = if shared {
                hash(copy.as_file_mut(), watcher)
            } else {
                ensure_space(self.metadata.len(), free_space(models).map_err(reading)?)?;
                copy_and_hash(&mut self.file, copy.as_file_mut(), watcher)
            };
            if sha256.is_ok() {
                copy.as_file().sync_all().map_err(CatalogError::of_write)?;
            }
            (sha256, Place::Temporary(copy.into_temp_path()), !shared)
        };
        let sha256 = sha256.map_err(CatalogError::of_copy)?;
        self.check_unmoved()?;
        Ok(StagedFile { sha256, bytes: self.metadata.len(), place, is_copy })
    }

    /// A second name for the file; `None` where it is on another disk or belongs to somebody else.
    fn link(&self, models: &Path) -> Option<TempPath> {
        // A symbolic link is not the file.
        let path = self.path.canonicalize().ok()?;
        let name = part_file(models).ok()?.into_temp_path();
        let beside = name.with_extension("link");
        fs::hard_link(path, &beside).ok()?;
        TempPath::try_from_path(beside).ok()
    }

    /// The summary was read from one state of the file, the copy must be of the same.
    fn check_unmoved(&self) -> Result<(), CatalogError> {
        let metadata = self.file.metadata().map_err(reading)?;
        // A second name, as one that was just made, changes neither.
        let bytes_of = |metadata: &fs::Metadata| (metadata.len(), metadata.modified().ok());
        if bytes_of(&metadata) == bytes_of(&self.metadata) {
            return Ok(());
        }
        Err(CatalogError::Moving { path: self.path.display().to_string() })
    }

    fn rewind(&mut self) -> Result<(), CatalogError> {
        self.file.seek(SeekFrom::Start(0)).map(drop).map_err(reading)
    }
}

fn part_file(models: &Path) -> Result<NamedTempFile, CatalogError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL_PREFIX).suffix(".part");
    builder.tempfile_in(models).map_err(CatalogError::of_write)
}

fn shown(path: &str) -> String {
    path.chars().take(300).collect()
}

fn ensure_space(needed: u64, free: u64) -> Result<(), CatalogError> {
    if needed > free {
        return Err(CatalogError::NoSpace { needed, free });
    }
    Ok(())
}

/// How many bytes this user may still write to the disk of a folder.
pub(crate) fn free_space(folder: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Lets the copy share the source's blocks until one of them is written to.
#[cfg(target_os = "linux")]
fn by_reference(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn by_reference(_: &File, _: &File) -> bool {
    false
}

fn reading(source: std::io::Error) -> CatalogError {
    CatalogError::Io { doing: "the file cannot be read", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_model_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, code) in [
            ("model.gguf", "path_not_absolute"),
            ("", "path_not_absolute"),
            ("/nul\0byte", "path_not_absolute"),
            ("/no/such/file.gguf", "file_not_found"),
            (folder.path().to_str().unwrap(), "not_a_file"),
            (pipe.to_str().unwrap(), "not_a_file"),
        ] {
            let error = Candidate::open(path).unwrap_err();
            assert_eq!(error.code(), code, "{path}: {error}");
        }
    }

    #[test]
    fn a_disk_without_room_is_told_with_both_numbers() {
        assert!(ensure_space(100, 100).is_ok());
        let error = ensure_space(98_362_432, 2_500_000).unwrap_err();
        assert_eq!(error.code(), "disk_full");
        let text = error.to_string();
        assert!(text.contains("98.4 MB") && text.contains("2.5 MB"), "{text}");
    }
}
