//! Nobody is ended for a worker that its hive would refuse.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{HiveDouble, Queen, Reply, chat};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn nobody_is_ended_for_a_model_that_would_not_fit_even_then_and_the_client_learns_why() {
    let (queen, hive) = queen_with_hive([("m", 6_000), ("other", 40_000)], true).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 2).await;
    refused(&queen.ask(CHAT, &other()).await);
    assert_eq!(hive.asked(), ["spawn m GPU-0"], "the idle one stays");
    let questions = hive.questions();
    refused(&queen.ask(CHAT, &other()).await);
    assert_eq!(hive.questions(), questions, "what the hive said is remembered");
    assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "w-spawned-0");
}

#[tokio::test]
async fn a_start_that_was_refused_for_memory_is_not_tried_again_by_the_next_request() {
    let (queen, hive) = queen_with_hive([("other", 40_000)], true).await;
    for _ in 0..3 {
        refused(&queen.ask(CHAT, &other()).await);
    }
    assert_eq!(hive.asked(), ["spawn other GPU-0"], "by its weights it could have fitted there");
}

#[tokio::test]
async fn an_idle_worker_is_ended_once_the_hive_has_said_that_this_makes_room() {
    let (queen, hive) = queen_with_hive([("m", 6_000), ("other", 7_500)], true).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 2).await;
    assert_eq!(queen.ask(CHAT, &other()).await.status, 200);
    assert_eq!(hive.asked(), ["spawn m GPU-0", "delete w-spawned-0", "spawn other GPU-0"]);
    assert!(hive.questions() > 0);
}

#[tokio::test]
async fn a_model_that_needs_less_than_was_guessed_is_started_where_others_run() {
    // 6 GiB of weights would be taken for 7.2, and 7 are free.
    let (queen, hive) = queen_with_hive([("m", 1_000), ("other", 6_500)], true).await;
    report(&queen, &hive, 7).await;
    let reply = queen.ask(CHAT, &other()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(hive.asked(), ["spawn other GPU-0"]);
    assert_eq!(hive.questions(), 1);
}

#[tokio::test]
async fn a_hive_of_an_earlier_version_that_refuses_costs_no_second_worker() {
    let (queen, hive) = queen_with_hive([("m", 6_000), ("other", 40_000)], false).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 2).await;
    refused(&asked_while_reporting(&queen, &hive).await);
    let ended = || hive.asked().iter().filter(|asked| asked.starts_with("delete")).count();
    assert_eq!(ended(), 1, "its hive did not say that it would not help: {:?}", hive.asked());
    report(&queen, &hive, 8).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 2).await;
    refused(&asked_while_reporting(&queen, &hive).await);
    assert_eq!(ended(), 1, "{:?}", hive.asked());
}

/// Asks for the other model while the hive goes on reporting: what it refuses may be otherwise by then.
async fn asked_while_reporting(queen: &Queen, hive: &HiveDouble) -> Reply {
    let reports = async {
        loop {
            report(queen, hive, 2).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let body = other();
    tokio::select! {
        reply = queen.ask(CHAT, &body) => reply,
        () = reports => unreachable!("it reports without end"),
    }
}

fn refused(reply: &Reply) {
    let error = reply.error(503, "not_enough_memory");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the double cannot hold this"), "{message}");
    let retry: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
}

fn other() -> Value {
    json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]})
}

async fn queen_with_hive<const N: usize>(
    needs: [(&'static str, u64); N],
    tells: bool,
) -> (Queen, HiveDouble) {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.takes(needs, tells);
    hive.let_start();
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    (queen, hive)
}

/// The reports of a hive, with so many GiB free on its card, and of its workers.
async fn report(queen: &Queen, hive: &HiveDouble, free_gib: u64) {
    queen.hive_beat(&hive.beat_with_workers(free_gib)).await;
    for beat in hive.worker_beats() {
        queen.worker_beat(&beat).await;
    }
}
