//! Workers that misbehave in ways that the real one only rarely does.

use std::time::{Duration, Instant};

use crate::support::{
    Home, SOON, TestHive, delete_worker, failure_reason, import, little_memory, restart_worker,
    spawn,
};
use rbee_operations::JobEvent;
use test_cluster::{is_alive, wait_until};
use tokio_util::sync::CancellationToken;
use worker_contract::{SupervisedState, SupervisedWorker};

#[tokio::test]
async fn a_worker_that_ignores_sigterm_is_killed_after_the_grace() {
    let (home, hive) =
        hive_with("ignores-sigterm", |settings| settings.hive.stop_grace_s = 1).await;
    let worker = hive.spawn("double").await.unwrap();
    let begun = Instant::now();
    hive.delete(&worker.worker_id).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it had its grace");
    assert!(!is_alive(worker.pid));
    assert!(hive.hive.workers().is_empty());
    drop(home);
}

#[tokio::test]
async fn a_worker_that_dies_while_loading_is_listed_with_its_own_words() {
    let (_home, hive) = hive_with("dies-at-start", |_| {}).await;
    let (ended, told) = hive.told(spawn("double")).await;
    let error = ended.unwrap_err();
    assert_eq!(error.code, "worker_failed");
    let own_words = "tensor 'output.weight' is missing (exit status 1)";
    assert!(error.message.ends_with(own_words), "the log is not in it: {}", error.message);
    let tells_log = |event: &JobEvent| {
        event.message.starts_with("its last log lines:")
            && event.message.contains("reading tensors")
    };
    assert!(told.iter().any(tells_log), "whoever started it sees the log: {told:?}");

    let listed = hive.hive.workers();
    let reason = failure_reason(&listed[0]).expect("it failed");
    assert!(reason.starts_with(own_words) && reason.contains("reading tensors"), "{reason}");

    hive.delete(&listed[0].worker_id).await.unwrap();
    assert!(hive.hive.workers().is_empty());
}

#[tokio::test]
async fn a_worker_that_does_not_know_an_argument_is_told_with_the_setting_that_has_it() {
    let told_nope =
        |settings: &mut rbee_hive::HiveSettings| settings.worker.arguments = vec!["--nope".into()];
    let (_home, hive) = hive_with("ready", told_nope).await;
    let error = hive.spawn("double").await.unwrap_err();
    let told = "'--nope' found (exit status 2); it may come from worker.arguments of config.toml";
    assert!(error.message.ends_with(told), "{}", error.message);
}

#[tokio::test]
async fn a_worker_that_ends_with_success_before_it_is_ready_has_failed() {
    let (_home, hive) = hive_with("exits-0", |_| {}).await;
    let error = hive.spawn("double").await.unwrap_err();
    assert!(error.message.contains("exit status 0"), "{}", error.message);
}

#[tokio::test]
async fn a_worker_that_says_that_it_failed_is_believed_at_once() {
    let (_home, hive) = hive_with("says-failed", |_| {}).await;
    let error = hive.spawn("double").await.unwrap_err();
    assert!(error.message.contains("the file is truncated"), "{}", error.message);
    let worker = hive.hive.workers().remove(0);
    wait_until("the end of the process", SOON, async || (!is_alive(worker.pid)).then_some(()))
        .await
        .unwrap();
    let ended = hive
        .wait_for_worker("its exit status", |worker| {
            failure_reason(worker).is_some_and(|reason| reason.contains("exit status 1"))
        })
        .await
        .unwrap();
    assert_eq!(ended.worker_id, worker.worker_id);
}

