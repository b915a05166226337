//! Logs of daemons, which have little more than two times [`FULL`] bytes. What is written while a log is put
//! aside can be lost.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A log that is at least this large is put aside, in bytes.
const FULL: u64 = 10 * 1024 * 1024;
/// How often a running daemon looks at the size of its log.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Opens a log for writing at its end. A full one is first moved to `NAME.1`, in the place of the
/// one that was moved there before.
pub(crate) fn open(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(log).is_ok_and(|log| log.len() >= FULL) {
        fs::rename(log, aside(log))?;
    }
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(log)
}

/// Keeps the log of this daemon from growing without end until it is told to stop. Does nothing where what
/// the process writes to stderr goes elsewhere.
pub async fn keep_log_bounded(log: PathBuf, stop: CancellationToken) {
    let mut clock = tokio::time::interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(clock.tick()).await.is_some() {
        let log = log.clone();
        let capped = tokio::task::spawn_blocking(move || cap(&log, is_own));
        if let Ok(Err(error)) = capped.await {
            tracing::debug!(%error, "the log cannot be put aside");
        }
    }
}

/// Moves what a full log has to `NAME.1`, if it is ours, so that whoever writes at its end begins anew.
fn cap(log: &Path, is_ours: impl Fn(&Path) -> bool) -> io::Result<()> {
    let is_full = fs::metadata(log).is_ok_and(|log| log.len() >= FULL);
    if !is_full || !is_ours(log) {
        return Ok(());
    }
    fs::copy(log, aside(log))?;
    File::options().write(true).open(log)?.set_len(0)
}

/// Whether this process writes to the file.
fn is_own(log: &Path) -> bool {
    let (own, found) = (rustix::fs::fstat(io::stderr()), rustix::fs::stat(log));
    own.is_ok_and(|own| {
        found.is_ok_and(|found| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
    })
}

fn aside(log: &Path) -> OsString {
    let mut aside = log.as_os_str().to_owned();
    aside.push(".1");
    aside
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_log_that_is_full_begins_anew_for_whoever_writes_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("queen-rbee.log");
        let mut writer = open(&log).unwrap();
        writer.write_all(b"first\n").unwrap();
        cap(&log, |_| true).unwrap();
        writer.set_len(FULL).unwrap();
        cap(&log, |_| false).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), FULL, "it is somebody else's");
        cap(&log, |_| true).unwrap();
        writer.write_all(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "second\n");
        let before = fs::read(aside(&log)).unwrap();
        assert!(before.starts_with(b"first\n") && before.len() as u64 == FULL);
        cap(&folder.path().join("none.log"), |_| true).unwrap();
    }

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
