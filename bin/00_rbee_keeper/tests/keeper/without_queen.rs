//! Commands that need no queen, and what the others say when there is none.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use daemon_lifecycle::{LEAVES_WORKERS, process_start_time};
use serde_json::json;
use tokio::process::Command;

use crate::support::{Home, TestQueen, finish};

#[tokio::test]
async fn status_of_nothing_is_an_answer_with_its_own_exit_code() {
    let home = Home::new();
    for line in ["status", "queen status"] {
        let ended = home.run(line).await.expect(3);
        assert!(ended.stdout.contains("queen-rbee is not running"), "{ended:?}");
        assert!(ended.stderr.contains("rbee-keeper up"), "{ended:?}");
        let ended = home.run(&format!("{line} --json")).await.expect(3);
        assert_eq!(ended.json()["running"], false, "{ended:?}");
        assert_eq!(ended.stderr, "");
    }
}

#[tokio::test]
async fn what_looks_or_stops_starts_no_queen() {
    let home = Home::new();
    std::fs::write(home.path().join("rules"), "").unwrap();
    for line in [
        "hive status",
        "hive status gpu-1",
        "hive stop",
        "queen info",
        "request why r-1",
        "policy test rules",
    ] {
        let ended = home.run(line).await.expect(3);
        assert_eq!(ended.stdout, "", "{line}");
        assert!(ended.stderr.contains("queen-rbee is not running"), "{line}: {ended:?}");
        let error = home.run(&format!("{line} --json")).await.expect(3).error();
        assert_eq!(error["code"], "queen_not_running", "{line}");
    }
    assert!(!home.path().join("run").exists(), "something was started");
}

#[tokio::test]
async fn a_hive_without_a_queen_is_told_to_whoever_wants_to_stop_it() {
    let home = Home::new();
    let mut hive = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let pid = hive.id().unwrap();
    listens_at(&home, "rbee-hive", pid, "127.0.0.1:1");
    let ended = home.run("hive stop").await.expect(3);
    let told =
        format!("rbee-hive is running without a queen, pid {pid}; `rbee-keeper down` stops it");
    assert!(ended.stderr.contains(&told), "{ended:?}");
    assert!(hive.try_wait().unwrap().is_none(), "it was ended: {ended:?}");
}

#[tokio::test]
async fn stopping_nothing_succeeds() {
    let home = Home::new();
    assert_eq!(home.run("down").await.expect(0).stdout, "nothing was running\n");
    let ended = home.run("down --json").await.expect(0);
    assert_eq!(ended.json(), json!({ "stopped": [] }));
    assert_eq!(home.run("queen stop --json").await.expect(0).json()["stopped"], false);
    assert!(!home.path().join("run").exists() && !home.path().join("data").exists());
}

#[tokio::test]
async fn a_folder_of_programs_that_does_not_exist_is_refused_by_whoever_needs_one() {
    let home = Home::new();
    let mut up = home.command("up");
    up.env("RBEE_BIN_DIR", home.path().join("nowhere"));
    let refused = finish(up).await.expect(1);
    for told in ["RBEE_BIN_DIR names", "/nowhere, and there is no such folder"] {
        assert!(refused.stderr.contains(told), "{told} is not in {refused:?}");
    }
    assert!(!home.path().join("run/queen-rbee.pid").exists(), "no other one was started");
}

#[tokio::test]
async fn workers_that_a_killed_hive_left_behind_are_stopped() {
    let home = Home::new();
    let mut worker = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let mut stranger = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let entry = |id: &str, pid: u32, start_time: u64| json!({ "worker_id": id, "model": "m", "pid": pid, "start_time": start_time, "port": 9300 });
    let (pid, other) = (worker.id().unwrap(), stranger.id().unwrap());
    let start_time = process_start_time(pid).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    // The second entry is of a process that has ended and whose pid another one has got.
    let ledger = json!({
        "boot": boot.trim(),
        "workers": [entry("w-1", pid, start_time), entry("w-2", other, start_time - 1)],
    });
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    std::fs::write(home.path().join("run/workers.json"), ledger.to_string()).unwrap();

    let ended = home.run("down").await.expect(0);
    assert_eq!(ended.stdout, format!("stopped worker w-1 (m), pid {pid}\n"));
    assert!(!worker.wait().await.unwrap().success());
    assert!(stranger.try_wait().unwrap().is_none(), "a process of somebody else was stopped");
}

