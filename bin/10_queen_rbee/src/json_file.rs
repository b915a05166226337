//! A small file of JSON that is replaced as a whole at each change: whoever reads it, also after a crash,
//! finds what was before or what is after.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is in a file cannot be had.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It cannot be read.
    File(io::Error),
    /// It is damaged.
    Damaged(serde_json::Error),
}

/// What is in a file; `None` where there is no file.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Unreadable> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(Unreadable::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable::File(error)),
    }
}

/// Replaces a file; it is on the disk when this returns.
pub(crate) fn write(file: &Path, page: &impl Serialize) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(&serde_json::to_vec_pretty(page)?)?;
    fresh.as_file().sync_all()?;
    fresh.persist(file)?;
    // The name is on the disk when its folder is.
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_what_cannot_be_read_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.json");
        assert!(matches!(read::<Vec<u8>>(&file), Ok(None)));
        write(&file, &vec![1, 2, 3]).unwrap();
        write(&file, &vec![4]).unwrap();
        assert_eq!(read::<Vec<u8>>(&file).unwrap(), Some(vec![4]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        fs::write(&file, "[4").unwrap();
        assert!(matches!(read::<Vec<u8>>(&file), Err(Unreadable::Damaged(_))));
        assert!(matches!(read::<Vec<u8>>(folder.path()), Err(Unreadable::File(_))));
    }
}
