//! Workers that fail are started again, up to a point, and hives take over from each other.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::{
    Home, SOON, TestHive, excuse, failure_reason, in_a_life_that_ends_at_once, restart_worker,
    result, spawn,
};
use daemon_lifecycle::process_start_time;
use test_cluster::{Signal, is_alive, send_signal, wait_until};
use worker_contract::{SupervisedState, SupervisedWorker};

#[tokio::test]
async fn a_worker_that_keeps_failing_is_given_up_until_somebody_restarts_it() {
    for status in [0, 1] {
        let (home, hive) = hive_with("ends-when-told", |_| {}).await;
        let worker = hive.spawn("double").await.unwrap();
        home.tell_double("end", &status.to_string());
        let failed = hive
            .wait_for_worker("the failed worker", |worker| failure_reason(worker).is_some())
            .await
            .unwrap();
        assert_eq!(failed.worker_id, worker.worker_id);
        assert!(failed.is_given_up());
        let reason = failure_reason(&failed).unwrap();
        let expected = format!("5 failures within 10 min, the last one: told to end with {status}");
        assert!(reason.starts_with(&expected), "{reason}");
        assert!(reason.contains("last log lines"), "{reason}");
        assert_eq!(failed.restarts.unwrap().count, 4);

        let error = hive.spawn("double").await.unwrap_err();
        assert_eq!(error.code, "worker_given_up", "on-demand starts do not go on where it gave up");
        assert!(error.hint.unwrap().contains(&format!("worker restart {}", worker.worker_id)));

        home.untell_double("end");
        let again: SupervisedWorker =
            result(hive.run(restart_worker(&worker.worker_id)).await.unwrap());
        assert_eq!(again.worker_id, worker.worker_id);
        assert_eq!((again.state, again.restarts), (SupervisedState::Ready, None));
        assert_eq!(hive.hive.workers().len(), 1);
        hive.hive.shutdown().await;
    }
}

