//! How much main memory this process can still have.

use std::path::Path;

/// The memory that is available to this process, in bytes, where the system says so: the machine's,
/// or less where a control group allows less.
///
/// Memory that holds unchanged parts of files counts as available. On Linux only; elsewhere `None`.
pub(super) fn available() -> Option<u64> {
    let machine = available_of_machine(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_path(&group).unwrap_or("/");
    let root = Path::new("/sys/fs/cgroup");
    let folder = root.join(group.trim_start_matches('/'));
    let rooms = folder.ancestors().take_while(|folder| folder.starts_with(root));
    let rooms = rooms.filter_map(|folder| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        room_in_group(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
    });
    Some(rooms.min().map_or(machine, |room| room.min(machine)))
}

/// `MemAvailable` of `/proc/meminfo`.
fn available_of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The path of the process's group in the unified hierarchy, of `/proc/self/cgroup`.
fn group_path(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// What a group has left: its limit, less what it uses, but for pages of files that can be dropped.
/// `None` where it has no limit.
fn room_in_group(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let droppable = ["inactive_file ", "active_file "].iter().filter_map(|name| {
        stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok()
    });
    Some(max.saturating_sub(current.saturating_sub(droppable.sum())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let meminfo = "MemTotal:       24576 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available_of_machine(meminfo), Some(2048 * 1024));
        assert_eq!(available_of_machine("MemTotal: 1 kB\n"), None);
        assert_eq!(group_path("12:cpu:/a\n0::/user.slice/x\n"), Some("/user.slice/x"));
        assert_eq!(group_path("1:memory:/old\n"), None);
    }

    #[test]
    fn a_groups_room_counts_droppable_pages_and_no_limit_is_none() {
        let stat = "anon 5\nfile 9\ninactive_file 200\nactive_file 100\n";
        for (max, current, room) in [
            ("max\n", "500\n", None),
            ("1000\n", "500\n", Some(800)),
            ("1000\n", "1300\n", Some(0)),
            ("1000\n", "200\n", Some(1000)),
        ] {
            assert_eq!(room_in_group(max, current, stat), room, "{max} {current}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(available().unwrap() > 1 << 20);
    }
}