#[tokio::test]
async fn a_queen_that_hangs_is_killed_soon_and_that_is_told() {
    let home = Home::new();
    let mut queen = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let pid = queen.id().unwrap();
    let _door = door_of(&home, pid);
    let stopped = Command::new("/bin/kill").args(["-STOP", &pid.to_string()]).status().await;
    assert!(stopped.unwrap().success());

    let ended = home.run("down").await.expect(0);
    assert_eq!(ended.stdout, format!("killed queen-rbee, pid {pid}\n"));
    let told = "queen-rbee hangs: it has not answered for 10 s";
    assert!(ended.stderr.contains(told), "{ended:?}");
    assert!(!queen.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_queen_that_has_no_place_for_another_call_is_told_to_end_and_has_her_time() {
    let home = Home::new();
    let [ready, told, done] = ["ready", "told", "done"].map(|name| home.path().join(name));
    let script = "trap 'touch \"$1\"; until [ -e \"$2\" ]; do sleep 0.05; done; exit 0' TERM
        touch \"$0\"
        while :; do sleep 0.05; done";
    let mut queen = Command::new("/bin/sh");
    queen.args(["-c", script]).args([&ready, &told, &done]).kill_on_drop(true);
    let mut queen = queen.spawn().unwrap();
    let pid = queen.id().unwrap();
    let door = door_of(&home, pid);
    appears(&ready).await;
    let drained = async {
        appears(&told).await;
        drop(door);
        std::fs::write(&done, "").unwrap();
    };
    let (ended, ()) = tokio::join!(home.run("down"), drained);
    let ended = ended.expect(0);
    assert_eq!(ended.stdout, format!("stopped queen-rbee, pid {pid}\n"));
    assert!(!ended.stderr.contains("hangs"), "{ended:?}");
    assert!(queen.wait().await.unwrap().success());
}

/// Waits for a file.
async fn appears(file: &Path) {
    let begin = Instant::now();
    while !file.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "there is no {}", file.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process taken for the queen: the system takes her calls, and nobody answers them.
fn door_of(home: &Home, pid: u32) -> TcpListener {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    listens_at(home, "queen-rbee", pid, &door.local_addr().unwrap().to_string());
    door
}

fn listens_at(home: &Home, daemon: &str, pid: u32, address: &str) {
    let start_time = process_start_time(pid).unwrap();
    let run = home.path().join("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join(format!("{daemon}.lock")), format!("{pid} {start_time}\n")).unwrap();
    std::fs::write(run.join(format!("{daemon}.addr")), address).unwrap();
}

#[tokio::test]
async fn a_queen_is_asked_by_the_local_secret_to_leave_the_workers_of_the_hive_in_her() {
    for (features, asked, is_warned) in [
        (&["local-hive", LEAVES_WORKERS][..], &["workers=keep"][..], false),
        (&["local-hive"][..], &[][..], true),
        (&[][..], &[][..], false),
    ] {
        let home = Home::new();
        let queen = TestQueen::with_features(features, &home.path().join("data/secrets"));
        let mut process = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        listens_at(
            &home,
            "queen-rbee",
            process.id().unwrap(),
            queen.url.trim_start_matches("http://"),
        );
        let mut stop = home.command("queen stop");
        stop.env("RBEE_API_KEY", "rbee_a-token-of-another-queen");
        let ended = finish(stop).await.expect(0);
        assert_eq!(*queen.shutdowns.lock().unwrap(), asked, "{features:?}: {ended:?}");
        let is_told = ended.stderr.contains("they end with her");
        assert_eq!(is_told, is_warned, "{features:?}: {ended:?}");
        assert!(!process.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn a_queen_that_does_not_accept_the_call_is_not_ended_with_her_workers() {
    let home = Home::new();
    let queen = TestQueen::with_token("rbee_another-secret-than-the-one-of-this-home");
    let mut process = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    listens_at(&home, "queen-rbee", process.id().unwrap(), queen.url.trim_start_matches("http://"));
    let ended = home.run("queen stop").await.expect(1);
    for told in ["without her workers", "does not accept this token", "`rbee-keeper down`"] {
        assert!(ended.stderr.contains(told), "{told} is not in {ended:?}");
    }
    assert!(process.try_wait().unwrap().is_none(), "it was ended: {ended:?}");
}

#[tokio::test]
async fn a_queen_that_takes_no_call_is_stopped_and_only_a_hive_in_her_is_a_reason_to_warn() {
    for (version, is_warned) in [("0.1.0 (local-hive)", true), ("0.1.0", false)] {
        let home = Home::new();
        let installed = home.path().join("queen-rbee");
        std::fs::write(installed, format!("#!/bin/sh\necho 'queen-rbee {version}'\n")).unwrap();
        let mut process = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        let pid = process.id().unwrap();
        let _door = door_of(&home, pid);
        let ended = home.run("queen stop").await.expect(0);
        assert_eq!(ended.stdout, format!("stopped queen-rbee, pid {pid}\n"));
        let is_told = ended.stderr.contains("may end with her");
        assert_eq!(is_told, is_warned, "{version}: {ended:?}");
        assert!(!process.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn a_token_is_shown_once_listed_and_revoked() {
    let home = Home::new();
    assert_eq!(home.run("token list --json").await.expect(0).json(), json!([]));
    let created = home.run("token create --name laptop").await.expect(0);
    let token = created.stdout.trim().to_owned();
    assert!(token.starts_with("rbee_") && token.len() == 48, "{created:?}");
    assert!(!created.stderr.contains(&token), "{created:?}");

    let listed = home.run("token list --json").await.expect(0).json();
    assert_eq!(listed[0]["name"], "laptop");
    assert!(!listed.to_string().contains(&token));
    let table = home.run("token list").await.expect(0).stdout;
    assert!(table.contains("laptop") && !table.contains(&token), "{table}");

    home.run("token revoke laptop").await.expect(0);
    let again = home.run("token revoke laptop").await.expect(1);
    assert!(again.stderr.contains("laptop") && again.stderr.contains("hint:"), "{again:?}");
    assert_eq!(again.stdout, "");
}

#[tokio::test]
async fn tokens_without_a_name_get_one_each() {
    let home = Home::new();
    let first = home.run("token create --json").await.expect(0).json();
    let second = home.run("token create --json").await.expect(0).json();
    assert_eq!((&first["name"], &second["name"]), (&"token-1".into(), &"token-2".into()));
    assert!(first["token"].as_str().unwrap().starts_with("rbee_"));
}

#[tokio::test]
async fn an_open_door_is_refused_with_the_command_that_closes_it() {
    let home = Home::new();
    for line in ["queen start --bind 0.0.0.0:0", "up --bind [::]:0"] {
        let ended = home.run(line).await.expect(1);
        assert!(ended.stderr.contains("rbee-keeper token create"), "{ended:?}");
    }
    let error = home.run("queen start --bind 0.0.0.0:0 --json").await.expect(1).error();
    assert!(error["hint"].as_str().unwrap().contains("token create"), "{error}");
}

#[tokio::test]
async fn a_queen_that_cannot_start_is_quoted() {
    let home = Home::new();
    for line in ["worker list", "up", "queen start"] {
        let ended = home.run(line).await.expect(1);
        assert!(ended.stderr.contains("the queen has a cold"), "{line}: {ended:?}");
        assert!(ended.stderr.contains("queen-rbee.log"), "{line}: {ended:?}");
        assert_eq!(ended.stdout, "", "{line}");
    }
}

#[tokio::test]
async fn wrong_usage_has_exit_code_2_and_says_so_in_json_too() {
    let home = Home::new();
    for line in
        ["fly", "worker fly", "infer ''", "infer a --max-tokens -1", "--queen ftp://x status"]
    {
        let ended = home.run(line).await.expect(2);
        assert_eq!(ended.stdout, "", "{line}");
        assert!(ended.stderr.starts_with("error:"), "{line}: {ended:?}");
        let error = home.run(&format!("{line} --json")).await.expect(2).error();
        assert_eq!(error["code"], "usage", "{line}: {error}");
    }
}

#[tokio::test]
async fn help_goes_to_stdout_and_succeeds() {
    let home = Home::new();
    for line in ["--help", "-h", "help", "infer --help", "queen rebuild --help", "--version"] {
        let ended = home.run(line).await.expect(0);
        assert!(!ended.stdout.is_empty() && ended.stderr.is_empty(), "{line}: {ended:?}");
    }
    let script = home.run("completions bash").await.expect(0).stdout;
    assert!(script.contains("rbee-keeper"), "{script}");
}

#[tokio::test]
async fn a_queen_that_was_named_and_does_not_answer_is_not_started() {
    let home = Home::new();
    let ended = home.run("--queen http://127.0.0.1:1 worker list").await.expect(1);
    assert!(ended.stderr.contains("127.0.0.1:1"), "{ended:?}");
    let ended = home.run("--queen 127.0.0.1:1 status").await.expect(3);
    assert!(ended.stdout.contains("127.0.0.1:1"), "{ended:?}");
    let ended = home.run("--queen http://127.0.0.1:1 up").await.expect(2);
    assert!(ended.stderr.contains("--queen"), "{ended:?}");
    let error = home.run("worker list --json --queen http://127.0.0.1:1").await.expect(1).error();
    assert_eq!(error["code"], "queen_unreachable");
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_with_its_place() {
    let home = Home::new();
    home.configure("[hive]\nquene_url = \"http://x\"\n");
    let ended = home.run("status").await.expect(1);
    for part in ["quene_url", "queen_url", "config.toml:2"] {
        assert!(ended.stderr.contains(part), "{part} is missing: {ended:?}");
    }
}

#[tokio::test]
async fn a_misspelt_variable_is_told_and_stops_nothing() {
    let home = Home::new();
    let mut command = home.command("queen stop");
    command.env("RBEE_QUEEN_ULR", "http://x").env("RBEE_QUEEN_BIND", "x");
    let ended = finish(command).await.expect(0);
    for told in ["did you mean RBEE_QUEEN_URL?", "did you mean RBEE_QUEEN__BIND?"] {
        assert!(ended.stderr.contains(told), "{told} is missing: {ended:?}");
    }
}

#[tokio::test]
async fn a_rebuild_keeps_the_hive_where_the_installed_queen_has_it_and_says_so() {
    let home = Home::new();
    let queen = home.path().join("queen-rbee");
    let (with, without) = ("with this machine's hive inside", "without a hive inside");
    for (version, flag, told) in [
        ("0.1.0 (local-hive)", "", with),
        ("0.1.0", "", without),
        ("0.1.0 (local-hive)", " --without-local-hive", without),
        ("0.1.0", " --with-local-hive", with),
    ] {
        std::fs::write(&queen, format!("#!/bin/sh\necho 'queen-rbee {version}'\n")).unwrap();
        // The home's PATH has no cargo, so nothing is built.
        let ended = home.run(&format!("queen rebuild{flag}")).await.expect(1);
        assert!(ended.stderr.contains(told), "{version}{flag}: {ended:?}");
    }
}

#[tokio::test]
async fn a_rebuild_is_about_the_queen_of_this_machine() {
    let home = Home::new();
    let ended = home.run("--queen http://10.0.0.9:8500 queen rebuild").await.expect(2);
    assert!(
        ended.stderr.contains("`queen rebuild` is about the queen of this machine"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_rebuild_without_checkout_or_cargo_says_what_is_missing() {
    let home = Home::new();
    let ended = home.run("queen rebuild --source .").await.expect(1);
    assert!(ended.stderr.contains("not a checkout"), "{ended:?}");
    // The home's PATH has no cargo.
    let ended = home.run("queen rebuild").await.expect(1);
    assert!(ended.stderr.contains("cargo") && ended.stderr.contains("rustup"), "{ended:?}");
}

#[tokio::test]
async fn a_model_file_that_is_not_there_is_refused_before_a_queen_is_started() {
    let home = Home::new();
    let ended = home.run("model import /nowhere/model.gguf").await.expect(1);
    assert!(ended.stderr.contains("/nowhere/model.gguf"), "{ended:?}");
}
