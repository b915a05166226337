//! Which process is meant.

use crate::Running;

/// One process, told from any other that ever has the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: u32,
    /// When it started, in the unit of [`process_start_time`].
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this id at present; `None` if none has it, or it has ended.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_time: process_start_time(pid)? })
    }

    /// Whether the process still runs. One that has ended but that its parent has not taken in
    /// (a zombie) does not run.
    #[must_use]
    pub fn is_running(self) -> bool {
        process_start_time(self.pid) == Some(self.start_time)
    }
}

impl From<&Running> for ProcessIdentity {
    fn from(running: &Running) -> Self {
        Self { pid: running.pid, start_time: running.start_time }
    }
}

/// When the process with this id started; `None` if there is none or it has ended.
///
/// To be compared, not to be shown: on Linux clock ticks (10 ms) since the machine started;
/// elsewhere a number made from the start time that `ps` shows, which is exact to a second.
#[must_use]
pub fn process_start_time(pid: u32) -> Option<u64> {
    if cfg!(target_os = "linux") {
        start_time_in_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    } else {
        let mut ps = std::process::Command::new("ps");
        let asked = ps.args(["-o", "stat=,lstart=", "-p", &pid.to_string()]).env("LC_ALL", "C");
        start_time_in_ps(&String::from_utf8(asked.env("TZ", "UTC").output().ok()?.stdout).ok()?)
    }
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)), unless field 3 says that it has ended.
///
/// Field 2, the name, is in parentheses and can hold anything, so fields count from its end.
fn start_time_in_stat(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let has_ended = matches!(state, "Z" | "X" | "x");
    if has_ended { None } else { fields.nth(18)?.parse().ok() }
}

/// `Ss   Mon Nov 24 02:11:00 2026`: state and start time, the latter as an FNV-1a hash.
fn start_time_in_ps(line: &str) -> Option<u64> {
    let (state, started) = line.trim().split_once(' ')?;
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let has_ended = state.starts_with('Z');
    (!has_ended).then(|| started.trim().bytes().fold(0xcbf2_9ce4_8422_2325, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_have_any_name() {
        let stat = |name: &str, state: &str| {
            format!("77 ({name}) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n")
        };
        assert_eq!(start_time_in_stat(&stat("sh", "S")), Some(4711));
        assert_eq!(start_time_in_stat(&stat("a) Z 1 (b", "R")), Some(4711));
        assert_eq!(start_time_in_stat(&stat("sh", "Z")), None);
        assert_eq!(start_time_in_stat(""), None);
        assert_eq!(start_time_in_stat("77 (sh) S 1"), None);
    }

    #[test]
    fn ps_tells_processes_apart_by_their_second() {
        let first = start_time_in_ps("Ss   Mon Nov 24 02:11:00 2026\n").unwrap();
        assert_eq!(start_time_in_ps("R+   Mon Nov 24 02:11:00 2026\n"), Some(first));
        assert_ne!(start_time_in_ps("Ss   Mon Nov 24 02:11:01 2026\n"), Some(first));
        assert_eq!(start_time_in_ps("Z    Mon Nov 24 02:11:00 2026\n"), None);
        assert_eq!(start_time_in_ps(""), None);
    }

    #[test]
    fn a_process_that_ended_does_not_run_before_it_is_taken_in() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        assert!(identity.is_running());
        let other = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
        assert!(!other.is_running());
        drop(child.stdin.take());
        let deadline = std::time::Duration::from_secs(10);
        crate::testing::until("the child to end", deadline, || !identity.is_running());
        assert_eq!(ProcessIdentity::of(child.id()), None);
        child.wait().unwrap();
    }

    #[test]
    fn no_process_has_an_impossible_id() {
        assert_eq!(ProcessIdentity::of(u32::MAX), None);
        assert_eq!(ProcessIdentity::of(0), None);
    }
}
