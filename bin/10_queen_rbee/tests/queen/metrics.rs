//! What Prometheus reads.

use serde_json::json;

use crate::support::{HiveDouble, Queen, Reply, Script, WorkerDouble, chat, done};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn requests_times_tokens_and_decisions_are_counted_by_model_and_worker() {
    let queen = Queen::start().await;
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["Hello"]), Script::Dies(&[])]);
    let other = WorkerDouble::start("w-2", []);
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&other.beat()).await;
    queen.hive_beat(&HiveDouble::start(false).beat()).await;
    for _ in 0..3 {
        assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    }
    let messages = json!([{"role": "user", "content": "a"}]);
    for model in ["secret-name", "secret name", "openai/secret-name", ""] {
        let body = json!({"model": model, "messages": messages});
        queen.ask(CHAT, &body).await.error(404, "model_not_found");
    }
    let (mut hot, mut empty) = (chat(), chat());
    hot["temperature"] = 99.into();
    empty.as_object_mut().unwrap().remove("messages");
    let nameless = json!({"input": "a"});
    for (path, body) in [(CHAT, &hot), (CHAT, &empty), ("/v1/embeddings", &nameless)] {
        assert_eq!(queen.ask(path, body).await.status, 400, "{body}");
    }
    let late = queen.post(CHAT).header("x-rbee-deadline-ms", "soon").json(&chat());
    Reply::read(late).await.error(400, "invalid_value");
    let text = metrics(&queen).await;
    for line in [
        "rbee_queen_requests_total{model=\"m\",outcome=\"done\"} 3",
        "rbee_queen_requests_total{model=\"(other)\",outcome=\"no_worker\"} 0",
        "rbee_queen_requests_total{model=\"(other)\",outcome=\"refused\"} 5",
        "rbee_queen_requests_total{model=\"m\",outcome=\"refused\"} 3",
        "rbee_queen_prompt_tokens_total{model=\"m\"} 21",
        "rbee_queen_ttft_seconds_count{model=\"m\"} 3",
        "rbee_queen_queue_wait_seconds_count{model=\"m\"} 3",
        "rbee_queen_time_per_token_seconds_count{model=\"m\"} 3",
        "rbee_queen_decisions_total{kind=\"reject\",reason=\"unknown_model\"} 4",
        "rbee_queen_failovers_total{model=\"m\"} 1",
        "rbee_queen_spawns_total 0",
        "rbee_queen_evictions_total 0",
        "rbee_queen_open_requests 0",
        "rbee_queen_open_streams 0",
        "rbee_queen_open_answers{model=\"m\"} 0",
        "rbee_queen_open_answers{model=\"(other)\"} 0",
        "rbee_queen_workers{state=\"ready\"} 2",
        "rbee_queen_workers{state=\"failed\"} 0",
        "rbee_queen_hives{state=\"alive\"} 1",
        "rbee_queen_worker_in_flight{worker=\"w-1\",model=\"m\"} 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("secret-name"), "a client's word is no label");
    let answers: u64 = ["w-1", "w-2"].iter().map(|id| of_worker(&text, "answers", id)).sum();
    assert_eq!(answers, 3, "{text}");
    assert!(of_worker(&text, "failures", "w-1") >= 1, "{text}");
    let tokens: u64 = ["w-1", "w-2"].iter().map(|id| of_worker(&text, "tokens", id)).sum();
    assert!(tokens >= 6, "two of each answer that was not continued: {text}");
    for name in ["ttft_seconds", "decode_seconds"] {
        let begin = format!("rbee_queen_worker_{name}_total{{worker=\"w-2\",model=\"m\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        let seconds: f64 = line.unwrap_or_else(|| panic!("no {begin} in\n{text}")).parse().unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{begin}{seconds}");
    }
}

#[tokio::test]
async fn all_tokens_of_a_worker_are_counted_also_those_without_a_text() {
    let queen = Queen::start().await;
    let of = |kind: &str, index: u32| json!({"type": kind, "index": index, "text": "a", "tokens": [1], "finish_reason": "stop"});
    let events = vec![
        of("delta", 0),
        of("delta", 1),
        of("choice_done", 0),
        of("choice_done", 1),
        done(4, "stop"),
    ];
    let worker = WorkerDouble::start("w-1", [Script::Plays(events)]);
    queen.worker_beat(&worker.beat()).await;
    let mut body = chat();
    body["n"] = 2.into();
    assert_eq!(queen.ask(CHAT, &body).await.status, 200);
    assert_eq!(of_worker(&metrics(&queen).await, "tokens", "w-1"), 4);
}

#[tokio::test]
async fn what_is_open_and_what_waits_is_told_while_it_is() {
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", vec![Script::Hangs(&["Hello"]); 2]);
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
        stream.until_text().await;
        streams.push(stream);
    }
    let late = queen.post(CHAT).header("x-rbee-deadline-ms", "50").json(&chat());
    Reply::read(late).await.error(504, "deadline_exceeded");
    let text = metrics(&queen).await;
    for told in [
        "requests_total{model=\"m\",outcome=\"deadline\"} 1\n",
        "queue_wait_seconds_count{model=\"m\"} 3\n",
    ] {
        assert!(text.contains(told), "it waited in vain: {text}");
    }
    let body = chat();
    let waiting = queen.ask(CHAT, &body);
    let look = async {
        crate::support::until("one waits", async || {
            metrics(&queen).await.contains("rbee_queen_waiting{model=\"m\"} 1\n")
        })
        .await;
        let text = metrics(&queen).await;
        assert!(text.contains("rbee_queen_open_streams 2\n"), "{text}");
        assert!(text.contains("rbee_queen_open_requests 3\n"), "{text}");
        let answers = "rbee_queen_open_answers{model=\"m\"} 2\n";
        assert!(text.contains(answers), "the one that waits is none: {text}");
        streams.clear();
    };
    let (reply, ()) = tokio::join!(waiting, look);
    assert_eq!(reply.status, 200);
    crate::support::until("nothing is open", async || {
        let text = metrics(&queen).await;
        text.contains("rbee_queen_open_streams 0\n")
            && text.contains("rbee_queen_open_answers{model=\"m\"} 0\n")
            && text.contains("rbee_queen_open_requests 0\n")
    })
    .await;
    let text = metrics(&queen).await;
    assert!(text.contains("requests_total{model=\"m\",outcome=\"cancelled\"} 2\n"), "{text}");
}

async fn metrics(queen: &Queen) -> String {
    let reply = Reply::read(queen.get("/metrics")).await;
    assert!(reply.header("content-type").starts_with("application/openmetrics-text"), "{reply:?}");
    reply.text
}

fn of_worker(text: &str, name: &str, worker: &str) -> u64 {
    let begin = format!("rbee_queen_worker_{name}_total{{worker=\"{worker}\",model=\"m\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin));
    line.unwrap_or_else(|| panic!("no {begin} in\n{text}")).parse().unwrap()
}
