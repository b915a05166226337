//! A process that is measured, with its children.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::Timespec;
use tempfile::TempDir;

/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// So much of a log is shown.
const LOG_LINES: usize = 20;
/// How long a process may take to end that is asked to.
const TIME_TO_END: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A running program, in a folder of its own. Dropping it asks it to end, and kills it and its children if it does not.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    dir: TempDir,
}

/// What a process and its children have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time so far, in seconds.
    pub(crate) cpu_s: f64,
    /// Memory at the moment, in bytes.
    pub(crate) rss: f64,
}

impl Process {
    /// Starts a program; what it says goes to a log in `dir`.
    pub(super) fn start(command: &mut Command, dir: TempDir) -> Result<Self> {
        let log = File::create(dir.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        Ok(Self { child, dir })
    }

    /// Its folder.
    pub(super) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// The last that it said.
    pub(super) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// What it and its children have used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for pid in family(self.child.id()) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name, in brackets, may have spaces.
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let ticks =
                |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok());
            let both = ticks(11).zip(ticks(12)).context("/proc/PID/stat has no times")?;
            sum.cpu_s += (both.0 + both.1) / TICKS_PER_SECOND;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
            sum.rss += kib.context("/proc/PID/status has no VmRSS")? * 1024.0;
        }
        Ok(sum)
    }
}

impl Process {
    /// One that was built to count what it does writes that down when it ends.
    fn ask_to_end(&self) {
        let pid = Pid::from_child(&self.child);
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if kill_process(pid, Signal::TERM).is_ok() {
            // It can be read when the process has ended.
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&TIME_TO_END));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = family(self.child.id());
        self.ask_to_end();
        // The parent first: it would start others in the place of its children.
        for pid in family {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    all
}
