//! The verbs of `script/hive.sh` on this machine, in a home of their own and without systemd: what an upgrade
//! leaves that is cut off somewhere.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::SCRIPT;
use super::payload::digest;

const SOON: Duration = Duration::from_secs(20);

/// What says, once it runs, that it was started; it ends at once.
const SUPERVISE: &str = ": >\"$1/started\"\n";

#[test]
fn a_file_that_is_not_the_one_that_was_looked_at_is_not_taken_over() {
    let machine = Machine::with_hive();
    machine.ok("begin", &[".staging-b"]);
    let hive = hex("hive r1");
    machine.ok("reuse", &[".staging-b", "rbee-hive", &hive, "supervise.sh", &hex(SUPERVISE)]);
    assert_eq!(machine.read(".staging-b/rbee-hive"), "hive r1");
    fs::remove_file(machine.root().join(".staging-b/rbee-hive")).unwrap();

    fs::write(machine.root().join("current/rbee-hive"), "something else").unwrap();
    let refused = machine.run("reuse", &[".staging-b", "rbee-hive", &hive], "");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("rbee-hive there is another file"), "{said}");
    machine.ok("rollback", &[".staging-b", ""]);
    assert!(!machine.root().join(".staging-b").exists());
}

#[test]
fn an_upgrade_that_is_cut_off_before_it_is_whole_is_undone_by_the_next_one() {
    // Killed while the release is put in its place, and when it is to be the one in use.
    for moment in ["releases/r2", "-T"] {
        let machine = Machine::with_hive();
        let before = machine.installed();
        machine.bring(".staging-b", "r2");
        machine.lie(
            "mv",
            &format!("case \"$*\" in *{moment}*) kill -KILL $PPID;; esac\nexec /bin/mv \"$@\"\n"),
        );
        let cut = machine.run("activate", &[".staging-b", "r2", "gpu-1"], "");
        assert!(!cut.status.success(), "it was killed");
        assert_ne!(machine.read("config.toml"), "config r1", "it was in the middle of it");
        machine.truth("mv");

        machine.ok("begin", &[".staging-c"]);
        assert_eq!(machine.installed(), before, "{moment}");
        assert!(!machine.root().join("releases/r2").exists(), "{moment}");
        machine.ok("rollback", &[".staging-c", ""]);
        assert_eq!(machine.installed(), before, "{moment}");
    }
}

#[test]
fn an_upgrade_that_is_whole_stays_though_nobody_came_to_accept_it() {
    let machine = Machine::with_hive();
    machine.bring(".staging-b", "r2");
    machine.ok("activate", &[".staging-b", "r2", "gpu-1"]);
    assert!(machine.root().join(".before/done").exists());
    let upgraded = machine.installed();
    assert!(upgraded.contains("hive r2"), "{upgraded}");
    // Taking away what another installation brought changes nothing of it.
    machine.ok("rollback", &[".staging-x", ""]);
    machine.ok("begin", &[".staging-c"]);
    assert_eq!(machine.installed(), upgraded);
    assert!(!machine.root().join("releases/r1").exists(), "the former one is gone");
}

#[test]
fn an_upgrade_that_does_not_work_gives_way_to_the_former_hive_which_is_started() {
    let machine = Machine::with_hive();
    let before = machine.installed();
    machine.bring(".staging-b", "r2");
    machine.ok("activate", &[".staging-b", "r2", "gpu-1"]);
    machine.ok("bring_back", &[]);
    assert_eq!(machine.installed(), before);
    let started = machine.root().join("started");
    let deadline = Instant::now() + SOON;
    while !started.exists() {
        assert!(Instant::now() < deadline, "the former hive is not started");
        std::thread::yield_now();
    }
    machine.ok("bring_back", &[]);
    assert_eq!(machine.installed(), before, "who did not hear of it can ask again");
    machine.ok("begin", &[".staging-c"]);
    let later = machine.run("bring_back", &[], "");
    assert!(!later.status.success(), "nothing is set aside any longer");
}

/// A home on this machine, and what stands in for some of its programs.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// With the release `r1`, accepted.
    fn with_hive() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lies")).unwrap();
        let machine = Self { folder };
        machine.lie("systemctl", "exit 1\n");
        machine.bring(".staging-a", "r1");
        machine.ok("activate", &[".staging-a", "r1", "gpu-1"]);
        machine.ok("accept", &[]);
        machine
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join(".local/share/rbee-hive")
    }

    /// Sends all that a release has.
    fn bring(&self, staging: &str, release: &str) {
        self.ok("begin", &[staging]);
        for (name, text, mode) in [
            ("rbee-hive", format!("hive {release}"), "700"),
            ("supervise.sh", SUPERVISE.to_owned(), "600"),
            ("config.toml", format!("config {release}"), "600"),
            ("local.token", format!("secret {release}"), "600"),
            ("rbee-hive.service", format!("unit {release}"), "600"),
        ] {
            let bytes = text.len().to_string();
            let received = self.run("receive", &[staging, name, mode, &bytes, &hex(&text)], &text);
            assert!(received.status.success(), "{received:?}");
        }
    }

    /// All that says which hive is there.
    fn installed(&self) -> String {
        let files = ["config.toml", "data/secrets/local.token", "alias", "current/rbee-hive"];
        files.map(|file| self.read(file)).join("\n")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root().join(file)).unwrap_or_else(|error| format!("({error})"))
    }

    /// Has a program say something else.
    fn lie(&self, program: &str, script: &str) {
        let file = self.lies().join(program);
        fs::write(&file, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn truth(&self, program: &str) {
        fs::remove_file(self.lies().join(program)).unwrap();
    }

    fn lies(&self) -> PathBuf {
        self.folder.path().join("lies")
    }

    fn ok(&self, verb: &str, arguments: &[&str]) {
        let ran = self.run(verb, arguments, "");
        assert!(ran.status.success(), "{verb}: {ran:?}");
    }

    fn run(&self, verb: &str, arguments: &[&str], input: &str) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.lies().display());
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "hive.sh", verb])
            .args(arguments)
            .env_clear()
            .envs([("HOME", self.folder.path()), ("PATH", Path::new(&path))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait_with_output().unwrap()
    }
}

fn hex(text: &str) -> String {
    digest(text.as_bytes()).as_hex().to_owned()
}
