//! The real worker with the real model.

use std::net::TcpListener;

use crate::support::{
    Home, SOON, TestHive, in_a_life_that_ends_at_once, model_target, result, spawn, spawn_request,
};
use rbee_operations::Operation;
use test_cluster::{Signal, demo_model, is_alive, send_signal, wait_until};
use worker_contract::{SupervisedState, SupervisedWorker};

#[tokio::test]
async fn a_worker_is_spawned_listed_and_deleted() {
    let (_home, hive) = hive_with_model().await;
    let worker = hive.spawn("m").await.unwrap();
    assert_eq!(worker.state, SupervisedState::Ready);
    assert_eq!(worker.device.to_string(), "CPU-0", "no GPU, so the CPU by default");
    assert_eq!(hive.hive.workers(), std::slice::from_ref(&worker));
    assert_eq!(hive.hive.snapshot().workers, std::slice::from_ref(&worker));

    let health = reqwest::get(format!("{}/health", worker.address)).await.unwrap();
    assert_eq!(health.status(), 200);

    hive.delete(&worker.worker_id).await.unwrap();
    assert!(!is_alive(worker.pid));
    assert!(hive.hive.workers().is_empty());
    let error = hive.delete(&worker.worker_id).await.unwrap_err();
    assert_eq!(error.code, "worker_not_found");
}

