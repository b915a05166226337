//! A daemon's files in the run folder: lock, pid, address.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{LifecycleError, process_start_time};

/// Where a daemon's files are.
#[derive(Debug, Clone)]
pub struct RunFiles {
    daemon: String,
    folder: PathBuf,
}

/// A daemon that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its pid.
    pub pid: u32,
    /// When it started; see [`process_start_time`].
    pub start_time: u64,
    /// Its address; `None` until it listens.
    pub addr: Option<SocketAddr>,
}

/// The right to be the one running daemon of its kind. Pid and address files go with it.
#[derive(Debug)]
pub struct RunLock {
    files: RunFiles,
    /// Held, not used: the lock ends with it.
    _file: File,
}

#[derive(Serialize, Deserialize)]
struct PidFile {
    pid: u32,
    start_time: u64,
}

impl RunFiles {
    /// The files of `daemon` in `run_dir`.
    #[must_use]
    pub fn new(run_dir: &Path, daemon: &str) -> Self {
        Self { daemon: daemon.to_owned(), folder: run_dir.to_owned() }
    }

    /// Becomes the running daemon, or says who is.
    pub fn acquire(&self) -> Result<RunLock, LifecycleError> {
        let path = self.path("lock");
        let failed = |source| LifecycleError::File { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let running = self.read_running();
                return Err(LifecycleError::AlreadyRunning {
                    daemon: self.daemon.clone(),
                    pid: running.map(|r| r.pid),
                    addr: running.and_then(|r| r.addr),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let _ = fs::remove_file(self.path("addr"));
        let pid = std::process::id();
        let content = PidFile { pid, start_time: process_start_time(pid).unwrap_or(0) };
        let content = serde_json::to_string(&content).map_err(|e| failed(e.into()))?;
        self.write("pid", &content)?;
        Ok(RunLock { files: self.clone(), _file: file })
    }

    /// The daemon that runs; `None` when its process is gone or another one has its pid.
    #[must_use]
    pub fn read_running(&self) -> Option<Running> {
        let text = fs::read_to_string(self.path("pid")).ok()?;
        let PidFile { pid, start_time } = serde_json::from_str(&text).ok()?;
        if process_start_time(pid) != Some(start_time) {
            return None;
        }
        let addr = fs::read_to_string(self.path("addr")).ok();
        Some(Running { pid, start_time, addr: addr.and_then(|a| a.trim().parse().ok()) })
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.daemon))
    }

    /// Puts a whole file in place.
    fn write(&self, kind: &str, content: &str) -> Result<(), LifecycleError> {
        let path = self.path(kind);
        let part = self.path(&format!("{kind}.part"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().map_err(|source| LifecycleError::File { path: path.clone(), source })
    }
}

impl RunLock {
    /// Tells others where this daemon listens.
    pub fn publish_addr(&self, addr: SocketAddr) -> Result<(), LifecycleError> {
        self.files.write("addr", &addr.to_string())
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.files.path("addr"));
        let _ = fs::remove_file(self.files.path("pid"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "queen-rbee");
        assert_eq!(files.read_running(), None);
        let lock = files.acquire().unwrap();
        lock.publish_addr("127.0.0.1:8500".parse().unwrap()).unwrap();
        let error = files.acquire().unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(error.contains(&pid) && error.contains("127.0.0.1:8500"), "{error}");
        assert_eq!(files.read_running().unwrap().pid, std::process::id());
        drop(lock);
        assert_eq!(files.read_running(), None);
        files.acquire().unwrap();
    }

    #[test]
    fn a_pid_that_another_process_got_later_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "queen-rbee");
        let later = PidFile { pid: std::process::id(), start_time: 1 };
        fs::write(folder.path().join("queen-rbee.pid"), serde_json::to_string(&later).unwrap())
            .unwrap();
        assert_eq!(files.read_running(), None);
        fs::write(folder.path().join("queen-rbee.pid"), "damaged").unwrap();
        assert_eq!(files.read_running(), None);
    }

    #[test]
    fn of_many_at_once_one_becomes_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "rbee-hive");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| files.acquire())).collect();
            starting.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    }
}
