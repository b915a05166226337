//! Workers that fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use worker_contract::WorkerHeartbeat;

use crate::support::{Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn before_the_first_token_another_worker_takes_over_and_nobody_notices() {
    for trouble in [
        Script::Dies(&[]),
        Script::Babbles,
        Script::Fails(&[], "engine_error"),
        Script::Refuses(500, "internal"),
        Script::Refuses(401, "invalid_api_key"),
    ] {
        for stream in [false, true] {
            let failing = WorkerDouble::start("w-1", [trouble.clone()]);
            let other = WorkerDouble::start("w-2", []);
            let queen = Queen::start().await;
            queen.worker_beat(&failing.beat()).await;
            queen.worker_beat(&other.beat()).await;
            if stream {
                let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
                assert_eq!(transcript.text(), "Hello world", "{trouble:?}");
                assert!(transcript.is_done && transcript.error.is_none());
            } else {
                let reply = queen.ask(CHAT, &chat()).await;
                assert_eq!(reply.status, 200, "{trouble:?}: {reply:?}");
                assert_eq!(reply.header("x-rbee-worker"), "w-2");
            }
            assert_eq!((failing.requests().len(), other.requests().len()), (1, 1), "{trouble:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_is_not_asked_twice() {
    let gone = WorkerDouble::start("w-1", []);
    let other = WorkerDouble::start("w-2", []);
    let queen = Queen::start().await;
    let beat = gone.beat();
    drop(gone);
    queen.worker_beat(&beat).await;
    queen.worker_beat(&other.beat()).await;
    for _ in 0..2 {
        assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "w-2");
    }
    let status = queen.status().await;
    let first = &status["workers"][0];
    assert_eq!((&first["worker_id"], &first["liveness"]), (&json!("w-1"), &json!("suspect")));
}

#[tokio::test]
async fn a_connection_that_the_worker_closed_while_it_was_idle_is_no_failure() {
    let worker = WorkerDouble::start("w-1", []);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    let port = worker.port;
    drop(worker);
    let mut again = None;
    until("the same port is free", async || {
        again = WorkerDouble::start_at(port, "w-1", []);
        again.is_some()
    })
    .await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    assert_eq!(queen.status().await["workers"][0]["liveness"], "alive");
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_tried_three_times_and_not_quoted() {
    let worker = WorkerDouble::start("w-1", [Script::Babbles, Script::Babbles, Script::Babbles]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    reply.error(502, "worker_failed");
    assert!(!reply.text.contains("secret"), "{reply:?}");
    assert_eq!(worker.requests().len(), 3);
}

#[tokio::test]
async fn a_worker_that_is_not_ready_after_all_is_waited_for() {
    let scripts = [Script::Refuses(503, "loading"), Script::Refuses(429, "queue_full")];
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(worker.requests().len(), 3);
}

#[tokio::test]
async fn the_deadline_ends_what_hangs() {
    for trouble in [Script::Silent, Script::Hangs(&[])] {
        for stream in [false, true] {
            let worker = WorkerDouble::start("w-1", [trouble.clone()]);
            let queen = Queen::start().await;
            queen.worker_beat(&worker.beat()).await;
            let mut body = chat();
            body["stream"] = json!(stream);
            let began = Instant::now();
            let request = queen.post(CHAT).header("x-rbee-deadline-ms", "200").json(&body);
            Reply::read(request).await.error(504, "deadline_exceeded");
            assert!(began.elapsed() >= Duration::from_millis(200));
            until("the worker is let go", async || worker.open() == 0).await;
        }
    }
}

#[tokio::test]
async fn a_deadline_that_passes_at_a_worker_that_works_accuses_nobody_and_more_time_is_advised() {
    for (script, did) in [
        (Script::Hangs(&[]), "w-1 was still computing its prompt"),
        (Script::Queues, "w-1 had it in its queue"),
        (Script::Silent, "w-1 had not answered yet, after 2 s"),
    ] {
        let worker = WorkerDouble::start("w-1", [script]);
        let queen = Queen::start().await;
        queen.worker_beat(&worker.beat()).await;
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", "2900").json(&chat());
        let error = Reply::read(request).await.error(504, "deadline_exceeded");
        let expected = format!("the request's deadline has passed after 0 tokens: {did}");
        assert_eq!(error["message"], expected);
        assert!(error["hint"].as_str().unwrap().starts_with("allow more time"), "{error}");
        let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
        let last = &decisions[0];
        assert_eq!(
            (&last["kind"], &last["worker_id"], &last["why"]),
            (&json!("give_up"), &json!("w-1"), &error["message"]),
            "{decisions}"
        );
    }
}

#[tokio::test]
async fn the_deadline_ends_what_pours_without_a_pause() {
    let worker = WorkerDouble::start("w-1", [Script::Pours(0)]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "200").json(&chat());
    Reply::read(request).await.error(504, "deadline_exceeded");
    until("the worker is let go", async || worker.open() == 0).await;
}

#[tokio::test]
async fn an_answer_without_an_end_is_the_workers_fault_and_is_not_kept_for_ever() {
    let worker = WorkerDouble::start("w-1", [Script::Pours(512 * 1024)]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("more than 64 MiB"), "{error}");
    until("the worker is let go", async || worker.open() == 0).await;
    assert_eq!(worker.requests().len(), 1, "nobody is to go on with it");
}

#[tokio::test]
async fn the_deadline_ends_a_stream_in_its_middle_by_an_error() {
    for trouble in [Script::Hangs(&["Hello"]), Script::Fails(&["Hello"], "deadline_exceeded")] {
        let worker = WorkerDouble::start("w-1", [trouble]);
        let queen = Queen::start().await;
        queen.worker_beat(&worker.beat()).await;
        let mut body = chat();
        body["stream"] = json!(true);
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", "300").json(&body);
        let transcript = crate::support::Stream::open(request).await.begun().await.rest().await;
        assert_eq!(transcript.text(), "Hello");
        assert_eq!(transcript.error.unwrap()["code"], "deadline_exceeded");
        assert!(!transcript.is_done);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_at_a_worker_does_not_hide_that_the_request_was_failed_before() {
    let scripts = [Script::Babbles, Script::Silent];
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "700").json(&chat());
    let error = Reply::read(request).await.error(504, "deadline_exceeded");
    assert_eq!(worker.requests().len(), 2);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("0 tokens: w-1 failed it before: it sent"), "{message}");
    assert!(error.get("hint").is_none(), "more time would not help: {error}");
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let last = &decisions[0];
    assert_eq!(
        (&last["kind"], &last["why"]),
        (&json!("give_up"), &error["message"]),
        "{decisions}"
    );
}

#[tokio::test]
async fn an_answer_that_gets_one_token_before_each_failure_is_tried_again_ever_more_slowly() {
    let failing = vec![Script::Fails(&["Hello"], "engine_error"); 1000];
    let worker = WorkerDouble::start("w-1", failing);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let mut body = chat();
    body["stream"] = json!(true);
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "1500").json(&body);
    let transcript = crate::support::Stream::open(request).await.begun().await.rest().await;
    assert!(!transcript.is_done && transcript.error.is_some(), "{transcript:?}");
    let tries = worker.requests().len();
    assert!((2..12).contains(&tries), "{tries} tries");
}

#[tokio::test]
async fn a_worker_that_speaks_no_http_is_asked_three_times_and_the_error_says_so() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    for answer in
        [format!("{head}5\nhello\n"), format!("{head}no size\r\n"), "SSH-2.0-x\r\n".into()]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut beat = WorkerDouble::start("w-1", []).beat();
        beat.address = format!("http://{}", listener.local_addr().unwrap());
        let queen = Queen::start().await;
        queen.worker_beat(&beat).await;
        let mut open = Vec::new();
        let answers = async {
            for _ in 0..4 {
                let (mut connection, _) = listener.accept().await.unwrap();
                connection.write_all(answer.as_bytes()).await.unwrap();
                open.push(connection);
            }
        };
        let body = chat();
        let reply = tokio::select! {
            reply = queen.ask(CHAT, &body) => reply,
            () = answers => panic!("it is asked for a fourth time"),
        };
        let error = reply.error(502, "worker_failed");
        assert!(error["message"].as_str().unwrap().contains("no HTTP"), "{error}");
    }
}

#[tokio::test]
async fn who_hangs_over_a_prompt_and_reports_all_the_same_loses_it_to_another_one_before_the_deadline()
 {
    let hanging = WorkerDouble::start("w-1", [Script::Hangs(&[])]);
    let other = WorkerDouble::start("w-2", []);
    let queen = Queen::start().await;
    queen.worker_beat(&hanging.beat()).await;
    queen.worker_beat(&other.beat()).await;
    let reported = async {
        loop {
            queen.worker_beat(&hanging.beat()).await;
            queen.worker_beat(&other.beat()).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let mut body = chat();
    body["messages"][0]["content"] = json!("x");
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "12000").json(&body);
    let reply = tokio::select! {
        reply = Reply::read(request) => reply,
        () = reported => unreachable!("it reports without end"),
    };
    assert_eq!((reply.status, reply.header("x-rbee-worker")), (200, "w-2"), "{reply:?}");
}

#[tokio::test]
async fn an_answer_that_gives_way_in_its_worker_where_others_wait_is_no_failure() {
    for (queued, tokens_per_second, failures) in [(1, 9.5, 0), (0, 9.5, 1), (1, 0.0, 1)] {
        let go_on = Arc::new(Notify::new());
        let waits = Script::Waits(&["Hello"], Arc::clone(&go_on));
        let worker = WorkerDouble::start("w-1", [waits]);
        let queen = Queen::configured(|config| config.queen.stall_timeout_s = 1).await;
        let mut beat = worker.beat();
        (beat.queued, beat.tokens_per_second) = (queued, tokens_per_second);
        queen.worker_beat(&beat).await;
        let began = Instant::now();
        let reported = async {
            until("it was silent for longer than a worker may be", async || {
                queen.worker_beat(&beat).await;
                began.elapsed() > Duration::from_secs(3)
            })
            .await;
            go_on.notify_one();
            std::future::pending::<()>().await;
        };
        let reply = answered_beside(&queen, reported).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let because = format!("{queued} wait, at {tokens_per_second} tokens a second");
        assert_eq!(worker.requests().len(), 1 + failures, "{because}");
    }
}

#[tokio::test]
async fn what_waits_in_a_worker_goes_to_another_one_that_has_room_and_nobody_has_failed() {
    let (begun, whole): (&[&str], &[&str]) = (&[" world"], &["Hello world"]);
    for (because, script, busy, tokens_per_second, rest) in [
        ("it has given way", Script::Hangs(&["Hello"]), 1, 9.5, begun),
        ("all slots are taken", Script::Queues, 4, 9.5, whole),
        ("a long prompt has the KV cache", Script::Queues, 1, 0.0, whole),
    ] {
        let crowded = WorkerDouble::start("w-1", [script]);
        let other = WorkerDouble::start("w-2", [Script::Says(rest)]);
        let queen = Queen::configured(|config| config.queen.stall_timeout_s = 1).await;
        let mut beat = crowded.beat();
        (beat.slots.busy, beat.tokens_per_second) = (busy, tokens_per_second);
        queen.worker_beat(&beat).await;
        let reported = async {
            until("the request is there", async || crowded.requests().len() == 1).await;
            // Only then it is known to wait.
            beat.queued = 1;
            loop {
                queen.worker_beat(&beat).await;
                queen.worker_beat(&other.beat()).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let reply = answered_beside(&queen, reported).await;
        assert_eq!((reply.status, reply.header("x-rbee-worker")), (200, "w-2"), "{reply:?}");
        let choice = &reply.json()["choices"][0];
        assert_eq!(choice["message"]["content"], "Hello world", "{because}");
        let metrics = Reply::read(queen.get("/metrics")).await.text;
        let failures = "rbee_queen_worker_failures_total{worker=\"w-1\",model=\"m\"} 0\n";
        assert!(metrics.contains(failures), "{metrics}");
    }
}

#[tokio::test]
async fn what_waits_in_a_worker_goes_to_none_where_it_would_wait_and_back_where_it_does_no_longer()
{
    let names = ["w-1", "w-2", "w-3"];
    let [first, second, full] =
        names.map(|name| WorkerDouble::start(name, (name != "w-3").then_some(Script::Queues)));
    let queen = Queen::start().await;
    let report = async |worker: &WorkerDouble, busy, queued| {
        let mut beat = worker.beat();
        (beat.slots.busy, beat.queued) = (busy, queued);
        queen.worker_beat(&beat).await;
    };
    report(&first, 1, 1).await;
    let reported = async {
        until("the request is there", async || first.requests().len() == 1).await;
        loop {
            // The least loaded one is that whose KV cache is full.
            report(&full, 0, 1).await;
            if second.requests().is_empty() {
                report(&first, 1, 1).await;
                report(&second, 2, 0).await;
            } else {
                // What was before it there is over.
                report(&first, 2, 0).await;
                report(&second, 1, 1).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let reply = answered_beside(&queen, reported).await;
    assert_eq!((reply.status, reply.header("x-rbee-worker")), (200, "w-1"), "{reply:?}");
    let asked = [first, second, full].map(|worker| worker.requests().len());
    assert_eq!(asked, [2, 1, 0]);
}

#[tokio::test]
async fn a_worker_that_was_started_again_takes_what_waits_elsewhere_also_where_it_failed_it_before()
{
    let failing = WorkerDouble::start("w-1", [Script::Fails(&[], "engine_error")]);
    let crowded = WorkerDouble::start("w-2", [Script::Queues]);
    let restarted = WorkerDouble::start("w-1", []);
    let queen = Queen::start().await;
    let mut crowd = crowded.beat();
    crowd.slots.busy = 3;
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&crowd).await;
    let reported = async {
        until("it waits in the other one", async || !crowded.requests().is_empty()).await;
        crowd.queued = 1;
        loop {
            queen.worker_beat(&WorkerHeartbeat { pid: 2, ..restarted.beat() }).await;
            queen.worker_beat(&crowd).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "15000").json(&chat());
    let reply = tokio::select! {
        reply = Reply::read(request) => reply,
        () = reported => unreachable!("it reports without end"),
    };
    assert_eq!((reply.status, reply.header("x-rbee-worker")), (200, "w-1"), "{reply:?}");
    assert_eq!(restarted.requests().len(), 1);
}

/// The answer to a request, while somebody reports without end.
async fn answered_beside(queen: &Queen, reported: impl Future<Output = ()>) -> Reply {
    let body = chat();
    tokio::select! {
        reply = queen.ask(CHAT, &body) => reply,
        () = reported => unreachable!("it reports without end"),
    }
}
