//! A process that is held, so that no other can be mistaken for it.

use rustix::process::Pid;

#[cfg(target_os = "linux")]
pub use self::by_descriptor::ProcessHandle;
#[cfg(not(target_os = "linux"))]
pub use self::by_identity::ProcessHandle;

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(target_os = "linux")]
mod by_descriptor {
    use std::os::fd::OwnedFd;

    use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
    use tokio::io::unix::AsyncFd;

    use super::{as_pid, polled};
    use crate::ProcessIdentity;

    /// A process of anybody's, told from any other that ever has its id.
    #[derive(Debug)]
    pub struct ProcessHandle {
        identity: ProcessIdentity,
        /// Missing on a kernel that has no such handles, or in a sandbox that forbids them.
        pidfd: Option<AsyncFd<OwnedFd>>,
    }

    impl ProcessHandle {
        /// `None` if the process has ended. To be called inside a tokio runtime.
        #[must_use]
        pub fn open(identity: ProcessIdentity) -> Option<Self> {
            let pidfd = pidfd_open(as_pid(identity.pid)?, PidfdFlags::empty()).ok();
            #[expect(
                deprecated,
                reason = "sound for an owned descriptor; what replaces it is unsafe to call"
            )]
            let pidfd = pidfd.and_then(|fd| AsyncFd::new(fd).ok());
            // Asked after the handle was opened: if it is the right process, so is the handle.
            identity.is_running().then_some(Self { identity, pidfd })
        }

        /// Sends the signal.
        ///
        /// # Errors
        /// `ESRCH` when the process has ended; `EPERM` when it is not this user's.
        pub fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            match &self.pidfd {
                Some(pidfd) => pidfd_send_signal(pidfd.get_ref(), signal),
                None => polled::signal(self.identity, |pid| kill_process(pid, signal)),
            }
        }

        /// Waits for the end: at once on Linux, else by looking again and again. May be dropped and
        /// called again.
        pub async fn ended(&self) {
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
mod by_identity {
    use rustix::process::{Signal, kill_process};

    use super::polled;
    use crate::ProcessIdentity;

    /// A process of anybody's, told from any other that ever has its id.
    #[derive(Debug)]
    pub struct ProcessHandle(ProcessIdentity);

    impl ProcessHandle {
        /// `None` if the process has ended.
        #[must_use]
        pub fn open(identity: ProcessIdentity) -> Option<Self> {
            identity.is_running().then_some(Self(identity))
        }

        /// Sends the signal.
        ///
        /// # Errors
        /// `ESRCH` when the process has ended; `EPERM` when it is not this user's.
        pub fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            polled::signal(self.0, |pid| kill_process(pid, signal))
        }

        /// Waits for the end: at once on Linux, else by looking again and again. May be dropped and
        /// called again.
        pub async fn ended(&self) {
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
