//! Ending a process: asked first, killed when it does not end in time.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::time::timeout;

use crate::{LifecycleError, ProcessIdentity};

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
    let Some(process) = handle::Handle::open(identity) else {
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

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A process that cannot be mistaken while this is held.
#[cfg(target_os = "linux")]
mod handle {
    use std::os::fd::OwnedFd;

    use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
    use tokio::io::unix::AsyncFd;

    use super::{as_pid, polled};
    use crate::ProcessIdentity;

    pub(super) struct Handle {
        identity: ProcessIdentity,
        /// Missing on a kernel that has no such handles, or in a sandbox that forbids them.
        pidfd: Option<AsyncFd<OwnedFd>>,
    }

    impl Handle {
        /// `None` if the process has ended.
        pub(super) fn open(identity: ProcessIdentity) -> Option<Self> {
            let pidfd = pidfd_open(as_pid(identity.pid)?, PidfdFlags::empty()).ok();
            #[expect(
                deprecated,
                reason = "sound for an owned descriptor; what replaces it is unsafe to call"
            )]
            let pidfd = pidfd.and_then(|fd| AsyncFd::new(fd).ok());
            // Asked after the handle was opened: if it is the right process, so is the handle.
            identity.is_running().then_some(Self { identity, pidfd })
        }

        pub(super) fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            match &self.pidfd {
                Some(pidfd) => pidfd_send_signal(pidfd.get_ref(), signal),
                None => polled::signal(self.identity, |pid| kill_process(pid, signal)),
            }
        }

        pub(super) async fn ended(&self) {
            if let Some(pidfd) = &self.pidfd
                && pidfd.readable().await.is_ok()
            {
                return;
            }
            polled::ended(self.identity).await;
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod handle {
    use rustix::process::{Signal, kill_process};

    use super::polled;
    use crate::ProcessIdentity;

    pub(super) struct Handle(ProcessIdentity);

    impl Handle {
        pub(super) fn open(identity: ProcessIdentity) -> Option<Self> {
            identity.is_running().then_some(Self(identity))
        }

        pub(super) fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            polled::signal(self.0, |pid| kill_process(pid, signal))
        }

        pub(super) async fn ended(&self) {
            polled::ended(self.0).await;
        }
    }
}

/// Without a handle: the identity is compared right before each signal.
mod polled {
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::process::Pid;

    use super::as_pid;
    use crate::ProcessIdentity;

    const LOOK_EVERY: Duration = Duration::from_millis(50);

    pub(super) fn signal(
        identity: ProcessIdentity,
        send: impl FnOnce(Pid) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        match as_pid(identity.pid).filter(|_| identity.is_running()) {
            Some(pid) => send(pid),
            None => Err(Errno::SRCH),
        }
    }

    pub(super) async fn ended(identity: ProcessIdentity) {
        while identity.is_running() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
