//! The processes of one home: found by their environment, ended without mercy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

pub use rustix::process::Signal;

/// A process that belongs to a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its process id.
    pub pid: u32,
    /// The file name of its binary: `queen-rbee`, `llm-worker-rbee`, …
    pub name: String,
    /// Its whole command line.
    pub command: String,
}

/// Whether the process runs. One that has ended and was not yet reaped does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and can contain anything.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal; a process that is gone is no error.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only failures left are a process that is gone and one of another user.
        let _ = kill_process(pid, signal);
    }
}

/// The processes whose `RBEE_HOME` is this folder, or whose command line names a file in it.
pub(crate) fn of_home(home: &Path) -> Vec<ProcessInfo> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| process_of_home(pid, home))
        .collect()
}

/// Kills every process of the home, those that others start meanwhile included.
pub(crate) fn kill_all(home: &Path) {
    for _ in 0..50 {
        let found = of_home(home);
        if found.is_empty() {
            return;
        }
        for process in &found {
            send_signal(process.pid, Signal::KILL);
        }
        for process in &found {
            wait_gone(process.pid, Duration::from_secs(2));
        }
    }
}

fn process_of_home(pid: u32, home: &Path) -> Option<ProcessInfo> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let home = home.to_str()?;
    let marker = format!("RBEE_HOME={home}");
    let by_environment =
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes());
    let by_arguments = words.iter().any(|word| word.contains(home));
    if !(by_environment || by_arguments) || !is_alive(pid) {
        return None;
    }
    let name = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
    Some(ProcessInfo { pid, name, command: words.join(" ") })
}

fn wait_gone(pid: u32, timeout: Duration) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // A process that cannot be opened is gone.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let timeout = Timespec::try_from(timeout).ok();
    // The next look at the home shows whether the wait was long enough.
    let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_home_and_killed_with_it() {
        let home = tempfile::tempdir().unwrap();
        let mut child =
            Command::new("sleep").arg("60").env("RBEE_HOME", home.path()).spawn().unwrap();
        // Until it has become `sleep`, it is a copy of this process, with its environment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = of_home(home.path());
        while found.is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            found = of_home(home.path());
        }
        assert_eq!(found.iter().map(|p| p.pid).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(found[0].name, "sleep");

        kill_all(home.path());
        assert!(!is_alive(child.id()), "a killed child that is not reaped counts as gone");
        assert!(!child.wait().unwrap().success());
        assert_eq!(of_home(home.path()), []);
    }

    #[test]
    fn this_test_is_alive_and_pid_0_is_not() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(0));
    }
}
