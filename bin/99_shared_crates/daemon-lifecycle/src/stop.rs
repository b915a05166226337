//! Ending a process: SIGTERM, time, SIGKILL.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{LifecycleError, Running, process_start_time};

/// How often a process that ends is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// It ended in time.
    Graceful,
    /// It was killed at the deadline.
    Killed,
    /// It did not run.
    NotRunning,
}

/// Ends a process: SIGTERM, and SIGKILL when it still runs after `grace`. Gives back control when it
/// is gone. A process with another start time is never signalled.
pub async fn stop(running: &Running, grace: Duration) -> Result<StopOutcome, LifecycleError> {
    if !signal(running, Signal::TERM)? {
        return Ok(StopOutcome::NotRunning);
    }
    if wait_for_end(running, grace).await {
        return Ok(StopOutcome::Graceful);
    }
    signal(running, Signal::KILL)?;
    // After SIGKILL only the kernel can delay the end.
    wait_for_end(running, Duration::from_secs(10)).await;
    Ok(StopOutcome::Killed)
}

/// Signals the process if it is still the one that is meant.
fn signal(running: &Running, signal: Signal) -> Result<bool, LifecycleError> {
    let failed = |source| LifecycleError::Signal { pid: running.pid, source };
    let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid.filter(|_| is_the_same(running)) else { return Ok(false) };
    match kill_process(pid, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(failed(error.into())),
    }
}

async fn wait_for_end(running: &Running, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_the_same(running) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

fn is_the_same(running: &Running) -> bool {
    process_start_time(running.pid) == Some(running.start_time)
}
