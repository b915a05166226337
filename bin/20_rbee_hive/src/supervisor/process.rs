//! The processes of workers: the only file that starts, watches and signals them.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use daemon_lifecycle::process_start_time;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::failure::Exit;
use super::machine::Action;

/// How often a process that is not a child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A worker's process, for as long as nobody has taken in its end.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    pid: u32,
    start_time: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Started by this hive.
    Child(Child),
    /// Started by an earlier one.
    Adopted(foreign::Process),
}

impl WorkerProcess {
    /// Starts a process that outlives this one: it has a process group of its own, so that a Ctrl-C
    /// at the hive's terminal is not also sent to it, and writes straight into its log file.
    pub(super) fn start(binary: &Path, arguments: &[OsString], log: &File) -> io::Result<Self> {
        let child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        let pid = child.id().expect("a child that nobody waited for has its pid");
        // A process that is gone already has no start time, and its end is noticed by the wait.
        let start_time = process_start_time(pid).unwrap_or(0);
        Ok(Self { pid, start_time, kind: Kind::Child(child) })
    }

    /// The running process that an earlier hive started, if it is still that one.
    pub(super) fn adopt(pid: u32, start_time: u64) -> Option<Self> {
        let process = foreign::Process::open(pid, start_time)?;
        Some(Self { pid, start_time, kind: Kind::Adopted(process) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Waits for the end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Exit {
        match &mut self.kind {
            Kind::Child(child) => match child.wait().await {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(status), _) => Exit::Status(status),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Unknown,
                },
                Err(_) => Exit::Unknown,
            },
            Kind::Adopted(process) => {
                while !process.has_ended() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Exit::Unknown
            }
        }
    }

    /// Sends the signal; a process that has ended meanwhile is no error.
    pub(super) fn signal(&self, action: Action) {
        let signal = match action {
            Action::Terminate => Signal::TERM,
            Action::Kill => Signal::KILL,
        };
        let sent = match &self.kind {
            // Its pid is `Some` until its end was taken in, and until then it is nobody else's.
            Kind::Child(child) => match child.id().and_then(as_pid) {
                Some(pid) => kill_process(pid, signal),
                None => Ok(()),
            },
            Kind::Adopted(process) => process.signal(signal),
        };
        if let Err(error) = sent
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid, ?action, %error, "a worker cannot be signalled");
        }
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A process that is not a child: held by a handle that stays with it whatever its pid becomes.
#[cfg(target_os = "linux")]
mod foreign {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    #[derive(Debug)]
    pub(super) struct Process(OwnedFd);

    impl Process {
        pub(super) fn open(pid: u32, start_time: u64) -> Option<Self> {
            let handle = pidfd_open(super::as_pid(pid)?, PidfdFlags::empty()).ok()?;
            // Asked after the handle was opened: if the process is the right one, so is the handle.
            let is_same = super::process_start_time(pid) == Some(start_time);
            is_same.then_some(Self(handle))
        }

        pub(super) fn has_ended(&self) -> bool {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut asked = [PollFd::new(&self.0, PollFlags::IN)];
            poll(&mut asked, Some(&at_once)).is_ok_and(|ready| ready > 0)
        }

        pub(super) fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            pidfd_send_signal(&self.0, signal)
        }
    }
}

/// A process that is not a child: known by pid and start time, which are compared before each use.
#[cfg(not(target_os = "linux"))]
mod foreign {
    use rustix::process::{Signal, kill_process};

    #[derive(Debug)]
    pub(super) struct Process {
        pid: u32,
        start_time: u64,
    }

    impl Process {
        pub(super) fn open(pid: u32, start_time: u64) -> Option<Self> {
            let process = Self { pid, start_time };
            (!process.has_ended()).then_some(process)
        }

        pub(super) fn has_ended(&self) -> bool {
            super::process_start_time(self.pid) != Some(self.start_time)
        }

        pub(super) fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
            match super::as_pid(self.pid) {
                Some(pid) if !self.has_ended() => kill_process(pid, signal),
                _ => Ok(()),
            }
        }
    }
}
