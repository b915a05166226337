//! A hive whose wall clock is moved by years: what is supervised goes by another clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rbee_operations::Operation;
use serde_json::Value;
use test_cluster::{Api, Signal, send_signal, skip_test, wait_until};
use tokio::process::Command;
use worker_contract::{SupervisedState, SupervisedWorker};

use crate::support::{Home, SOON, api_of_daemon, hive_target, import, spawn};

/// How long a ready worker may be silent, in seconds.
const SILENCE: u64 = 2;

#[tokio::test]
async fn a_clock_that_jumps_by_years_ends_no_worker_and_delays_no_restart() {
    let Some(library) = fake_clock() else {
        skip_test("libfaketime is not installed");
        return;
    };
    let home = Home::new();
    let clock = home.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let mut child = hive(&home, &library, &clock).spawn().unwrap();
    let api = api_of_daemon(home.path()).await;
    api.run_job(&import(&home.double_model(), Some("m"))).await.unwrap();
    let mut worker: SupervisedWorker = api.run_job(&spawn("m")).await.unwrap().result().unwrap();
    for (jump, year) in [("+4000d", 2036..2100), ("-4000d", 2010..2026), ("+0", 2026..2036)] {
        fs::write(&clock, jump).unwrap();
        assert!(year.contains(&year_of(&api).await), "the hive's clock says {jump}");
        // For longer than a silence that would end it.
        let until = Instant::now() + Duration::from_secs(3 * SILENCE);
        while Instant::now() < until {
            let now = only_worker(&api).await;
            assert_eq!((now.pid, &now.state), (worker.pid, &SupervisedState::Ready), "{jump}");
        }
        send_signal(worker.pid, Signal::KILL);
        let before = worker.pid;
        let back = async || {
            let now = only_worker(&api).await;
            (now.pid != before && now.state == SupervisedState::Ready).then_some(now)
        };
        worker = wait_until("the next process of the worker", SOON, back).await.unwrap();
    }
    assert_eq!(worker.restarts.map(|restarts| restarts.count), Some(3));
    send_signal(child.id().unwrap(), Signal::TERM);
    assert!(child.wait().await.unwrap().success());
}

/// The library that gives a process a clock of its own.
fn fake_clock() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path());
    let folders = folders.chain([PathBuf::from("/usr/lib64")]);
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())
}

fn hive(home: &Home, library: &Path, clock: &Path) -> Command {
    let config = format!(
        "[queen]\nbind = \"127.0.0.1:0\"\n[hive]\nbind = \"127.0.0.1:0\"\nworker_ports = \"0\"\n\
         unresponsive_after_s = {SILENCE}\n"
    );
    fs::write(home.path().join("config.toml"), config).unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::rename(home.double("serves"), bin.join("llm-worker-rbee")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command
        .env("RBEE_HOME", home.path())
        .env("RBEE_BIN_DIR", bin)
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_NO_CACHE", "1")
        // The clock that nobody can set.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .kill_on_drop(true);
    command
}

/// The year in which the hive believes that it carries out a job.
async fn year_of(api: &Api) -> u16 {
    api.run_job(&Operation::ModelList(hive_target())).await.unwrap();
    let jobs = api.get("/v1/jobs?all=true").await.unwrap().json().unwrap();
    let of_list = |job: &&Value| job["operation"] == "model_list";
    let mut years = jobs["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(of_list)
        .map(|job| job["created_at"].as_str().unwrap()[..4].parse::<u16>().unwrap());
    years.next().unwrap()
}

async fn only_worker(api: &Api) -> SupervisedWorker {
    let capabilities = api.get("/v1/capabilities").await.unwrap().json().unwrap();
    serde_json::from_value(capabilities["workers"][0].clone()).unwrap()
}
