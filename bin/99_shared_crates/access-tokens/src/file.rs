//! Files that only their owner can read, replaced whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes a folder that only its owner can enter.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Holds back other processes that change the same folder, until it is dropped.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let file =
        File::options().create(true).truncate(false).write(true).open(folder.join(".lock"))?;
    file.lock()?;
    Ok(file)
}

/// Replaces a file; a temporary file of `tempfile` has mode 0600.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
