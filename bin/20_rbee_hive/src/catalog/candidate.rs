//! A file on its way into the catalog: opened and checked, then copied into the models folder.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use worker_contract::{ModelAlias, Sha256Digest};

use super::alias::from_file_name;
use super::copy::{Watcher, copy_and_hash, hash};
use super::error::CatalogError;
use super::store::FileStamp;

/// How the names of unfinished copies begin, so that those of a killed hive can be cleaned away.
pub(super) const PARTIAL_PREFIX: &str = ".import-";

/// A readable regular file that somebody wants to add.
#[derive(Debug)]
pub(crate) struct Candidate {
    path: PathBuf,
    file: File,
    stamp: FileStamp,
}

/// A complete copy in the models folder that has no name yet; dropping it removes it.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) sha256: Sha256Digest,
    pub(super) file: NamedTempFile,
}

impl Candidate {
    /// Opens the file and refuses what cannot be a model.
    pub(crate) fn open(path: &str) -> Result<Self, CatalogError> {
        let shown = || path.chars().take(300).collect::<String>();
        if !Path::new(path).is_absolute() || path.contains('\0') {
            return Err(CatalogError::RelativePath { path: shown() });
        }
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
        Ok(Self { path: path.into(), stamp: stamp(&metadata), file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.stamp.bytes).unwrap_or(0)
    }

    /// The name that a user who gives none would expect.
    pub(crate) fn alias(&self) -> Result<ModelAlias, CatalogError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        from_file_name(&name).ok_or_else(|| CatalogError::NoAlias { file_name: name.into_owned() })
    }

    /// Its digest, without a copy.
    pub(super) fn hash(&mut self, watcher: &mut Watcher<'_>) -> Result<Sha256Digest, CatalogError> {
        self.rewind()?;
        let digest = hash(&mut self.file, watcher).map_err(CatalogError::of_copy)?;
        self.check_unmoved()?;
        Ok(digest)
    }

    /// Copies it into the folder: by reference where the file system can, else byte by byte after
    /// a look at the free space. The digest is that of the bytes in the copy.
    pub(super) fn copy_into(
        &mut self,
        models: &Path,
        watcher: &mut Watcher<'_>,
    ) -> Result<Copied, CatalogError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PARTIAL_PREFIX).suffix(".part");
        let mut copy = builder.tempfile_in(models).map_err(CatalogError::of_write)?;
        self.rewind()?;
        let sha256 = if by_reference(&self.file, copy.as_file()) {
            hash(copy.as_file_mut(), watcher)
        } else {
            ensure_space(self.bytes(), free_space(models)?)?;
            copy_and_hash(&mut self.file, copy.as_file_mut(), watcher)
        };
        let sha256 = sha256.map_err(CatalogError::of_copy)?;
        copy.as_file().sync_all().map_err(CatalogError::of_write)?;
        self.check_unmoved()?;
        Ok(Copied { sha256, file: copy })
    }

    /// The summary was read from one state of the file, the copy must be of the same.
    fn check_unmoved(&self) -> Result<(), CatalogError> {
        let metadata = self.file.metadata().map_err(reading)?;
        if stamp(&metadata) == self.stamp {
            return Ok(());
        }
        Err(CatalogError::Moving { path: self.path.display().to_string() })
    }

    fn rewind(&mut self) -> Result<(), CatalogError> {
        self.file.seek(SeekFrom::Start(0)).map(drop).map_err(reading)
    }
}

/// What tells a changed file from an unchanged one.
pub(super) fn stamp(metadata: &std::fs::Metadata) -> FileStamp {
    let mtime =
        metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    FileStamp { bytes: i64::try_from(metadata.len()).unwrap_or(i64::MAX), mtime }
}

fn ensure_space(needed: u64, free: u64) -> Result<(), CatalogError> {
    if needed > free {
        return Err(CatalogError::NoSpace { needed, free });
    }
    Ok(())
}

fn free_space(folder: &Path) -> Result<u64, CatalogError> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| reading(error.into()))?;
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