#[tokio::test]
async fn failures_count_on_and_what_was_given_up_stays_so_when_the_hive_is_another_one() {
    let (home, hive) = hive_with("serves", |_| {}).await;
    let mut worker = hive.spawn("double").await.unwrap();
    for _ in 0..3 {
        send_signal(worker.pid, Signal::KILL);
        worker = hive.wait_for_next(&worker).await;
    }
    hive.hive.leave_workers();
    hive.hive.shutdown().await;

    let hive = home.start_with(home.double("serves")).await.unwrap();
    assert_eq!(hive.hive.workers()[0].restarts.as_ref().map(|restarts| restarts.count), Some(3));
    send_signal(worker.pid, Signal::KILL);
    worker = hive.wait_for_next(&worker).await;
    send_signal(worker.pid, Signal::KILL);
    let failed = hive
        .wait_for_worker("the failed worker", |worker| failure_reason(worker).is_some())
        .await
        .unwrap();
    assert!(failed.is_given_up());
    assert!(failure_reason(&failed).unwrap().starts_with("5 failures"), "{failed:?}");
    hive.hive.shutdown().await;

    let hive = home.start_with(home.double("serves")).await.unwrap();
    assert_eq!(hive.hive.workers(), [failed]);
    assert_eq!(hive.spawn("double").await.unwrap_err().code, "worker_given_up");
    let again: SupervisedWorker =
        result(hive.run(restart_worker(&worker.worker_id)).await.unwrap());
    assert_eq!((again.worker_id, again.state), (worker.worker_id, SupervisedState::Ready));
    hive.hive.shutdown().await;
    let hive = home.start_with(home.double("serves")).await.unwrap();
    assert_eq!(hive.hive.workers(), [], "nothing is held against it");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn the_number_of_failures_is_configured() {
    let (home, hive) = hive_with("ends-when-told", |settings| settings.hive.max_failures = 1).await;
    hive.spawn("double").await.unwrap();
    home.tell_double("end", "3");
    let failed = hive
        .wait_for_worker("the failed worker", |worker| failure_reason(worker).is_some())
        .await
        .unwrap();
    assert!(failed.is_given_up());
    assert_eq!(failed.restarts.unwrap().count, 0);
}

#[tokio::test]
async fn a_worker_is_not_given_up_for_what_requests_have_ended_but_for_what_it_ends_by_itself() {
    let (_home, hive) = hive_with("serves", |settings| settings.hive.max_failures = 2).await;
    let mut worker = hive.spawn("double").await.unwrap();
    // Word of the second one comes when it has failed too often already, if that one counts.
    for is_first in [true, false, false] {
        send_signal(worker.pid, Signal::KILL);
        if !is_first {
            let waits = |it: &SupervisedWorker| it.is_between_processes();
            hive.wait_for_worker("a worker that may be given up", waits).await.unwrap();
        }
        hive.run(excuse(&worker.worker_id, worker.pid)).await.unwrap();
        worker = hive.wait_for_next(&worker).await;
    }
    send_signal(worker.pid, Signal::KILL);
    worker = hive.wait_for_next(&worker).await;
    send_signal(worker.pid, Signal::KILL);
    let failed =
        hive.wait_for_worker("the failed worker", SupervisedWorker::is_given_up).await.unwrap();
    assert!(failure_reason(&failed).unwrap().starts_with("2 failures"), "{failed:?}");
    assert_eq!(failed.restarts.unwrap().count, 4);
    let error = hive.run(excuse(&"w-none".parse().unwrap(), 1)).await.unwrap_err();
    assert_eq!(error.code, "worker_not_found");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_stops_answering_is_replaced() {
    let (_home, hive) =
        hive_with("serves", |settings| settings.hive.unresponsive_after_s = 1).await;
    let worker = hive.spawn("double").await.unwrap();
    send_signal(worker.pid, Signal::STOP);
    let next = hive.wait_for_next(&worker).await;
    assert!(!is_alive(worker.pid), "a stopped process does not hear SIGTERM");
    let reason = next.restarts.unwrap().reason;
    let (first, _log) = reason.split_once('\n').unwrap_or((&reason, ""));
    assert!(first.starts_with("the worker gave no sign of life for "), "{reason}");
    assert!(first.ends_with(" s, and was ended for it"), "the signal was the hive's: {reason}");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_another_program_ends_comes_back() {
    let (_home, hive) = hive_with("serves", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    send_signal(worker.pid, Signal::TERM);
    let next = hive.wait_for_next(&worker).await;
    assert_eq!(next.restarts.unwrap().count, 1);
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_whose_binary_vanished_is_given_up_and_restarted_when_it_is_back() {
    let (home, hive) = hive_with("serves", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    let (binary, aside) = (home.path().join("worker-serves"), home.path().join("aside"));
    std::fs::rename(&binary, &aside).unwrap();
    send_signal(worker.pid, Signal::KILL);
    let failed = hive
        .wait_for_worker("the failed worker", |worker| failure_reason(worker).is_some())
        .await
        .unwrap();
    let reason = failure_reason(&failed).unwrap();
    assert!(reason.contains("cannot be started: No such file"), "{reason}");
    let error = hive.run(restart_worker(&worker.worker_id)).await.unwrap_err();
    assert_eq!(error.code, "worker_start_failed");

    std::fs::rename(&aside, &binary).unwrap();
    let again = hive.spawn("double").await.unwrap();
    assert_eq!(again.state, SupervisedState::Ready);
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_waits_for_a_port_when_all_are_taken() {
    let (_home, hive) = hive_with("serves", |settings| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        settings.hive.worker_ports = port.to_string().parse().unwrap();
    })
    .await;
    let worker = hive.spawn("double").await.unwrap();
    send_signal(worker.pid, Signal::KILL);
    let take = async || TcpListener::bind(("127.0.0.1", worker.port)).ok();
    let thief = wait_until("the port of the killed worker", SOON, take).await.unwrap();
    hive.wait_for_worker("a worker without a port", |worker| {
        let restarts = worker.restarts.as_ref();
        restarts.is_some_and(|r| r.waiting && r.reason.contains("no free port"))
    })
    .await
    .unwrap();
    drop(thief);
    let next = hive.wait_for_next(&worker).await;
    assert_eq!(next.port, worker.port);
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_runs_is_restarted_in_its_place() {
    let (_home, hive) = hive_with("serves", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    let next: SupervisedWorker = result(hive.run(restart_worker(&worker.worker_id)).await.unwrap());
    assert_eq!(next.worker_id, worker.worker_id);
    assert_ne!(next.pid, worker.pid);
    assert!(!is_alive(worker.pid));
    assert_eq!(hive.hive.workers(), [next]);
    let error = hive.run(restart_worker(&"w-none".parse().unwrap())).await.unwrap_err();
    assert_eq!(error.code, "worker_not_found");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_hive_that_is_told_to_stop_does_not_wait_for_a_worker_that_is_to_be_started_again() {
    let (home, hive) = hive_with("ends-when-told", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    home.tell_double("end", "1");
    hive.wait_for_worker("a third failure", |worker| {
        worker.restarts.as_ref().is_some_and(|r| r.count == 2 && r.waiting)
    })
    .await
    .unwrap();
    let deleting = hive.delete(&worker.worker_id);
    let deleted = tokio::time::timeout(Duration::from_millis(700), deleting).await;
    deleted.expect("sooner than the next start").unwrap();
    assert!(hive.hive.workers().is_empty());
    hive.hive.shutdown().await;
    assert!(home.ledger()["workers"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_hive_that_leaves_its_workers_ends_none_and_the_next_one_watches_them() {
    let (home, hive) = hive_with("serves", |_| {}).await;
    let worker = hive.spawn("double").await.unwrap();
    hive.hive.leave_workers();
    hive.hive.shutdown().await;
    assert!(is_alive(worker.pid));
    let error = hive.spawn("double").await.unwrap_err();
    assert_eq!(error.code, "hive_stopping");

    let next_hive = home.start_with(home.double("serves")).await.unwrap();
    assert_eq!(next_hive.hive.workers(), std::slice::from_ref(&worker));
    send_signal(worker.pid, Signal::KILL);
    next_hive.wait_for_next(&worker).await;
    next_hive.hive.shutdown().await;
}

#[test]
fn an_adopted_worker_that_hangs_is_replaced() {
    let mut home = Home::new();
    home.settings = |settings| settings.hive.unresponsive_after_s = 1;
    let home = std::sync::Arc::new(home);
    let worker = worker_of_a_killed_hive(&home);
    send_signal(worker.pid, Signal::STOP);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start_with(home.double("serves")).await.unwrap();
        hive.wait_for_next(&worker).await;
        assert!(!is_alive(worker.pid));
        hive.hive.shutdown().await;
    });
}

#[test]
fn a_worker_that_no_list_names_any_longer_is_ended_and_nothing_else_is() {
    let home = std::sync::Arc::new(Home::new());
    let worker = worker_of_a_killed_hive(&home);
    let ledger = home.path().join("run/workers.json");
    let token = home.ledger()["workers"][0]["token"].as_str().unwrap().to_owned();
    // Processes of another home, and of none.
    let mut bystanders =
        [("RBEE_WORKER_TOKEN", format!("0{token}")), ("TOKEN", token)].map(|(name, value)| {
            std::process::Command::new("sleep").arg("60").env(name, value).spawn().unwrap()
        });
    std::fs::write(ledger, b"{\"boot\": \xff").unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start_with(home.double("serves")).await.unwrap();
        let gone = async || (!is_alive(worker.pid)).then_some(());
        wait_until("the end of the lost worker", SOON, gone).await.unwrap();
        assert_eq!(hive.hive.workers(), []);
        hive.spawn("double").await.expect("the hive works on");
        hive.hive.shutdown().await;
    });
    for bystander in &mut bystanders {
        assert!(is_alive(bystander.id()));
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}

#[test]
fn of_two_workers_with_one_port_the_one_that_cannot_be_reached_is_ended() {
    // Whichever of them the list has first.
    for (lost, kept) in [(0, 1), (1, 0)] {
        let home = std::sync::Arc::new(Home::new());
        let first_home = home.clone();
        in_a_life_that_ends_at_once(|| async move {
            let hive = first_home.start_with(first_home.double("serves")).await.unwrap();
            hive.import(&first_home.double_model(), "double").await.unwrap();
            hive.spawn("double").await.unwrap();
            hive.spawn("double").await.unwrap();
        });
        let mut ledger = home.ledger();
        let listed = &mut ledger["workers"];
        listed[lost]["port"] = listed[kept]["port"].clone();
        let lost = u32::try_from(listed[lost]["pid"].as_u64().unwrap()).unwrap();
        let kept = listed[kept]["worker_id"].as_str().unwrap().to_owned();
        std::fs::write(home.path().join("run/workers.json"), ledger.to_string()).unwrap();

        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let hive = home.start_with(home.double("serves")).await.unwrap();
            let workers = hive.hive.workers();
            assert_eq!(workers.len(), 1, "{workers:?}");
            assert_eq!(workers[0].worker_id.as_str(), kept);
            let gone = async || (!is_alive(lost)).then_some(());
            wait_until("the end of the lost worker", SOON, gone).await.unwrap();
            assert_eq!(home.ledger()["workers"].as_array().unwrap().len(), 1);
            hive.hive.shutdown().await;
        });
    }
}

#[test]
fn a_process_that_cannot_show_the_token_is_not_adopted_and_not_signalled() {
    let home = std::sync::Arc::new(Home::new());
    let worker = worker_of_a_killed_hive(&home);
    let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let mut ledger = home.ledger();
    ledger["workers"][0]["pid"] = bystander.id().into();
    ledger["workers"][0]["start_time"] = process_start_time(bystander.id()).unwrap().into();
    send_signal(worker.pid, Signal::KILL);
    std::fs::write(home.path().join("run/workers.json"), ledger.to_string()).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start_with(home.double("serves")).await.unwrap();
        assert_eq!(hive.hive.workers(), []);
        hive.hive.shutdown().await;
    });
    assert!(is_alive(bystander.id()));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_hive_and_its_worker_that_are_both_killed_leave_nothing_to_the_next_one() {
    let home = std::sync::Arc::new(Home::new());
    let worker = worker_of_a_killed_hive(&home);
    send_signal(worker.pid, Signal::KILL);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let gone = async || (!is_alive(worker.pid)).then_some(());
        wait_until("the end of the worker", SOON, gone).await.unwrap();
        let hive = home.start_with(home.double("serves")).await.unwrap();
        assert_eq!(hive.hive.workers(), []);
        assert!(home.ledger()["workers"].as_array().unwrap().is_empty());
        let fresh = hive.spawn("double").await.unwrap();
        assert_ne!(fresh.worker_id, worker.worker_id);
        hive.hive.shutdown().await;
    });
}

#[test]
fn a_worker_whose_hive_ends_in_the_pause_before_its_next_start_is_started_by_the_next_hive() {
    for is_killed in [true, false] {
        let home = std::sync::Arc::new(Home::new());
        let (binary, aside) = (home.path().join("worker-serves"), home.path().join("aside"));
        let life = {
            let home = home.clone();
            move || async move {
                let hive = home.start_with(home.double("serves")).await.unwrap();
                hive.import(&home.double_model(), "double").await.unwrap();
                let worker: SupervisedWorker = result(hive.run(spawn("double")).await.unwrap());
                // So that it stays in the pause.
                std::fs::rename(&binary, aside).unwrap();
                send_signal(worker.pid, Signal::KILL);
                let paused = hive.wait_for_worker("the pause", |worker| {
                    worker.restarts.as_ref().is_some_and(|restarts| restarts.waiting)
                });
                paused.await.unwrap();
                if !is_killed {
                    hive.hive.leave_workers();
                    hive.hive.shutdown().await;
                }
                worker
            }
        };
        let worker = in_a_life_that_ends_at_once(life);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let hive = home.start_with(home.double("serves")).await.unwrap();
            let next = hive.wait_for_next(&worker).await;
            let restarts = next.restarts.unwrap();
            assert!(restarts.count >= 1 && !restarts.waiting, "{restarts:?}");
            hive.hive.shutdown().await;
            assert!(home.ledger()["waiting"].as_array().unwrap().is_empty());
        });
    }
}

#[test]
fn a_hive_that_is_told_to_stop_leaves_no_worker_to_be_started() {
    let home = std::sync::Arc::new(Home::new());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start_with(home.double("serves")).await.unwrap();
        hive.import(&home.double_model(), "double").await.unwrap();
        let worker: SupervisedWorker = result(hive.run(spawn("double")).await.unwrap());
        std::fs::rename(home.path().join("worker-serves"), home.path().join("aside")).unwrap();
        send_signal(worker.pid, Signal::KILL);
        let paused = hive.wait_for_worker("the pause", |worker| {
            worker.restarts.as_ref().is_some_and(|restarts| restarts.waiting)
        });
        paused.await.unwrap();
        hive.hive.shutdown().await;
        drop(hive);
        let hive = home.start_with(home.double("serves")).await.unwrap();
        assert_eq!(hive.hive.workers(), []);
        hive.hive.shutdown().await;
    });
}

/// A worker whose hive ended as by `kill -9`.
fn worker_of_a_killed_hive(home: &std::sync::Arc<Home>) -> SupervisedWorker {
    let home = home.clone();
    in_a_life_that_ends_at_once(move || async move {
        let hive = home.start_with(home.double("serves")).await.unwrap();
        hive.import(&home.double_model(), "double").await.unwrap();
        result(hive.run(spawn("double")).await.unwrap())
    })
}

async fn hive_with(behaviour: &str, change: fn(&mut rbee_hive::HiveSettings)) -> (Home, TestHive) {
    let mut home = Home::new();
    home.settings = change;
    let hive = home.start_with(home.double(behaviour)).await.expect("the hive starts");
    hive.import(&home.double_model(), "double").await.expect("the double takes any file");
    (home, hive)
}
