//! Telling a process from a later one with the same pid.

/// When a process started, as a number that no later process with the same pid has; `None` when
/// there is no such process or it has ended and only waits to be reaped.
///
/// Linux: clock ticks since boot, field 22 of `/proc/PID/stat` (man 5 proc).
#[cfg(target_os = "linux")]
#[must_use]
pub fn process_start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which can contain anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// When a process started; `None` when there is no such process.
///
/// Elsewhere than on Linux: what `ps` says, in seconds, as a hash.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn process_start_time(pid: u32) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let pid = pid.to_string();
    let output = std::process::Command::new("ps")
        .args(["-o", "state=,lstart=", "-p", &pid])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (state, start) = text.trim().split_once(char::is_whitespace)?;
    if state.starts_with('Z') {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    start.hash(&mut hasher);
    Some(hasher.finish())
}
