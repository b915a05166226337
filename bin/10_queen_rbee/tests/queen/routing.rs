//! Which worker a request goes to, and who is next.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;
use worker_contract::KvCacheUse;

use crate::support::{HiveDouble, Queen, Reply, Script, Stream, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn requests_that_begin_alike_go_to_the_worker_that_has_the_beginning() {
    let (queen, first, second) = two_workers().await;
    let busy = occupy(&queen).await;
    assert_eq!(queen.ask(CHAT, &long("Hi")).await.header("x-rbee-worker"), "w-2");
    drop(busy);
    until("the first one is idle", async || queen.in_flight("w-1").await == 0).await;
    for question in ["Ho", "Ha"] {
        let reply = queen.ask(CHAT, &long(question)).await;
        assert_eq!(reply.header("x-rbee-worker"), "w-2");
        assert_eq!(reply.header("x-rbee-route"), "prefix");
    }
    let other = queen.ask(CHAT, &chat()).await;
    assert_eq!(other.header("x-rbee-worker"), "w-1", "it begins in another way");
    assert_eq!((first.requests().len(), second.requests().len()), (2, 3));
}

#[tokio::test]
async fn a_worker_that_was_started_again_holds_nothing() {
    let (queen, _first, second) = two_workers().await;
    let busy = occupy(&queen).await;
    assert_eq!(queen.ask(CHAT, &long("Hi")).await.header("x-rbee-worker"), "w-2");
    drop(busy);
    until("the first one is idle", async || queen.in_flight("w-1").await == 0).await;
    let mut beat = second.beat();
    beat.pid = 2;
    queen.worker_beat(&beat).await;
    assert_eq!(queen.ask(CHAT, &long("Ho")).await.header("x-rbee-worker"), "w-1");
}

#[tokio::test]
async fn a_session_stays_at_its_worker_and_is_nobody_elses() {
    let (queen, _first, _second) = two_workers().await;
    let busy = occupy(&queen).await;
    let ask = async |name: &str| {
        Reply::read(queen.post(CHAT).header("x-rbee-session", name).json(&chat())).await
    };
    assert_eq!(ask("mine").await.header("x-rbee-worker"), "w-2");
    drop(busy);
    until("the first one is idle", async || queen.in_flight("w-1").await == 0).await;
    let reply = ask("mine").await;
    assert_eq!((reply.header("x-rbee-worker"), reply.header("x-rbee-route")), ("w-2", "session"));
    assert_eq!(ask("another").await.header("x-rbee-worker"), "w-1");
}

#[tokio::test]
async fn a_session_with_two_models_is_at_a_worker_of_each() {
    let workers = ["w-1", "w-2", "w-3"].map(|id| WorkerDouble::start(id, []));
    let queen = Queen::start().await;
    for (worker, model) in workers.iter().zip(["m", "m", "other"]) {
        let mut beat = worker.beat();
        beat.model.name = model.parse().unwrap();
        queen.worker_beat(&beat).await;
    }
    let ask = async |model: &str| {
        let mut body = chat();
        body["model"] = model.into();
        let reply =
            Reply::read(queen.post(CHAT).header("x-rbee-session", "mine").json(&body)).await;
        (reply.header("x-rbee-worker").to_owned(), reply.header("x-rbee-route").to_owned())
    };
    let (first, _) = ask("m").await;
    assert_eq!(ask("other").await.0, "w-3");
    assert_eq!(ask("m").await, (first, "session".to_owned()));
}

#[tokio::test]
async fn headers_that_say_nothing_are_refused_with_their_names() {
    let (queen, _first, _second) = two_workers().await;
    for (header, bad) in [
        ("x-rbee-priority", "urgent".to_owned()),
        ("x-rbee-priority", String::new()),
        ("x-rbee-session", String::new()),
        ("x-rbee-session", "x".repeat(257)),
    ] {
        let reply = Reply::read(queen.post(CHAT).header(header, &bad).json(&chat())).await;
        assert_eq!(reply.error(400, "invalid_value")["param"], header, "{bad:?}");
    }
}

#[tokio::test]
async fn batch_requests_take_what_others_leave() {
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["x"])]);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = 1;
    queen.worker_beat(&beat).await;
    let running = occupy(&queen).await;
    let ask = async |priority: &str, text: &str| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        Reply::read(queen.post(CHAT).header("x-rbee-priority", priority).json(&body)).await
    };
    let waiting = |number: u64| {
        let queen = &queen;
        async move { until("it waits", async || queen.status().await["waiting"] == number).await }
    };
    let batch = ask("batch", "batch");
    let interactive = async {
        waiting(1).await;
        ask("interactive", "interactive").await
    };
    let release = async {
        waiting(2).await;
        drop(running);
    };
    let (batch, interactive, ()) = tokio::join!(batch, interactive, release);
    assert_eq!((batch.status, interactive.status), (200, 200));
    let order: Vec<Value> =
        worker.requests()[1..].iter().map(|r| serde_json::to_value(&r.task).unwrap()).collect();
    assert_eq!(order[0]["messages"][0]["content"], "interactive");
    assert_eq!(order[1]["messages"][0]["content"], "batch");
}

