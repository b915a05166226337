//! A file that is being downloaded, `partial/<key>.part`, and beside it what is known of it.
//!
//! The note says which ranges are written, so that a download that was ended in any way goes on there.
//! It is only believed where the server's file is still the same. After a power cut the disk may lack
//! what the note says, so then it counts only if the digest is known and will be compared at the end.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use worker_contract::Sha256Digest;

use super::error::DownloadError;
use super::plan::Ranges;
use super::probe::Facts;

/// A note takes a multiple of this, in bytes.
const NOTE_BLOCK: usize = 4096;
/// The largest note, in bytes.
const MAX_NOTE: u64 = 1 << 20;

/// What is known of a file that is being downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// What is downloaded, for people.
    pub(crate) what: String,
    /// The file's size, where it is known.
    pub(crate) size: Option<u64>,
    /// The server's mark for the file's state.
    pub(super) etag: Option<String>,
    /// The digest that the file must have, where it is known.
    pub(super) sha256: Option<Sha256Digest>,
    /// Which bytes are there.
    done: Ranges,
    /// The start of the system under which they were written.
    boot: String,
}

/// A file that is being downloaded.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) path: PathBuf,
    note: PathBuf,
}

impl Note {
    pub(super) fn of(what: &str, facts: &Facts) -> Self {
        let Facts { size, sha256, etag, .. } = facts.clone();
        Self { what: what.to_owned(), size, etag, sha256, done: Ranges::default(), boot: boot_id() }
    }

    /// How many bytes are there.
    pub(crate) fn present(&self) -> u64 {
        self.done.total()
    }

    /// What of an earlier attempt can be gone on with.
    fn can_go_on_with(&self, earlier: &Self) -> bool {
        let same_mark = match (&self.etag, &earlier.etag) {
            (Some(ours), Some(theirs)) => ours == theirs,
            // Servers of one mirror may have marks where others have none: the digest tells.
            _ => self.sha256.is_some(),
        };
        let written = self.boot == earlier.boot || self.sha256.is_some();
        let same_digest = self.sha256.is_some() && self.sha256 == earlier.sha256;
        self.size.is_some()
            && self.size == earlier.size
            && self.sha256 == earlier.sha256
            && (same_digest || same_mark)
            && written
    }
}

impl PartFile {
    pub(super) fn new(folder: &Path, key: &str) -> Self {
        Self { path: folder.join(format!("{key}.part")), note: folder.join(format!("{key}.json")) }
    }

    /// Opens the file, emptied unless what is in it is the beginning of what is wanted.
    pub(super) fn open(&self, wanted: &Note) -> Result<(File, Ranges), DownloadError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(DownloadError::of_write)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&self.path).map_err(DownloadError::of_write)?;
        let length = file.metadata().map_err(DownloadError::of_read)?.len();
        let kept = read_note(&self.note)
            .filter(|earlier| wanted.can_go_on_with(earlier))
            .map(|earlier| earlier.done.below(length.min(wanted.size.unwrap_or(0))))
            .unwrap_or_default();
        if kept.total() == 0 {
            file.set_len(0).map_err(DownloadError::of_write)?;
        } else if let Some(size) = wanted.size.filter(|size| length > *size) {
            file.set_len(size).map_err(DownloadError::of_write)?;
        }
        Ok((file, kept))
    }

    /// Says what is there: written over what was said before, so that a full disk has room for it. A
    /// note that was torn is none, and the download begins anew.
    pub(super) fn save(&self, note: &Note, done: &Ranges) -> std::io::Result<()> {
        let note = Note { done: done.clone(), ..note.clone() };
        let mut text = serde_json::to_vec(&note).map_err(std::io::Error::other)?;
        text.resize(text.len().next_multiple_of(NOTE_BLOCK), b' ');
        let mut file = File::options();
        let file = file.write(true).create(true).truncate(false).open(&self.note)?;
        file.write_all_at(&text, 0)?;
        file.set_len(text.len() as u64)
    }

    /// Removes both files.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.path);
        self.forget();
    }

    /// Removes the note: the file is complete.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.note);
    }
}

/// A note, if the file holds one.
pub(crate) fn read_note(path: &Path) -> Option<Note> {
    if fs::metadata(path).ok()?.len() > MAX_NOTE {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What is another one after each start of the system.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(sha256: Option<Sha256Digest>, etag: Option<&str>) -> Note {
        let etag = etag.map(str::to_owned);
        Note::of("f", &Facts { size: Some(10), sha256, etag, ranges: true })
    }

    #[test]
    fn a_file_is_gone_on_with_only_if_it_is_the_same_one() {
        let digest = |d: &str| Some(d.repeat(64).parse::<Sha256Digest>().unwrap());
        let base = |sha256| note(sha256, Some("e"));
        let etag = |etag: Option<&str>| etag.map(str::to_owned);
        for (wanted, earlier, same) in [
            (base(None), base(None), true),
            (base(digest("a")), base(digest("a")), true),
            (base(digest("a")), base(digest("b")), false),
            (base(digest("a")), base(None), false),
            (base(None), Note { etag: etag(Some("f")), ..base(None) }, false),
            (base(None), Note { etag: etag(None), ..base(None) }, false),
            (base(digest("a")), Note { etag: etag(None), ..base(digest("a")) }, true),
            (base(digest("a")), Note { etag: etag(Some("f")), ..base(digest("a")) }, true),
            (base(None), Note { size: Some(11), ..base(None) }, false),
            (base(None), Note { boot: "other".into(), ..base(None) }, false),
            (base(digest("a")), Note { boot: "other".into(), ..base(digest("a")) }, true),
        ] {
            assert_eq!(wanted.can_go_on_with(&earlier), same, "{wanted:?} {earlier:?}");
        }
    }

    #[test]
    fn a_note_is_not_believed_about_bytes_that_the_file_does_not_have() {
        let folder = tempfile::tempdir().unwrap();
        let part = PartFile::new(folder.path(), "k");
        let note = note(None, Some("e"));
        fs::write(&part.path, b"abcde").unwrap();
        part.save(&note, &Ranges::from(vec![0..8, 9..10])).unwrap();
        let (_, done) = part.open(&note).unwrap();
        assert_eq!(done, Ranges::one(0..5));
        fs::write(folder.path().join("k.json"), b"{").unwrap();
        let (file, done) = part.open(&note).unwrap();
        assert_eq!((done.total(), file.metadata().unwrap().len()), (0, 0));
    }
}
