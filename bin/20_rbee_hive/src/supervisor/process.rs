//! The processes of workers: the only file that starts, watches and signals them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use daemon_lifecycle::{ProcessHandle, ProcessIdentity, process_start_time, started_with};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::failure::Exit;
use super::machine::Action;
use super::token;

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
    Adopted(ProcessHandle),
}

impl WorkerProcess {
    /// Starts a process that outlives this one: it has a process group of its own, so that a Ctrl-C
    /// at the hive's terminal is not also sent to it, and writes straight into its log file. By the
    /// token the next hive knows it again.
    pub(super) fn start(
        binary: &Path,
        arguments: &[OsString],
        token: &str,
        variables: &[(&str, &str)],
        log: &File,
    ) -> io::Result<Self> {
        let child = Command::new(binary)
            .args(arguments)
            .env(token::VARIABLE, token)
            .envs(variables.iter().copied())
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

    /// The running process that an earlier hive started, if it is still that one: it has the pid, the
    /// start time and, where the ledger has one and the system shows it, the token.
    pub(super) fn adopt(process: ProcessIdentity, token: Option<&str>) -> Option<Self> {
        let handle = ProcessHandle::open(process)?;
        // Asked after the handle was opened: if that is the right process, so is the environment.
        let is_proven = match token {
            Some(token) if cfg!(target_os = "linux") => {
                started_with(process.pid, token::VARIABLE).as_deref() == Some(token)
            }
            _ => true,
        };
        let ProcessIdentity { pid, start_time } = process;
        is_proven.then_some(Self { pid, start_time, kind: Kind::Adopted(handle) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The memory that it shares with nobody and that stands in no file, in bytes, as far as the system tells.
    pub(super) fn own_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kibibytes = status.lines().filter_map(|line| {
            let (_, amount) = line.split_once("RssAnon:")?;
            amount.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        kibibytes.sum::<u64>().saturating_mul(1024)
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
                process.ended().await;
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
