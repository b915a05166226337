//! Ending a process: asked first, killed when it does not end in time.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{LifecycleError, ProcessHandle, ProcessIdentity};

/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// It ended by itself when it was asked to.
    Graceful,
    /// It did not end in time and was killed.
    Killed,
    /// It had ended before.
    NotRunning,
}

/// Ends a process: SIGTERM, and SIGKILL after `grace`. Returns when it has ended.
///
/// A process that has the id but another start time is not touched. The end is noticed at once on
/// Linux, by a handle of the process; elsewhere by looking again and again.
///
/// # Errors
/// When the process may not be signalled, or does not end although it was killed.
pub async fn stop(
    process: impl Into<ProcessIdentity>,
    grace: Duration,
) -> Result<StopOutcome, LifecycleError> {
    let identity = process.into();
    let pid = identity.pid;
    let Some(process) = ProcessHandle::open(identity) else {
        return Ok(StopOutcome::NotRunning);
    };
    let signal = |signal| match process.signal(signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(LifecycleError::Signal { pid, source: io::Error::from(error) }),
    };
    if !signal(Signal::TERM)? {
        return Ok(StopOutcome::NotRunning);
    }
    if timeout(grace, process.ended()).await.is_ok() {
        return Ok(StopOutcome::Graceful);
    }
    signal(Signal::KILL)?;
    match timeout(KILL_PATIENCE, process.ended()).await {
        Ok(()) => Ok(StopOutcome::Killed),
        Err(_) => Err(LifecycleError::Unkillable { pid }),
    }
}
