//! Starting a daemon that outlives its starter.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::LifecycleError;

/// A log that is larger than this is put aside at the next start.
const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;

/// Starts a program in a process group of its own, so that Ctrl-C in the starter's terminal does
/// not reach it. Its output goes to the end of `log`; a large log is kept once as `LOG.1`.
pub fn start_detached(
    binary: &Path,
    args: &[OsString],
    envs: &[(OsString, OsString)],
    log: &Path,
) -> Result<u32, LifecycleError> {
    let log_file = open_log(log)
        .map_err(|source| LifecycleError::File { path: log.to_owned(), source })?;
    let failed = |source| LifecycleError::Start { binary: binary.to_owned(), source };
    let mut command = Command::new(binary);
    command
        .args(args)
        .envs(envs.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().map_err(failed)?)
        .stderr(log_file);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().map_err(failed)?;
    Ok(child.id())
}

fn open_log(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(log).is_ok_and(|m| m.len() > MAX_LOG_BYTES) {
        let mut older = log.as_os_str().to_owned();
        older.push(".1");
        fs::rename(log, older)?;
    }
    File::options().create(true).append(true).open(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StopOutcome, process_start_time, stop};
    use std::time::Duration;

    #[tokio::test]
    async fn a_started_program_writes_its_log_and_can_be_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/x.log");
        let args = ["-c", "echo hello; exec sleep 600"].map(OsString::from);
        let pid = start_detached(Path::new("/bin/sh"), &args, &[], &log).unwrap();
        let start_time = process_start_time(pid).unwrap();
        while !fs::read_to_string(&log).unwrap().contains("hello") {
            tokio::task::yield_now().await;
        }
        let running = crate::Running { pid, start_time, addr: None };
        assert_eq!(stop(&running, Duration::from_secs(20)).await.unwrap(), StopOutcome::Graceful);
        assert_eq!(stop(&running, Duration::ZERO).await.unwrap(), StopOutcome::NotRunning);
    }

    #[tokio::test]
    async fn a_program_that_ignores_sigterm_is_killed_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        let script = "trap '' TERM; echo ready; while true; do sleep 0.1; done";
        let args = ["-c", script].map(OsString::from);
        let pid = start_detached(Path::new("/bin/sh"), &args, &[], &log).unwrap();
        while !fs::read_to_string(&log).unwrap().contains("ready") {
            tokio::task::yield_now().await;
        }
        let start_time = process_start_time(pid).unwrap();
        let running = crate::Running { pid, start_time, addr: None };
        let outcome = stop(&running, Duration::from_millis(100)).await.unwrap();
        assert_eq!(outcome, StopOutcome::Killed);
        assert_eq!(process_start_time(pid), None);
    }

    #[tokio::test]
    async fn a_later_process_with_the_same_pid_is_not_touched() {
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let other = crate::Running { pid: child.id(), start_time: 1, addr: None };
        let outcome = stop(&other, Duration::ZERO).await.unwrap();
        assert_eq!(outcome, StopOutcome::NotRunning);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_large_log_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        File::create(&log).unwrap().set_len(MAX_LOG_BYTES + 1).unwrap();
        open_log(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert!(folder.path().join("x.log.1").is_file());
    }
}
