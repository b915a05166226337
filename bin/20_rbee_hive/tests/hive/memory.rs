//! What workers are promised of devices' memory, on every path of theirs.

use crate::support::{
    Home, TestHive, in_a_life_that_ends_at_once, little_memory, result, spawn, would_fit,
};
use rbee_operations::FitReport;
use test_cluster::{Signal, send_signal};
use worker_contract::{SupervisedState, SupervisedWorker};

#[test]
fn an_adopted_worker_that_is_started_again_keeps_the_memory_that_it_had() {
    let home = std::sync::Arc::new(Home::with_little_memory());
    let first_home = home.clone();
    let worker: SupervisedWorker = in_a_life_that_ends_at_once(|| async move {
        let hive = first_home.start_with(first_home.double("needs-much-twice")).await.unwrap();
        hive.import(&first_home.double_model(), "double").await.unwrap();
        result(hive.run(spawn("double")).await.unwrap())
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let hive = home.start_with(home.double("needs-much-twice")).await.unwrap();
        assert_eq!(hive.hive.workers(), std::slice::from_ref(&worker));
        // Its next process loads for ever.
        send_signal(worker.pid, Signal::KILL);
        let loads = |next: &SupervisedWorker| {
            next.pid != worker.pid && next.state == SupervisedState::Starting { progress: 0.25 }
        };
        hive.wait_for_worker("the next process of the worker", loads).await.unwrap();
        let error = hive.spawn("double").await.unwrap_err();
        assert_eq!(error.code, "not_enough_memory", "{}", error.message);
        assert!(error.message.contains("promised to workers that are starting"));
        hive.delete(&worker.worker_id).await.unwrap();
        hive.hive.shutdown().await;
    });
}

#[tokio::test]
async fn weights_that_are_read_from_files_are_held_as_long_as_their_worker_lives() {
    let home = Home::with_little_memory();
    let hive = two_models(&home).await;
    let before = free_memory(&hive);
    let first = hive.spawn("one").await.unwrap();
    assert_eq!(first.state, SupervisedState::Ready);
    let shown = free_memory(&hive);
    assert!(shown < before / 2, "{shown} of {before} bytes are shown as free");

    let error = hive.spawn("two").await.unwrap_err();
    assert_eq!(error.code, "not_enough_memory", "{}", error.message);
    assert!(error.message.contains("hold the weights of running workers"), "{}", error.message);
    let held_by = format!("CPU-0 has worker {} (one, ", first.worker_id);
    assert!(error.message.contains(&held_by), "{}", error.message);
    let hint = error.hint.unwrap();
    let ends = format!("rbee-keeper worker delete {}", first.worker_id);
    for way in [&*ends, "overcommit_memory", "[hive] memory", "quantization"] {
        assert!(hint.contains(way), "{way} is not in {hint}");
    }
    hive.spawn("one").await.expect("workers of one file read the same pages");

    for worker in hive.hive.workers() {
        hive.delete(&worker.worker_id).await.unwrap();
    }
    hive.spawn("two").await.expect("there is room again");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn what_would_fit_is_told_before_anybody_is_ended_for_it() {
    let home = Home::with_little_memory();
    let hive = two_models(&home).await;
    let first = hive.spawn("one").await.unwrap();
    let fit = async |model: &str, without: &[&SupervisedWorker]| -> FitReport {
        let without = without.iter().map(|worker| worker.worker_id.clone()).collect();
        result(hive.run(would_fit(model, without)).await.unwrap())
    };
    let beside = fit("two", &[]).await;
    assert!(!beside.fits && !beside.larger_than_device, "{beside:?}");
    let error = hive.spawn("two").await.unwrap_err();
    assert_eq!(beside.hint, error.hint, "the very reason that a start would be refused for");
    assert!(beside.reason.unwrap().contains("hold the weights of running workers"));
    let instead = fit("two", &[&first]).await;
    assert!(instead.fits, "{instead:?}");
    let needs = instead.needs.unwrap();
    let free = free_memory(&hive);
    assert!(needs[0].total_bytes() > free, "{needs:?} of {free} bytes");
    let second = hive.spawn("one").await.unwrap();
    assert!(!fit("two", &[&first]).await.fits, "the other one holds the same pages");
    assert!(fit("two", &[&first, &second]).await.fits);
    assert_eq!(hive.hive.workers().len(), 2, "nobody was started or ended");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn who_wants_to_overcommit_memory_may() {
    let mut home = Home::new();
    home.settings = |settings| {
        little_memory(settings);
        settings.hive.overcommit_memory = true;
    };
    let hive = two_models(&home).await;
    hive.spawn("one").await.unwrap();
    hive.spawn("two").await.unwrap();
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_dies_while_loading_gives_its_memory_back() {
    let home = Home::with_little_memory();
    let hive = home.start_with(home.double("needs-much-and-dies")).await.unwrap();
    hive.import(&home.double_model(), "double").await.unwrap();
    for _ in 0..3 {
        let error = hive.spawn("double").await.unwrap_err();
        assert_eq!(error.code, "worker_failed", "{}", error.message);
    }
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_is_given_up_gives_its_memory_back() {
    let mut home = Home::new();
    home.settings = |settings| {
        little_memory(settings);
        settings.hive.max_failures = 2;
    };
    let hive = two_models_of(&home, "needs-much-twice").await;
    let worker = hive.spawn("one").await.unwrap();
    send_signal(worker.pid, Signal::KILL);
    let loads = |next: &SupervisedWorker| {
        next.pid != worker.pid && next.state == SupervisedState::Starting { progress: 0.25 }
    };
    let next = hive.wait_for_worker("the next process of the worker", loads).await.unwrap();
    let error = hive.spawn("two").await.unwrap_err();
    assert_eq!(error.code, "not_enough_memory", "{}", error.message);

    send_signal(next.pid, Signal::KILL);
    hive.wait_for_worker("a worker that is given up", SupervisedWorker::is_given_up).await.unwrap();
    // It would load for ever: that it does is what is to be shown.
    let loads = |other: &SupervisedWorker| {
        other.worker_id != worker.worker_id
            && other.state == SupervisedState::Starting { progress: 0.25 }
    };
    tokio::select! {
        ended = hive.spawn("two") => panic!("it loads for ever: {ended:?}"),
        loads = hive.wait_for_worker("a worker of the other model", loads) => loads.unwrap(),
    };
    hive.hive.shutdown().await;
}

/// A hive whose models map more than half of the memory that it may give each.
async fn two_models(home: &Home) -> TestHive {
    two_models_of(home, "maps-much").await
}

async fn two_models_of(home: &Home, behaviour: &str) -> TestHive {
    let hive = home.start_with(home.double(behaviour)).await.unwrap();
    hive.import(&home.double_model(), "one").await.unwrap();
    let other = home.path().join("other.gguf");
    std::fs::write(&other, b"GGUF of another double").unwrap();
    hive.import(&other, "two").await.unwrap();
    hive
}

fn free_memory(hive: &TestHive) -> u64 {
    hive.hive.snapshot().devices[0].memory_free_bytes
}
