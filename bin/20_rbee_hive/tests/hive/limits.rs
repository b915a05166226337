//! What a hive may give workers of main memory: as it is told, and as its control group has.

use std::fs;
use std::path::{Path, PathBuf};

use rbee_operations::{FitReport, LARGER_THAN_DEVICE};
use test_cluster::{Api, demo_model, skip_test, wait_until};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::support::{Home, LITTLE_MEMORY, SOON, api_of_daemon, result, spawn, would_fit};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_model_that_needs_more_than_the_hive_may_give_is_refused_and_the_limit_is_named() {
    let home = Home::with_little_memory();
    let hive = home.start().await.unwrap();
    let device = hive.hive.devices().remove(0);
    assert_eq!(device.memory_total_bytes, LITTLE_MEMORY);
    assert!(device.memory_free_bytes <= LITTLE_MEMORY, "{device:?}");

    hive.import(&demo_model().unwrap(), "m").await.unwrap();
    let error = hive.run(spawn("m")).await.unwrap_err();
    assert_eq!(error.code, LARGER_THAN_DEVICE, "{}", error.message);
    let fit: FitReport = result(hive.run(would_fit("m", Vec::new())).await.unwrap());
    assert!(!fit.fits && fit.larger_than_device, "{fit:?}");
    let limit = "workers may have 64.0 MiB in all ([hive] memory)";
    assert!(error.message.contains(limit), "{}", error.message);
    let hint = error.hint.unwrap();
    assert!(hint.contains("a larger [hive] memory") && !hint.contains("end a worker"), "{hint}");
    assert!(hive.hive.workers().is_empty());
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_hive_in_a_control_group_gives_what_that_has_and_sees_what_others_in_it_take() {
    let group = match Group::with_limit(512 * MIB) {
        Ok(group) => group,
        Err(reason) => {
            skip_test(&format!("no control group with a limit can be made here: {reason}"));
            return;
        }
    };
    let home = Home::new();
    let mut hive = hive(&home, &group);
    let api = api_of_daemon(home.path()).await;
    let before = main_memory(&api).await;
    assert_eq!(before.0, 512 * MIB);
    assert!(before.1 <= 512 * MIB, "{before:?}");

    let script = "x = b'x' * (200 << 20); input()";
    let mut other = group.start("python3", &["-c", script]).spawn().unwrap();
    let is_less = async || (main_memory(&api).await.1 + 150 * MIB < before.1).then_some(());
    wait_until("less free memory", SOON, is_less).await.unwrap();
    other.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    assert!(other.wait().await.unwrap().success());
    let is_back = async || (main_memory(&api).await.1 + 50 * MIB > before.1).then_some(());
    wait_until("free memory", SOON, is_back).await.unwrap();
    hive.kill().await.unwrap();
}

/// Total and free.
async fn main_memory(api: &Api) -> (u64, u64) {
    let told = api.get("/v1/capabilities").await.unwrap().json().unwrap();
    let number = |field: &str| told["devices"][0][field].as_u64();
    let both = number("memory_total_bytes").zip(number("memory_free_bytes"));
    both.unwrap_or_else(|| panic!("no memory in {told}"))
}

fn hive(home: &Home, group: &Group) -> Child {
    let config = "[queen]\nbind = \"127.0.0.1:0\"\n[hive]\nbind = \"127.0.0.1:0\"\n";
    fs::write(home.path().join("config.toml"), config).unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::rename(home.double("serves"), bin.join("llm-worker-rbee")).unwrap();
    let mut command = group.start(env!("CARGO_BIN_EXE_rbee-hive"), &[]);
    command.env("RBEE_HOME", home.path()).env("RBEE_BIN_DIR", bin);
    command.spawn().unwrap()
}

/// A control group of this test's own, of whichever version the memory is governed by here.
struct Group(PathBuf);

impl Group {
    fn with_limit(bytes: u64) -> std::io::Result<Self> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = if first.is_dir() {
            (first, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(root.join(format!("rbee-test-{}", std::process::id())));
        fs::create_dir(&group.0)?;
        fs::OpenOptions::new().write(true).open(group.0.join(file))?;
        fs::write(group.0.join(file), bytes.to_string())?;
        Ok(group)
    }

    /// A program that runs in it.
    fn start(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(program)
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was killed takes a moment to leave it.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::yield_now();
        }
    }
}