#[tokio::test]
async fn an_interactive_request_finds_no_batch_one_queued_before_it_in_a_worker() {
    let go_on = Arc::new(Notify::new());
    let worker = WorkerDouble::start("w-1", [Script::Waits(&["x"], Arc::clone(&go_on))]);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = 1;
    queen.worker_beat(&beat).await;
    let ask = async |priority: &str, text: &str| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        Reply::read(queen.post(CHAT).header("x-rbee-priority", priority).json(&body)).await
    };
    let batch = async {
        let second = async {
            until("the first one runs", async || worker.open() == 1).await;
            ask("batch", "second").await
        };
        tokio::join!(ask("batch", "first"), second)
    };
    let third = async {
        until("the second one waits", async || queen.status().await["waiting"] == 1).await;
        ask("interactive", "third").await
    };
    let released = async {
        until("the third one waits, too", async || queen.status().await["waiting"] == 2).await;
        assert_eq!(worker.requests().len(), 1, "they wait in the queen");
        go_on.notify_one();
    };
    let ((first, second), third, ()) = tokio::join!(batch, third, released);
    assert_eq!([first.status, second.status, third.status], [200; 3]);
    let text = |number: usize| {
        let task = serde_json::to_value(&worker.requests()[number].task).unwrap();
        task["messages"][0]["content"].clone()
    };
    assert_eq!([text(0), text(1), text(2)], ["first", "third", "second"]);
}

#[tokio::test]
async fn absurd_numbers_in_a_report_harm_nobody() {
    let worker = WorkerDouble::start("w-1", []);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = u32::MAX;
    beat.slots.busy = u32::MAX;
    beat.queued = u32::MAX;
    beat.kv_cache = KvCacheUse { used_tokens: u32::MAX, capacity_tokens: u32::MAX };
    beat.model.context_length = 0;
    beat.tokens_per_second = f32::MAX;
    beat.pid = u32::MAX;
    queen.worker_beat(&beat).await;
    assert_eq!(queen.ask(CHAT, &long("Hi")).await.status, 200);
    beat.slots.total = 0;
    beat.kv_cache = KvCacheUse::default();
    queen.worker_beat(&beat).await;
    assert_eq!(queen.ask(CHAT, &long("Hi")).await.status, 200);
}

#[tokio::test]
async fn a_name_is_answered_by_its_file_under_another_name_and_by_no_other_file_of_that_name() {
    let (wrong, right) = (WorkerDouble::start("w-1", []), WorkerDouble::start("w-2", []));
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let mut report = hive.beat();
    let mut again = report.catalog[0].clone();
    again.alias = "again".parse().unwrap();
    report.catalog.push(again);
    queen.hive_beat(&report).await;
    for (worker, digit, hive) in [(&wrong, "1", "laptop"), (&right, "0", "localhost")] {
        let mut beat = worker.beat();
        beat.hive_id = hive.parse().unwrap();
        beat.model.digest = Some(digit.repeat(64).parse().unwrap());
        queen.worker_beat(&beat).await;
    }
    let mut body = chat();
    body["model"] = "again".into();
    for _ in 0..3 {
        let reply = queen.ask(CHAT, &body).await;
        assert_eq!(reply.header("x-rbee-worker"), "w-2", "{reply:?}");
    }
    let requests = right.requests();
    let asked: Vec<String> =
        requests.iter().map(|asked| asked.model.as_ref().unwrap().to_string()).collect();
    assert_eq!(asked, ["m"; 3], "a worker knows its own name only");
    assert_eq!((wrong.requests().len(), hive.spawns()), (0, 0));
}

async fn two_workers() -> (Queen, WorkerDouble, WorkerDouble) {
    let first = WorkerDouble::start("w-1", [Script::Hangs(&["x"])]);
    let second = WorkerDouble::start("w-2", []);
    let queen = Queen::start().await;
    queen.worker_beat(&first.beat()).await;
    queen.worker_beat(&second.beat()).await;
    (queen, first, second)
}

/// A stream that runs at the first worker until it is dropped.
async fn occupy(queen: &Queen) -> Stream {
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    assert_eq!(stream.header("x-rbee-worker"), "w-1");
    stream.until_text().await;
    stream
}

/// A conversation with a long beginning.
fn long(question: &str) -> Value {
    let system = "You are a bee, and you know everything about flowers. ".repeat(80);
    json!({
        "model": "m",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
    })
}
