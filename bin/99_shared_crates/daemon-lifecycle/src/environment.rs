//! What a process was started with, as its kernel remembers it.

use std::fs;

use crate::ProcessIdentity;

/// The value that a variable had when the process was started; `None` where it had none, the process
/// has ended or is another user's, or the system does not tell (all but Linux).
#[must_use]
pub fn started_with(pid: u32, variable: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    value_in(&environment, variable)
}

/// All processes of this user that were started with a value of the variable for which `wanted` holds,
/// each with that value; empty where the system does not tell (all but Linux).
pub fn find_started_with(
    variable: &str,
    wanted: impl Fn(&str) -> bool,
) -> Vec<(ProcessIdentity, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.filter_map(|pid: u32| {
        // Asked before the environment is read: if that is the right one, so is the start time.
        let identity = ProcessIdentity::of(pid)?;
        let value = started_with(pid, variable).filter(|value| wanted(value))?;
        identity.is_running().then_some((identity, value))
    });
    found.collect()
}

fn value_in(environment: &[u8], variable: &str) -> Option<String> {
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = b"RBEE_HOME=/a\0TOKEN_OLD=1\0TOKEN=2=3\0\0";
        assert_eq!(value_in(environment, "TOKEN").as_deref(), Some("2=3"));
        assert_eq!(value_in(environment, "RBEE"), None);
        assert_eq!(value_in(b"", "TOKEN"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_found_by_what_it_was_started_with() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo started; read line"])
            .env("LIFECYCLE_TEST", "one-of-a-kind")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // `spawn` may return before the kernel has given the child its environment.
        let mut first = [0];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let found = find_started_with("LIFECYCLE_TEST", |value| value == "one-of-a-kind");
        assert_eq!(found.iter().map(|(process, _)| process.pid).collect::<Vec<_>>(), [child.id()]);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(find_started_with("LIFECYCLE_TEST", |value| value == "one-of-a-kind"), []);
    }
}
