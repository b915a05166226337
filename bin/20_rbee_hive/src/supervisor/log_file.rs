//! The log of one worker: `worker-<id>.log`, and `worker-<id>.log.1` before it.
//!
//! The worker writes straight into the file, so that it goes on when the hive is killed. The file
//! is opened for appending: when it is cut, the next line is written at its start. A worker that is
//! started again goes on in the same file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use worker_contract::WorkerId;

/// The size at which a log is moved aside, in bytes.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
/// How much of a log's end is read to explain a failure, in bytes.
const TAIL_BYTES: u64 = 8 * 1024;
/// How many workers' logs are kept.
const KEPT_WORKERS: usize = 50;

/// The log of one worker.
#[derive(Debug, Clone)]
pub(super) struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// The log of the worker in the folder of logs.
    pub(super) fn of(logs: &Path, worker: &WorkerId) -> Self {
        Self { path: logs.join(format!("worker-{worker}.log")) }
    }

    /// Opens the log for another process, and tells where its lines will begin.
    pub(super) fn open(&self) -> io::Result<(File, u64)> {
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.create(true).append(true).open(&self.path)?;
        let start = file.metadata()?.len();
        Ok((file, start))
    }

    /// Keeps the log below its greatest size while the worker writes on.
    pub(super) fn cap(&self) -> io::Result<()> {
        self.cap_at(MAX_BYTES)
    }

    /// The end of the log, nothing before `start`; empty if it cannot be read.
    pub(super) fn tail(&self, start: u64) -> String {
        self.read_tail(start).unwrap_or_default()
    }

    pub(super) fn cap_at(&self, max: u64) -> io::Result<()> {
        if fs::metadata(&self.path)?.len() <= max {
            return Ok(());
        }
        let kept = fs::copy(&self.path, self.previous());
        // A disk that has no room for what was written has room again by this.
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        kept.map(drop)
    }

    fn read_tail(&self, start: u64) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        // A log that is shorter was cut since.
        let start = if start <= length { start } else { 0 };
        let from = length.saturating_sub(TAIL_BYTES).max(start);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let whole_lines = if from > start { text.split_once('\n') } else { None };
        Ok(whole_lines.map_or(text.as_ref(), |(_, rest)| rest).to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the part is that was cut off last.
    pub(super) fn previous(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }
}

/// Removes the logs of workers long gone: those on the list and the newest [`KEPT_WORKERS`] stay.
pub(super) fn forget_old(logs: &Path, is_listed: impl Fn(&str) -> bool) -> io::Result<()> {
    forget_all_but(logs, KEPT_WORKERS, is_listed)
}

fn forget_all_but(logs: &Path, kept: usize, is_listed: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for file in fs::read_dir(logs)? {
        let file = file?;
        let name = file.file_name();
        let worker = name.to_str().and_then(|name| {
            name.strip_prefix("worker-").and_then(|rest| rest.strip_suffix(".log"))
        });
        if worker.is_some_and(|worker| !is_listed(worker)) {
            found.push((file.metadata()?.modified()?, file.path()));
        }
    }
    found.sort();
    let surplus = found.len().saturating_sub(kept);
    for (_, path) in found.into_iter().take(surplus) {
        let _ = fs::remove_file(path.with_extension("log.1"));
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_next_process_goes_on_in_the_same_log_and_its_lines_are_told_from_those_before() {
        let (_folder, log) = log();
        let (mut first, start) = log.open().unwrap();
        first.write_all(b"first\n").unwrap();
        assert_eq!(start, 0);
        let (mut second, start) = log.open().unwrap();
        second.write_all(b"second\n").unwrap();
        assert_eq!(log.tail(start), "second\n");
        assert_eq!(log.tail(0), "first\nsecond\n");
        log.cap_at(3).unwrap();
        second.write_all(b"x\n").unwrap();
        assert_eq!(log.tail(start), "x\n", "a cut log has no lines of before");
    }

    #[test]
    fn a_log_that_grows_is_cut_while_it_is_written() {
        let (folder, log) = log();
        let (mut writer, _) = log.open().unwrap();
        writer.write_all(&b"before\n".repeat(100)).unwrap();
        log.cap_at(100).unwrap();
        writer.write_all(b"after\n").unwrap();
        assert_eq!(log.tail(0), "after\n");
        let previous = fs::read_to_string(folder.path().join("worker-w-1.log.1")).unwrap();
        assert_eq!(previous.lines().count(), 100);
    }

    #[test]
    fn a_log_that_cannot_be_put_aside_is_cut_all_the_same() {
        let (_folder, log) = log();
        let (mut writer, _) = log.open().unwrap();
        writer.write_all(&b"before\n".repeat(100)).unwrap();
        fs::create_dir(log.previous()).unwrap();
        assert!(log.cap_at(100).is_err(), "it is told");
        writer.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "after\n");
    }

    #[test]
    fn the_tail_of_a_long_log_begins_with_a_whole_line() {
        let (_folder, log) = log();
        log.open().unwrap().0.write_all(&b"0123456789abcde\n".repeat(2000)).unwrap();
        let tail = log.tail(0);
        assert!(tail.len() as u64 <= TAIL_BYTES);
        assert!(tail.lines().all(|line| line == "0123456789abcde"));
    }

    #[test]
    fn old_logs_are_forgotten_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..5 {
            fs::write(folder.path().join(format!("worker-w-{n}.log")), "x").unwrap();
        }
        fs::write(folder.path().join("rbee-hive.log"), "x").unwrap();
        forget_all_but(folder.path(), 2, |worker| worker == "w-0").unwrap();
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 4);
        assert!(folder.path().join("worker-w-0.log").exists(), "it is on the list");
        assert!(folder.path().join("rbee-hive.log").exists());
    }

    fn log() -> (tempfile::TempDir, LogFile) {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::of(folder.path(), &"w-1".parse().unwrap());
        (folder, log)
    }
}