#[tokio::test]
async fn two_workers_at_once_get_two_ports_and_a_taken_one_is_skipped() {
    let mut home = Home::new();
    home.settings = |settings| settings.hive.worker_ports = "19310-19330".parse().unwrap();
    let hive = home.start().await.unwrap();
    hive.import(&demo_model().unwrap(), "m").await.unwrap();
    // Whoever holds it, this test or another program: it is not free.
    let _taken = TcpListener::bind("127.0.0.1:19310");
    let (first, second) = tokio::join!(hive.spawn("m"), hive.spawn("m"));
    let (first, second) = (first.unwrap().port, second.unwrap().port);
    assert_ne!(first, second);
    for port in [first, second] {
        assert!((19311..=19330).contains(&port), "{port}");
    }
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_port_range_that_is_used_up_is_told() {
    let mut home = Home::new();
    home.settings = |settings| settings.hive.worker_ports = "19340".parse().unwrap();
    let hive = home.start().await.unwrap();
    hive.import(&demo_model().unwrap(), "m").await.unwrap();
    let _taken = TcpListener::bind("127.0.0.1:19340");
    let error = hive.spawn("m").await.unwrap_err();
    assert_eq!(error.code, "no_free_port");
    assert!(error.message.contains("19340"), "{}", error.message);
    assert!(error.hint.unwrap().contains("worker_ports"));
}

#[tokio::test]
async fn a_killed_worker_is_started_again_under_its_id() {
    let (_home, hive) = hive_with_model().await;
    let worker = hive.spawn("m").await.unwrap();
    send_signal(worker.pid, Signal::KILL);
    let next = hive
        .wait_for_worker("the next process", |next| {
            next.pid != worker.pid && next.state == SupervisedState::Ready
        })
        .await
        .unwrap();
    assert_eq!(next.worker_id, worker.worker_id);
    assert!(next.started_at >= worker.started_at);
    let restarts = next.restarts.unwrap();
    assert_eq!((restarts.count, restarts.waiting), (1, false));
    assert!(restarts.reason.contains("SIGKILL"), "{}", restarts.reason);
    let health = reqwest::get(format!("{}/health", next.address)).await.unwrap();
    assert_eq!(health.status(), 200);
    let error = hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap_err();
    assert_eq!(error.code, "model_in_use", "its model is held all the time");
    hive.hive.shutdown().await;
    assert!(!is_alive(next.pid));
}

#[tokio::test]
async fn a_device_that_does_not_exist_is_refused_and_those_that_do_are_named() {
    let (_home, hive) = hive_with_model().await;
    let mut request = spawn_request("m");
    request.device = Some("GPU-7".parse().unwrap());
    let error = hive.run(Operation::WorkerSpawn(request)).await.unwrap_err();
    assert_eq!(error.code, "device_not_found");
    assert!(
        error.message.contains("GPU-7") && error.message.contains("CPU-0"),
        "{}",
        error.message
    );
    assert!(hive.hive.workers().is_empty());
}

#[tokio::test]
async fn a_model_that_a_worker_runs_is_not_deleted() {
    let (home, hive) = hive_with_model().await;
    let worker = hive.spawn("m").await.unwrap();
    let error = hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap_err();
    assert_eq!(error.code, "model_in_use");
    let hint = error.hint.unwrap();
    assert!(hint.contains(&format!("worker delete {}", worker.worker_id)), "{hint}");

    hive.delete(&worker.worker_id).await.unwrap();
    hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap();
    assert_eq!(std::fs::read_dir(home.models()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_worker_without_a_slot_or_a_context_is_refused() {
    let (_home, hive) = hive_with_model().await;
    let mut no_slots = spawn_request("m");
    no_slots.slots = Some(0);
    let mut no_context = spawn_request("m");
    no_context.ctx_size = Some(255);
    for request in [no_slots, no_context] {
        let error = hive.run(Operation::WorkerSpawn(request)).await.unwrap_err();
        assert_eq!(error.code, "invalid_value");
    }
}

#[tokio::test]
async fn shutdown_leaves_no_process() {
    let (_home, hive) = hive_with_model().await;
    let (first, second) = tokio::join!(hive.spawn("m"), hive.spawn("m"));
    hive.hive.shutdown().await;
    for worker in [first.unwrap(), second.unwrap()] {
        assert!(!is_alive(worker.pid));
    }
    assert!(hive.hive.workers().is_empty());
}

#[test]
fn a_killed_hive_leaves_its_workers_to_the_next_one() {
    let home = std::sync::Arc::new(Home::new());
    let first_home = home.clone();
    let (left, doomed) = in_a_life_that_ends_at_once(move || async move {
        let hive = first_home.start().await.unwrap();
        hive.import(&demo_model().unwrap(), "m").await.unwrap();
        let (left, doomed) = tokio::join!(hive.spawn("m"), hive.spawn("m"));
        (left.unwrap(), doomed.unwrap())
    });
    assert!(is_alive(left.pid), "a worker outlives its hive");
    send_signal(doomed.pid, Signal::KILL);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        wait_until("the other's death", SOON, async || (!is_alive(doomed.pid)).then_some(()))
            .await
            .unwrap();
        let hive = home.start().await.unwrap();
        assert_eq!(
            hive.hive.workers(),
            std::slice::from_ref(&left),
            "adopted as it was, the dead one forgotten"
        );
        let error = hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap_err();
        assert_eq!(error.code, "model_in_use");

        let other = hive.spawn("m").await.unwrap();
        assert_ne!(other.port, left.port);

        // An adopted worker is watched like any other.
        send_signal(left.pid, Signal::KILL);
        let next = hive
            .wait_for_worker("the next process", |worker| {
                worker.worker_id == left.worker_id
                    && worker.pid != left.pid
                    && worker.state == SupervisedState::Ready
            })
            .await
            .unwrap();
        hive.hive.shutdown().await;
        assert!(!is_alive(other.pid) && !is_alive(next.pid));
    });
}

#[test]
fn an_adopted_worker_is_stopped_like_any_other() {
    let home = std::sync::Arc::new(Home::new());
    let first_home = home.clone();
    let worker: SupervisedWorker = in_a_life_that_ends_at_once(move || async move {
        let hive = first_home.start().await.unwrap();
        hive.import(&demo_model().unwrap(), "m").await.unwrap();
        result(hive.run(spawn("m")).await.unwrap())
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let hive = home.start().await.unwrap();
        hive.delete(&worker.worker_id).await.unwrap();
        assert!(!is_alive(worker.pid));
        assert!(hive.hive.workers().is_empty());
    });
}

#[test]
fn a_process_that_only_has_the_pid_of_a_worker_is_left_alone() {
    let home = Home::new();
    let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ledger = serde_json::json!({"boot": boot.trim(), "workers": [{
        "worker_id": "w-1", "pid": bystander.id(), "start_time": 1, "port": 19350, "model": "m",
        "device": "CPU-0", "address": "http://127.0.0.1:19350", "started_at": 1,
    }]});
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    std::fs::write(home.path().join("run/workers.json"), ledger.to_string()).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start().await.unwrap();
        assert_eq!(hive.hive.workers(), []);
        hive.hive.shutdown().await;
    });
    assert!(is_alive(bystander.id()));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

async fn hive_with_model() -> (Home, TestHive) {
    let home = Home::new();
    let hive = home.start().await.expect("the hive starts");
    hive.import(&demo_model().expect("the demo model can be had"), "m").await.expect("it is whole");
    (home, hive)
}
