//! A hive's way onto a machine, and off it again.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use testbed::{DESK, Testbed};

#[tokio::test]
async fn an_empty_machine_becomes_a_hive_whose_worker_answers() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh bee@gpu-1").await.unwrap().expect_success().unwrap();
    let silent = bed.json("hive list").await.unwrap();
    let silent = silent.as_array().unwrap().iter().find(|hive| hive["hive_id"] == "gpu-1").unwrap();
    assert_eq!(silent["liveness"], "gone");

    let installed = bed.keeper("hive install gpu-1").await.unwrap().expect_success().unwrap();
    for told in ["Linux on", "Copying llm-worker-rbee", "CPU-0", "no systemd"] {
        assert!(installed.stderr.contains(told), "{told} is missing: {installed}");
    }
    assert!(installed.stdout.contains("rbee-keeper hive start gpu-1"), "{installed}");
    let root = bed.hive_root("gpu-1");
    let engine = |folder: &Path| -> Vec<(OsString, u64)> {
        let files = fs::read_dir(folder.join("rbee-engine")).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            files.map(|file| (file.file_name(), file.metadata().unwrap().len())).collect();
        files.sort();
        files
    };
    let libraries = engine(&bed.home(DESK).join("bin"));
    assert!(!libraries.is_empty());
    assert_eq!(engine(&root.join("current")), libraries, "the engine's libraries came, too");
    let sudo = bed.run("gpu-1", &["sudo", "-n", "true"]).unwrap();
    assert!(!sudo.status.success(), "the machine's user can become root");
    let config = fs::read_to_string(root.join("config.toml")).unwrap();
    assert!(config.contains("queen_url = \"http://10.77.0.1:8500\""), "{config}");

    bed.keeper("hive start gpu-1").await.unwrap().expect_success().unwrap();
    let hive = bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
    assert_eq!(hive["address"], "http://10.77.0.2:9000");
    assert_eq!(hive["devices"][0]["id"], "CPU-0");
    bed.employ("gpu-1").await.unwrap();

    // OpenAI's API on the queen, streamed, as a client sees it.
    let token = bed.sh(DESK, "cat .local/share/rbee/secrets/local.token").unwrap();
    let ask = format!(
        "curl -sN http://127.0.0.1:8500/v1/chat/completions -H 'Authorization: Bearer {}' \
         -H 'Content-Type: application/json' -d '{{\"model\":\"demo\",\"stream\":true,\"max_tokens\":8,\
         \"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}'",
        token.trim()
    );
    let streamed = bed.sh(DESK, &ask).unwrap();
    let pieces = streamed.lines().filter(|line| line.contains("\"content\"")).count();
    assert!(pieces > 1 && streamed.contains("data: [DONE]"), "{streamed}");
    let workers = bed.json("worker list --hive gpu-1").await.unwrap();
    assert_eq!(workers.as_array().map(Vec::len), Some(1));

    // A queen that starts again finds it, and it her.
    bed.keeper("queen stop").await.unwrap().expect_success().unwrap();
    bed.keeper("queen start").await.unwrap().expect_success().unwrap();
    bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
    let answer = bed.keeper("infer --model demo --max-tokens 4 Hello").await.unwrap();
    answer.expect_success().unwrap();

    let logs = bed.keeper("hive logs gpu-1 -n 50").await.unwrap().expect_success().unwrap();
    assert!(logs.stdout.contains("hive listens"), "{logs}");
    let mut followed = bed.start_keeper(&["hive", "logs", "gpu-1", "--follow"]).unwrap();
    followed.wait_for("hive listens").await.unwrap();
    let stopped = bed.keeper("hive stop gpu-1").await.unwrap().expect_success().unwrap();
    assert!(stopped.stdout.contains("has stopped"), "{stopped}");
    assert_eq!(rbee_processes(&bed, "gpu-1"), "", "hive, worker and supervisor have ended");
    followed.wait_for("hive stopped").await.unwrap();
    let jobs = bed.json("job list --all").await.unwrap();
    let mut jobs = jobs.as_array().unwrap().iter();
    let job =
        jobs.find(|job| job["operation"] == "hive_logs" && job["state"] == "running").unwrap();
    let cancel = format!("job cancel {}", job["job_id"].as_str().unwrap());
    bed.keeper(&cancel).await.unwrap().expect_success().unwrap();
    let ended = followed.finish().await.unwrap();
    assert!(ended.stderr.contains("cancelled"), "{ended}");

    let silent = bed.keeper("hive status gpu-1").await.unwrap().expect_success().unwrap();
    for told in ["the hive does not run: rbee-keeper hive start gpu-1", "hive stopped"] {
        assert!(silent.stdout.contains(told), "{told} is missing: {silent}");
    }
    bed.keeper("hive restart gpu-1").await.unwrap().expect_success().unwrap();
}

