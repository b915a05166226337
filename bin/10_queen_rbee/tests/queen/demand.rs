//! Models that no worker runs yet.

use std::time::Duration;

use rbee_operations::{Operation, WorkerSpawn};
use serde_json::json;
use worker_contract::HiveAlias;

use crate::support::{HiveDouble, Queen, Reply, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_first_requests_start_one_worker_and_all_wait_for_it() {
    let (queen, hive) = queen_with_hive(false).await;
    let body = chat();
    let asked = async {
        tokio::join!(queen.ask(CHAT, &body), queen.ask(CHAT, &body), queen.ask(CHAT, &body))
    };
    let started = async {
        until("all three wait", async || queen.status().await["waiting"] == 3).await;
        hive.let_start();
    };
    let ((a, b, c), ()) = tokio::join!(asked, started);
    for reply in [a, b, c] {
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world");
        assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0");
    }
    assert_eq!(hive.spawns(), 1);
}

#[tokio::test]
async fn a_worker_that_cannot_start_is_the_answer_to_all_who_wait_and_is_tried_once() {
    let (queen, hive) = queen_with_hive(true).await;
    let mut streamed = chat();
    streamed["stream"] = json!(true);
    let body = chat();
    let asked = async {
        tokio::join!(queen.ask(CHAT, &body), queen.ask(CHAT, &streamed), queen.ask(CHAT, &body))
    };
    let failed = async {
        until("all three wait", async || queen.status().await["waiting"] == 3).await;
        hive.let_start();
    };
    let ((a, b, c), ()) = tokio::join!(asked, failed);
    for reply in [a, b, c] {
        let error = reply.error(503, "worker_failed");
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with("tensor data is truncated"), "{message}");
    }
    let decided = Reply::read(queen.get("/v1/decisions?model=m")).await.text;
    assert!(
        decided.contains("tensor data is truncated") && !decided.contains("log line"),
        "{decided}"
    );
    assert_eq!(hive.spawns(), 1);
}

#[tokio::test]
async fn a_worker_that_somebody_else_is_starting_is_waited_for() {
    let (queen, hive) = queen_with_hive(false).await;
    let spawn = Operation::WorkerSpawn(WorkerSpawn {
        hive_id: HiveAlias::localhost(),
        model: "m".parse().unwrap(),
        device: None,
        slots: None,
        ctx_size: None,
    });
    let created = queen.ask("/v1/jobs", &json!({ "operation": spawn })).await;
    assert!(created.status < 300, "{created:?}");
    until("the hive was asked", async || hive.spawns() == 1).await;
    let body = chat();
    let started = async {
        until("a request waits", async || queen.status().await["waiting"] == 1).await;
        hive.let_start();
    };
    let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), started);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(hive.spawns(), 1);
}

#[tokio::test]
async fn the_deadline_holds_while_a_worker_is_being_started() {
    let (queen, hive) = queen_with_hive(false).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "200").json(&chat());
    let error = Reply::read(request).await.error(504, "deadline_exceeded");
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("x-rbee-deadline-ms, up to [queen] request_timeout_s"), "{hint}");
    hive.let_start();
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.status, 200, "the start was seen through: {reply:?}");
    assert_eq!(hive.spawns(), 1);
}

#[tokio::test]
async fn a_stream_that_waits_for_a_worker_is_kept_alive_by_comments() {
    let (queen, hive) = queen_with_hive(false).await;
    let body = chat();
    let stream = async {
        // Its head comes without a worker after a while.
        let stream = queen.stream(CHAT, &body).await;
        hive.let_start();
        stream.refused().await
    };
    let reports = async {
        loop {
            queen.hive_beat(&hive.beat()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let reply = tokio::select! {
        reply = stream => reply,
        () = reports => unreachable!("it reports without end"),
    };
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.text.starts_with(": keep-alive\n\n"), "{reply:?}");
    assert!(reply.text.contains("Hello") && reply.text.ends_with("data: [DONE]\n\n"), "{reply:?}");
}

#[tokio::test]
async fn a_hive_that_falls_silent_while_it_starts_a_worker_is_not_waited_for() {
    let (queen, lost) = queen_with_hive(false).await;
    let other = HiveDouble::start_as("other".parse().unwrap(), false);
    other.let_start();
    let body = chat();
    let reported = async {
        until("the first was asked", async || lost.spawns() == 1).await;
        // The other one reports for as long as it takes; the first never does again.
        loop {
            queen.hive_beat(&other.beat()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let reply = tokio::select! {
        reply = queen.ask(CHAT, &body) => reply,
        () = reported => unreachable!("it reports without end"),
    };
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world");
    assert_eq!((lost.spawns(), other.spawns()), (1, 1));
}

#[tokio::test]
async fn of_two_models_that_fit_one_at_a_time_the_second_waits_until_the_first_is_idle() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    let other = json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]});
    let body = chat();
    let asked = async { tokio::join!(queen.ask(CHAT, &body), queen.ask(CHAT, &other)) };
    let started = async {
        until("both wait", async || queen.status().await["waiting"] == 2).await;
        until("the hive was asked", async || hive.spawns() > 0).await;
        hive.let_start();
    };
    let ((first, second), ()) = tokio::join!(asked, started);
    assert_eq!((first.status, second.status), (200, 200), "{first:?} {second:?}");
    assert_eq!(hive.asked(), ["spawn m GPU-0", "delete w-spawned-0", "spawn other GPU-0"]);
}

async fn queen_with_hive(fails: bool) -> (Queen, HiveDouble) {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(fails));
    queen.hive_beat(&hive.beat()).await;
    (queen, hive)
}