#[tokio::test]
async fn a_port_that_is_snatched_away_is_replaced_by_another() {
    let (home, hive) = hive_with("port-snatched", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    assert_eq!(worker.state, SupervisedState::Ready);
    assert!(home.path().join("snatched").exists(), "the first port was refused");
    assert_eq!(hive.hive.workers().len(), 1);
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_gets_no_port_fails_in_the_end() {
    let (_home, hive) = hive_with("port-always-snatched", |_| {}).await;
    let error = hive.spawn("double").await.unwrap_err();
    assert!(error.message.contains("another program took port"), "{}", error.message);
}

#[tokio::test]
async fn a_worker_that_is_never_ready_is_ended_after_its_time() {
    let (_home, hive) = hive_with("is-silent", |settings| settings.hive.start_timeout_s = 1).await;
    let error = hive.spawn("double").await.unwrap_err();
    assert!(error.message.contains("not ready after 1 s"), "{}", error.message);
    let pid = hive.hive.workers()[0].pid;
    wait_until("the end of the process", SOON, async || (!is_alive(pid)).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn cancelling_a_spawn_ends_the_process_and_frees_its_port() {
    for behaviour in ["loads-for-ever", "loads-and-ignores-sigterm"] {
        let (_home, hive) = hive_with(behaviour, |settings| {
            // One port only: a second worker can start when the first has given it back.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            settings.hive.worker_ports = port.port().to_string().parse().unwrap();
        })
        .await;
        for _ in 0..2 {
            let cancel = CancellationToken::new();
            let spawning = hive.run_until(spawn("double"), cancel.clone());
            let cancelling = async {
                let loading = |worker: &SupervisedWorker| {
                    worker.state == SupervisedState::Starting { progress: 0.25 }
                };
                let worker = hive.wait_for_worker("a loading worker", loading).await.unwrap();
                cancel.cancel();
                worker
            };
            let (ended, worker) = tokio::join!(spawning, cancelling);
            assert_eq!(ended.unwrap_err().code, "cancelled");
            assert!(!is_alive(worker.pid), "{behaviour}");
            assert!(hive.hive.workers().is_empty());
        }
    }
}

#[tokio::test]
async fn a_spawn_that_nobody_waits_for_any_more_ends_its_process() {
    let (_home, hive) = hive_with("loads-for-ever", |_| {}).await;
    let pid = tokio::select! {
        ended = hive.spawn("double") => panic!("it loads for ever: {ended:?}"),
        worker = hive.wait_for_worker("a worker", |_| true) => worker.unwrap().pid,
    };
    wait_until("the end of the process", SOON, async || (!is_alive(pid)).then_some(()))
        .await
        .unwrap();
    wait_until("an empty list", SOON, async || hive.hive.workers().is_empty().then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_is_deleted_while_it_loads() {
    let (_home, hive) = hive_with("loads-for-ever", |_| {}).await;
    let deleting = async {
        let worker = hive.wait_for_worker("a worker", |_| true).await.unwrap();
        hive.run(delete_worker(&worker.worker_id)).await.unwrap();
        worker
    };
    let (spawned, worker) = tokio::join!(hive.spawn("double"), deleting);
    assert_eq!(spawned.unwrap_err().code, "worker_stopped");
    assert!(!is_alive(worker.pid));
    assert!(hive.hive.workers().is_empty());
}

#[tokio::test]
async fn shutdown_ends_stubborn_workers_side_by_side_and_lets_none_start() {
    let (_home, hive) =
        hive_with("ignores-sigterm", |settings| settings.hive.stop_grace_s = 2).await;
    let spawned = tokio::join!(hive.spawn("double"), hive.spawn("double"), hive.spawn("double"));
    let workers = [spawned.0.unwrap(), spawned.1.unwrap(), spawned.2.unwrap()];
    let begun = Instant::now();
    hive.hive.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "three graces one after the other");
    for worker in workers {
        assert!(!is_alive(worker.pid));
    }
    let error = hive.spawn("double").await.unwrap_err();
    assert_eq!(error.code, "hive_stopping");
}

#[tokio::test]
async fn failed_workers_are_kept_up_to_a_bound() {
    let (_home, hive) = hive_with("dies-at-start", |_| {}).await;
    let mut last = String::new();
    for _ in 0..21 {
        last = hive.spawn("double").await.unwrap_err().message;
    }
    let listed = hive.hive.workers();
    assert_eq!(listed.len(), 20);
    assert!(last.contains(listed[19].worker_id.as_str()), "the newest is kept: {last}");
}

#[tokio::test]
async fn a_file_that_crashes_the_engine_is_refused_and_the_hive_lives() {
    let home = Home::new();
    let hive = home.start_with(home.double("inspect-crashes")).await.unwrap();
    let error = hive.import(&home.double_model(), "double").await.unwrap_err();
    assert_eq!(error.code, "invalid_model");
    assert!(error.message.contains("SIGSEGV"), "{}", error.message);
    assert!(hive.hive.models().is_empty());
}

#[tokio::test]
async fn an_import_is_cancelled_while_the_engine_looks_at_the_file() {
    let home = Home::new();
    let hive = home.start_with(home.double("inspect-hangs")).await.unwrap();
    let cancel = CancellationToken::new();
    let importing = hive.run_until(import(&home.double_model(), Some("m")), cancel.clone());
    let cancelling = async {
        let asked = async || home.path().join("inspecting").exists().then_some(());
        wait_until("the question", SOON, asked).await.unwrap();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(importing, cancelling);
    assert_eq!(ended.unwrap_err().code, "cancelled");
}

#[tokio::test]
async fn workers_that_start_at_once_cannot_both_count_on_the_same_memory() {
    let (_home, hive) = hive_with("needs-much", little_memory).await;
    // Twice: what the first one was promised is given back at its end.
    for _ in 0..2 {
        let cancel = CancellationToken::new();
        let loading = hive.run_until(spawn("double"), cancel.clone());
        let refused = async {
            let listed = async || (hive.hive.workers().len() == 1).then_some(());
            wait_until("the first worker", SOON, listed).await.unwrap();
            let error = hive.spawn("double").await.unwrap_err();
            cancel.cancel();
            error
        };
        let (first, error) = tokio::join!(loading, refused);
        assert_eq!(first.unwrap_err().code, "cancelled");
        assert_eq!(error.code, "not_enough_memory", "{}", error.message);
        assert!(error.message.contains("promised to workers that are starting"));
        assert!(hive.hive.workers().is_empty());
    }
}

#[tokio::test]
async fn a_worker_that_is_restarted_may_count_on_the_memory_that_it_had() {
    let (_home, hive) = hive_with("needs-much", little_memory).await;
    let spawning = hive.run(spawn("double"));
    let restarting = async {
        let loads = |worker: &SupervisedWorker| {
            worker.state == SupervisedState::Starting { progress: 0.25 }
        };
        let first = hive.wait_for_worker("the first process", loads).await.unwrap();
        let cancel = CancellationToken::new();
        let restarting = hive.run_until(restart_worker(&first.worker_id), cancel.clone());
        let cancelling = async {
            let is_next = |next: &SupervisedWorker| {
                next.worker_id == first.worker_id && next.pid != first.pid
            };
            hive.wait_for_worker("the next process", is_next).await.unwrap();
            cancel.cancel();
        };
        tokio::join!(restarting, cancelling).0
    };
    let (spawned, restarted) = tokio::join!(spawning, restarting);
    assert_eq!(spawned.unwrap_err().code, "worker_stopped");
    assert_eq!(restarted.unwrap_err().code, "cancelled");
}

#[tokio::test]
async fn an_engine_without_devices_gives_its_reason_when_a_worker_is_wanted() {
    let (_home, hive) = hive_with("no-devices", |_| {}).await;
    assert!(hive.hive.devices().is_empty());
    let error = hive.spawn("double").await.unwrap_err();
    assert!(error.message.contains("no backend can be loaded"), "{}", error.message);
}

async fn hive_with(behaviour: &str, change: fn(&mut rbee_hive::HiveSettings)) -> (Home, TestHive) {
    let mut home = Home::new();
    home.settings = change;
    let hive = home.start_with(home.double(behaviour)).await.expect("the hive starts");
    hive.import(&home.double_model(), "double").await.expect("the double takes any file");
    (home, hive)
}