#[tokio::test]
async fn a_second_install_is_nothing_and_an_upgrade_leaves_workers_running() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let worker = bed.employ("gpu-1").await.unwrap();
    let before = worker_process(&bed, "gpu-1");
    let hive_before = process_of(&bed, "gpu-1", "rbee-hive");

    let again = bed.json("hive install gpu-1").await.unwrap();
    assert_eq!(again["changed"], false, "{again}");
    assert_eq!(process_of(&bed, "gpu-1", "rbee-hive"), hive_before, "nothing was touched");

    // Another build: the same program with something behind its end.
    bed.sh(DESK, "cd bin && cp rbee-hive new && echo >>new && mv new rbee-hive").unwrap();
    let upgraded = bed.json("hive install gpu-1").await.unwrap();
    assert_eq!(upgraded["changed"], true, "{upgraded}");
    let (copied, hive) =
        (&upgraded["copied_bytes"], fs::metadata(bed.home(DESK).join("bin/rbee-hive")).unwrap());
    assert_eq!(copied.as_u64(), Some(hive.len()), "only what changed is sent");
    assert_ne!(process_of(&bed, "gpu-1", "rbee-hive"), hive_before);
    let log = bed.keeper("hive logs gpu-1 -n 100").await.unwrap().expect_success().unwrap();
    assert!(log.stdout.contains("asked to shut down"), "it was not killed: {log}");
    assert_eq!(worker_process(&bed, "gpu-1"), before, "the worker ran on");
    let got = bed.json(&format!("worker get {worker} --hive gpu-1")).await.unwrap();
    assert_eq!(got["state"], "ready", "{got}");
    let releases = fs::read_dir(bed.hive_root("gpu-1").join("releases")).unwrap().count();
    assert_eq!(releases, 1, "the earlier release is gone");
}

#[tokio::test]
async fn where_systemd_runs_the_hive_is_a_service_of_the_user() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    if !bed.start_systemd("gpu-1").unwrap() {
        return;
    }
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let worker = bed.employ("gpu-1").await.unwrap();
    let state = || {
        let asked = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user is-active rbee-hive.service || true";
        bed.sh("gpu-1", asked).unwrap().trim().to_owned()
    };
    assert_eq!(state(), "active");
    let (hive, process) = (process_of(&bed, "gpu-1", "rbee-hive"), worker_process(&bed, "gpu-1"));
    bed.as_root("gpu-1", &format!("kill -9 {hive}")).unwrap();
    test_cluster::wait_until(
        "another hive process",
        std::time::Duration::from_secs(20),
        async || {
            let found = process_of(&bed, "gpu-1", "rbee-hive");
            (!found.is_empty() && found != hive).then_some(())
        },
    )
    .await
    .unwrap();
    assert_eq!(worker_process(&bed, "gpu-1"), process, "the worker ran on");
    test_cluster::wait_until(
        "the worker in its list",
        std::time::Duration::from_secs(20),
        async || {
            let got = bed.json(&format!("worker get {worker} --hive gpu-1")).await.ok()?;
            (got["state"] == "ready").then_some(())
        },
    )
    .await
    .unwrap();

    bed.keeper("hive stop gpu-1").await.unwrap().expect_success().unwrap();
    assert_eq!((state().as_str(), rbee_processes(&bed, "gpu-1").as_str()), ("inactive", ""));
    bed.keeper("hive start gpu-1").await.unwrap().expect_success().unwrap();
    bed.keeper("hive uninstall gpu-1 --purge").await.unwrap().expect_success().unwrap();
    assert_eq!(bed.sh("gpu-1", "find . -name 'rbee*'").unwrap(), "");
}

