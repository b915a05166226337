//! Logs of daemons.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// A log that is at least this large is put aside when a daemon starts, in bytes.
const FULL: u64 = 10 * 1024 * 1024;

/// Opens a log for writing at its end. A full one is first moved to `NAME.1`, in the place of the
/// one that was moved there before.
pub(crate) fn open(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(log).is_ok_and(|log| log.len() >= FULL) {
        let mut aside = log.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(log, aside)?;
    }
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_full_log_is_put_aside_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/queen-rbee.log");
        let aside = folder.path().join("logs/queen-rbee.log.1");
        open(&log).unwrap().write_all(b"first\n").unwrap();
        open(&log).unwrap().write_all(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "first\nsecond\n");
        assert!(!aside.exists());

        open(&log).unwrap().set_len(FULL).unwrap();
        open(&log).unwrap().write_all(b"third\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "third\n");
        assert_eq!(fs::metadata(&aside).unwrap().len(), FULL);
    }
}
