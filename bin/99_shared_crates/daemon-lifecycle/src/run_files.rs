//! The files by which a daemon that runs is found, and by which only one of a kind runs.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `NAME.lock` | locked as long as the daemon lives; its process id and start time |
//! | `NAME.pid` | its process id, for scripts |
//! | `NAME.addr` | the address that it really has, once it listens |
//! | `NAME.reserve` | nothing: room for the others, so that a daemon can be started on a full disk |
//!
//! The lock is the kernel's (`flock`): it ends with the process however that ends. The other files
//! can outlive a killed daemon, so they count only if the process of the lock file still runs.
//! The address of an earlier run is removed before the lock file names the process of this one;
//! so an address that is read after the process belongs to it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{LifecycleError, ProcessIdentity};

/// What is kept free for the files of the next start, in bytes: a block for each, and one to spare.
const RESERVE: usize = 16 << 10;

/// Where the files of one daemon are.
#[derive(Debug, Clone)]
pub struct RunFiles {
    folder: PathBuf,
    daemon: String,
}

/// A daemon that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// When it started, in the unit of [`process_start_time`](crate::process_start_time).
    pub start_time: u64,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Says that this process is the daemon. Dropping it removes the daemon's files.
#[derive(Debug)]
pub struct RunLock {
    files: RunFiles,
    lock: File,
}

impl RunFiles {
    /// The files of `daemon` in `run_dir`. Nothing is read or made.
    #[must_use]
    pub fn new(run_dir: &Path, daemon: &str) -> Self {
        Self { folder: run_dir.to_owned(), daemon: daemon.to_owned() }
    }

    /// The file with the process id.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.file("pid")
    }

    /// The file with the address.
    #[must_use]
    pub fn addr_file(&self) -> PathBuf {
        self.file("addr")
    }

    /// The file that is locked.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.file("lock")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("logs").join(format!("{}.log", self.daemon))
    }

    /// Makes this process the daemon.
    ///
    /// # Errors
    /// [`LifecycleError::AlreadyRunning`] if another process is it.
    pub fn acquire(&self) -> Result<RunLock, LifecycleError> {
        let path = self.lock_file();
        let failed = |source| LifecycleError::File { path: path.clone(), source };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let lock = private_file(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.already_running()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let lock = RunLock { files: self.clone(), lock };
        lock.with_reserve(|| lock.announce())?;
        Ok(lock)
    }

    /// The process that is the daemon, if there is one; it may not listen yet.
    #[must_use]
    pub fn holder(&self) -> Option<ProcessIdentity> {
        self.identity().filter(|identity| identity.is_running())
    }

    /// The daemon, if it runs and listens. Files that a killed one left behind do not count.
    #[must_use]
    pub fn read_running(&self) -> Option<Running> {
        let identity = self.holder()?;
        let addr = self.address()?;
        Some(Running { pid: identity.pid, start_time: identity.start_time, addr })
    }

    fn already_running(&self) -> LifecycleError {
        LifecycleError::AlreadyRunning {
            daemon: self.daemon.clone(),
            pid: self.identity().map(|identity| identity.pid),
            addr: self.address(),
        }
    }

    fn identity(&self) -> Option<ProcessIdentity> {
        let text = fs::read_to_string(self.lock_file()).ok()?;
        // Without its newline it is still being written.
        let (pid, start_time) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(ProcessIdentity { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    fn address(&self) -> Option<SocketAddr> {
        fs::read_to_string(self.addr_file()).ok()?.trim().parse().ok()
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.daemon))
    }
}

impl RunLock {
    /// Tells others where the daemon listens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish_addr(&self, addr: SocketAddr) -> Result<(), LifecycleError> {
        self.with_reserve(|| replace(&self.files.addr_file(), &format!("{addr}\n")))?;
        self.keep_reserve();
        Ok(())
    }

    /// Writes something; where the disk is full, again in the room that an earlier start has kept for it.
    fn with_reserve(
        &self,
        write: impl Fn() -> Result<(), LifecycleError>,
    ) -> Result<(), LifecycleError> {
        match write() {
            Err(LifecycleError::File { source, .. }) if is_full(&source) => {
                // Where there is none, the second attempt says what is wrong.
                let _ = remove(&self.files.file("reserve"));
                write()
            }
            written => written,
        }
    }

    /// On a disk that has no room for it, there is none.
    fn keep_reserve(&self) {
        let path = self.files.file("reserve");
        let is_kept = fs::metadata(&path).is_ok_and(|kept| kept.len() >= RESERVE as u64);
        let text = "\n".repeat(RESERVE);
        let keep = || private_file(&path)?.write_all(text.as_bytes());
        if !is_kept && keep().is_err() {
            let _ = remove(&path);
        }
    }

    fn announce(&self) -> Result<(), LifecycleError> {
        remove(&self.files.addr_file())?;
        let pid = std::process::id();
        let start_time = crate::process_start_time(pid).unwrap_or(0);
        let written = self
            .lock
            .set_len(0)
            // It may be the second attempt.
            .and_then(|()| (&self.lock).rewind())
            .and_then(|()| (&self.lock).write_all(format!("{pid} {start_time}\n").as_bytes()));
        written.map_err(|source| LifecycleError::File { path: self.files.lock_file(), source })?;
        replace(&self.files.pid_file(), &format!("{pid}\n"))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // What remains is not believed, because this process no longer runs.
        let _ = remove(&self.files.addr_file());
        let _ = remove(&self.files.pid_file());
        let _ = self.lock.set_len(0);
        // Not left to the end of the file: a child that is just being started has it open too.
        let _ = self.lock.unlock();
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Replaces a file as a whole: who reads it sees the old text or the new one.
fn replace(path: &Path, text: &str) -> Result<(), LifecycleError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let replace = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    replace().map_err(|source| LifecycleError::File { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), LifecycleError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LifecycleError::File { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