#[tokio::test]
async fn a_hive_that_is_killed_starts_again_by_itself() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let before = process_of(&bed, "gpu-1", "rbee-hive");
    bed.as_root("gpu-1", &format!("kill -9 {before}")).unwrap();
    test_cluster::wait_until(
        "another hive process",
        std::time::Duration::from_secs(20),
        async || {
            let found = process_of(&bed, "gpu-1", "rbee-hive");
            (!found.is_empty() && found != before).then_some(())
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_uninstalled_hive_leaves_its_models_or_nothing() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    bed.employ("gpu-1").await.unwrap();
    let root = bed.hive_root("gpu-1");

    bed.keeper("hive uninstall gpu-1").await.unwrap().expect_success().unwrap();
    assert_eq!(rbee_processes(&bed, "gpu-1"), "");
    let mut left: Vec<_> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["data", "models"]);

    bed.keeper("hive install gpu-1").await.unwrap().expect_success().unwrap();
    bed.keeper("hive start gpu-1").await.unwrap().expect_success().unwrap();
    let models = bed.json("model list --hive gpu-1").await.unwrap();
    assert_eq!(models[0]["alias"], "demo", "the catalog was kept");

    bed.keeper("hive uninstall gpu-1 --purge").await.unwrap().expect_success().unwrap();
    assert!(!root.exists());
    bed.keeper("hive remove gpu-1").await.unwrap().expect_success().unwrap();
    let hives = bed.json("hive list").await.unwrap();
    assert_eq!(hives.as_array().map(Vec::len), Some(1), "{hives}");
    let secret = bed.home(DESK).join(".local/share/rbee/secrets/hives/gpu-1.token");
    assert!(!secret.exists());
}

#[tokio::test]
async fn of_two_installs_at_once_the_second_is_told_of_the_first() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh gpu-1").await.unwrap().expect_success().unwrap();
    let install = || bed.start_keeper(&["hive", "install", "gpu-1"]).unwrap().finish();
    let (one, two) = tokio::join!(install(), install());
    let (one, two) = (one.unwrap(), two.unwrap());
    let refused = if one.code == Some(0) { &two } else { &one };
    assert!([one.code, two.code].contains(&Some(0)), "{one}\n{two}");
    assert!(refused.stderr.contains("another job is at the machine"), "{refused}");
}

#[tokio::test]
async fn hosts_of_the_ssh_configuration_can_be_added_by_their_alias() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.sh(DESK, "printf 'Host box\\n  HostName gpu-1\\n  User bee\\nHost *\\n  Compression no\\n' >.ssh/config")
        .unwrap();
    bed.start_queen().await.unwrap();
    let hosts = bed.json("hive import-ssh").await.unwrap();
    assert_eq!(hosts.as_array().map(Vec::len), Some(1), "{hosts}");
    assert_eq!((&hosts[0]["alias"], &hosts[0]["host"]), (&"box".into(), &"gpu-1".into()));
    bed.keeper("hive add attic --ssh box").await.unwrap().expect_success().unwrap();
    bed.keeper("hive install attic").await.unwrap().expect_success().unwrap();
    let hosts = bed.json("hive import-ssh").await.unwrap();
    assert_eq!(hosts[0]["hive_id"], "attic");
}

/// The id of the machine's worker: the engine is also asked for devices by a process of that name.
fn worker_process(bed: &Testbed, machine: &str) -> String {
    let script = "for p in /proc/[0-9]*; do \
                  tr '\\0' ' ' <$p/cmdline | grep -q '[l]lm-worker-rbee .*--worker-id' && echo ${p#/proc/}; done; true";
    bed.as_root(machine, script).unwrap().trim().to_owned()
}

/// The id of the machine's process with this name; empty if there is none.
fn process_of(bed: &Testbed, machine: &str, name: &str) -> String {
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe | sed 's|.*/||;s| .*||')\" = {name} ] && echo ${{p#/proc/}}; done; true"
    );
    bed.as_root(machine, &script).unwrap().trim().to_owned()
}

/// All processes of rbee on a machine.
fn rbee_processes(bed: &Testbed, machine: &str) -> String {
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done | grep -e rbee-hive -e llm-worker -e supervise.sh | grep -v grep; true";
    bed.as_root(machine, script).unwrap()
}
