//! How much main memory the control groups of this process leave it: in a container, or in a unit of
//! systemd with `MemoryMax`.
//!
//! Both versions of control groups, by the kernel's own files
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>).
//! The limits of all groups around a group hold, too. Pages of files count as free, as the kernel counts them
//! for the whole machine: it drops them when somebody wants memory.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups that this process was in when they were looked for, the innermost first.
#[derive(Debug, Default)]
pub(super) struct ControlGroups {
    groups: Vec<Group>,
}

/// What groups leave of the main memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MainMemory {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl MainMemory {
    /// What both limits leave.
    pub(super) fn min(self, other: Self) -> Self {
        Self { total: self.total.min(other.total), free: self.free.min(other.free) }
    }
}

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// What the files of a group are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// The lines of `memory.stat` with what the kernel would drop.
    droppable: &'static [&'static str],
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    droppable: &["total_active_file", "total_inactive_file"],
};
const VERSION_2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    droppable: &["active_file", "inactive_file", "slab_reclaimable"],
};

impl ControlGroups {
    /// Those of this process; none where the system has no such thing.
    pub(super) fn of_this_process() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Self::read(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    fn read(memberships: &str, mounts: &str) -> Self {
        let groups = memberships.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let files = match controllers {
                "" => &VERSION_2,
                list if list.split(',').any(|name| name == "memory") => &VERSION_1,
                _ => return None,
            };
            let mount = mounts.lines().find_map(|line| Mount::parse(line, files))?;
            Some(mount.around(Path::new(path)).map(|folder| Group { folder, files }))
        });
        Self { groups: groups.flatten().collect() }
    }

    /// What they leave; `None` where no group has a limit.
    pub(super) fn memory(&self) -> Option<MainMemory> {
        let limited = self.groups.iter().filter_map(Group::memory);
        limited.reduce(MainMemory::min)
    }
}

impl Group {
    fn memory(&self) -> Option<MainMemory> {
        let read = |file| fs::read_to_string(self.folder.join(file)).ok();
        let number = |file| read(file)?.trim().parse::<u64>().ok();
        // No number stands for no limit; the first version has a limit above all memory for that.
        let total = number(self.files.limit)?;
        let used = number(self.files.usage)?;
        let stat = read("memory.stat").unwrap_or_default();
        let droppable = stat.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            self.files.droppable.contains(&name).then(|| bytes.parse::<u64>().ok())?
        });
        let held = used.saturating_sub(droppable.sum());
        Some(MainMemory { total, free: total.saturating_sub(held) })
    }
}

/// Where a hierarchy of groups is seen.
struct Mount<'a> {
    /// The group that is seen there.
    root: &'a Path,
    folder: &'a Path,
}

impl<'a> Mount<'a> {
    /// A line of `/proc/self/mountinfo`, if it is of the hierarchy with these files.
    fn parse(line: &'a str, files: &Files) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, folder) = (Path::new(place.next()?), Path::new(place.next()?));
        let mut what = what.split(' ');
        let (kind, options) = (what.next()?, what.nth(1).unwrap_or_default());
        let is_right = if std::ptr::eq(files, &VERSION_2) {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        };
        is_right.then_some(Self { root, folder })
    }

    /// The folders of a group and of those around it, as far as they are seen.
    fn around(&self, group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        // A container may see its own group as the root of all.
        let below = group.strip_prefix(self.root).unwrap_or(Path::new(""));
        let is_plain =
            below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let innermost = if is_plain { self.folder.join(below) } else { self.folder.to_owned() };
        let depth = if is_plain { below.components().count() } else { 0 };
        let folders: Vec<_> = innermost.ancestors().take(depth + 1).map(Path::to_owned).collect();
        folders.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A hierarchy below a temporary folder.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, group: &str, file: &str, content: &str) {
            let folder = self.0.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), content).unwrap();
        }

        fn groups(&self, membership: &str, root: &str, what: &str) -> ControlGroups {
            let folder = self.0.path().display();
            let mounts = format!(
                "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                 35 31 0:32 / /nowhere rw - cgroup cgroup rw,cpu\n\
                 36 31 0:33 {root} {folder} rw,relatime shared:9 - {what}\n"
            );
            ControlGroups::read(membership, &mounts)
        }
    }

    #[test]
    fn the_smallest_limit_of_all_groups_around_a_process_holds() {
        let tree = Tree::new();
        for (group, limit, usage, stat) in [
            ("", "max", 9 * GIB, "active_file 1\n"),
            ("user.slice", "4294967296", 3 * GIB, "anon 5\nactive_file 1073741824\n"),
            (
                "user.slice/hive.service",
                "8589934592",
                2 * GIB,
                "inactive_file 536870912\nslab_reclaimable 536870912\n",
            ),
        ] {
            tree.put(group, "memory.max", &format!("{limit}\n"));
            tree.put(group, "memory.current", &format!("{usage}\n"));
            tree.put(group, "memory.stat", stat);
        }
        let groups =
            tree.groups("0::/user.slice/hive.service\n", "/", "cgroup2 cgroup2 rw,nsdelegate");
        let memory = groups.memory().unwrap();
        assert_eq!(memory, MainMemory { total: 4 * GIB, free: 2 * GIB });
    }

    #[test]
    fn the_first_version_is_understood_also_from_within_a_container() {
        let tree = Tree::new();
        tree.put("", "memory.limit_in_bytes", "2147483648\n");
        tree.put("", "memory.usage_in_bytes", "1610612736\n");
        tree.put("", "memory.stat", "active_file 7\ntotal_active_file 536870912\ntotal_rss 1\n");
        for (membership, root) in [
            ("4:memory:/docker/abc\n0::/\n", "/docker/abc"),
            ("12:cpu:/x\n4:hugetlb,memory:/\n", "/"),
            ("4:memory:/../../elsewhere\n", "/docker/abc"),
        ] {
            let groups = tree.groups(membership, root, "cgroup cgroup rw,memory");
            let expected = MainMemory { total: 2 * GIB, free: GIB };
            assert_eq!(groups.memory(), Some(expected), "{membership} {root}");
        }
    }

    #[test]
    fn where_there_is_no_limit_or_no_such_thing_nothing_is_known() {
        let tree = Tree::new();
        tree.put("", "memory.max", "max\n");
        tree.put("", "memory.current", "1\n");
        assert_eq!(tree.groups("0::/\n", "/", "cgroup2 cgroup2 rw").memory(), None);
        assert_eq!(tree.groups("0::/\n", "/", "cgroup cgroup rw,memory").memory(), None);
        assert_eq!(ControlGroups::read("", "").memory(), None);
        assert_eq!(ControlGroups::read("nonsense\n::\n", "nonsense - \n - ").memory(), None);
    }
}
