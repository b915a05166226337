//! The worker as a process of its own, on the real demo model.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{WorkerProcess, block_on, client, demo_model, events, text, tokens};
use serde_json::{Value, json};

fn chat(content: &str, sampling: Value) -> Value {
    json!({
        "task": {"type": "chat", "messages": [{"role": "user", "content": content}]},
        "sampling": sampling,
    })
}

fn completion(prompt: &str, sampling: Value) -> Value {
    json!({"task": {"type": "completion", "prompt": prompt}, "sampling": sampling})
}

#[test]
fn an_answer_starts_streams_and_ends_once() {
    let worker = WorkerProcess::ready(&["--slots", "2"]);
    let events = worker.events(&chat("Say hello.", json!({"max_tokens": 24, "seed": 5})));
    assert_eq!(events[0]["type"], "started");
    assert!(events[0]["prompt_tokens"].as_u64().unwrap() > 5);
    assert_eq!(events[0]["seed"], 5);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "done");
    let middle = &events[1..events.len() - 1];
    assert!(middle.iter().all(|e| e["type"] == "delta"), "{middle:?}");
    assert!(!text(&events).is_empty());
    let completion = last["usage"]["completion_tokens"].as_u64().unwrap();
    let ended_by_model = u64::from(last["finish_reason"] == "stop");
    assert_eq!(tokens(&events).len() as u64 + ended_by_model, completion);
    for part in ["queue_ms", "prefill_ms", "ttft_ms", "decode_ms"] {
        assert!(last["timings"][part].as_f64().unwrap() >= 0.0, "{last}");
    }
}

#[test]
fn max_tokens_is_exact_and_ends_by_length() {
    let worker = WorkerProcess::ready(&[]);
    for most in [1, 7] {
        let sampling = json!({"max_tokens": most, "ignore_eos": true});
        let events = worker.events(&completion("Once upon a time", sampling));
        assert_eq!(tokens(&events).len(), most);
        assert_eq!(events.last().unwrap()["finish_reason"], "length");
    }
}

#[test]
fn greedy_answers_are_the_same_alone_and_repeated() {
    let worker = WorkerProcess::ready(&["--slots", "1", "--batch-invariant"]);
    let ask = completion("The sea is", json!({"temperature": 0, "max_tokens": 24}));
    assert_eq!(tokens(&worker.events(&ask)), tokens(&worker.events(&ask)));
}

#[test]
fn a_seed_gives_the_same_answer_and_another_seed_another() {
    let worker = WorkerProcess::ready(&["--slots", "1", "--batch-invariant"]);
    let ask = |seed: u64| completion("My favourite", json!({"seed": seed, "max_tokens": 24}));
    let one = tokens(&worker.events(&ask(1)));
    assert_eq!(one, tokens(&worker.events(&ask(1))));
    let others: Vec<_> = (2..6).map(|seed| tokens(&worker.events(&ask(seed)))).collect();
    assert!(others.iter().any(|other| *other != one));
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let base = json!({"temperature": 0, "max_tokens": 40});
    let whole = text(&worker.events(&completion("Once upon a time", base)));
    let stop = whole.split_whitespace().nth(6).expect("some words").to_owned();
    let wanted = &whole[..whole.find(&stop).expect("it is in the text")];
    let sampling = json!({"temperature": 0, "max_tokens": 40, "stop": [stop]});
    let events = worker.events(&completion("Once upon a time", sampling));
    assert_eq!(text(&events), wanted);
    assert_eq!(events.last().unwrap()["finish_reason"], "stop");
}

#[test]
fn several_requests_at_once_all_get_their_answers() {
    let worker = WorkerProcess::ready(&["--slots", "3"]);
    let url = format!("{}/v1/inference", worker.url);
    let all = block_on(async {
        let asks = (0..6).map(|n| {
            let body = chat(&format!("Count to {n}."), json!({"max_tokens": 12}));
            let request = client().post(&url).json(&body);
            async move { request.send().await.unwrap().text().await.unwrap() }
        });
        futures::future::join_all(asks).await
    });
    for body in all {
        let events = events(&body);
        assert_eq!(events.first().unwrap()["type"], "started");
        assert_eq!(events.last().unwrap()["type"], "done");
    }
}

#[test]
fn a_closed_connection_frees_its_slot() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let body = completion("Once", json!({"max_tokens": 6000, "ignore_eos": true})).to_string();
    let address = worker.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "POST /v1/inference HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut piece = [0; 512];
    assert!(connection.read(&mut piece).unwrap() > 0);
    worker.wait_until("the slot is busy", |health| health["slots"]["busy"] == 1);
    drop(connection);
    worker.wait_until("the slot is free", |health| health["slots"]["busy"] == 0);
}

#[test]
fn an_answer_resumes_after_tokens_that_the_client_has() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let sampling = json!({"temperature": 0, "max_tokens": 16, "ignore_eos": true});
    let mut ask = completion("Once upon a time", sampling);
    let whole = tokens(&worker.events(&ask));
    ask["resume"] = json!(whole[..6]);
    let rest = worker.events(&ask);
    assert_eq!(tokens(&rest).len(), 10);
    assert_eq!(rest.last().unwrap()["usage"]["completion_tokens"], 16);
}

#[test]
fn bad_requests_are_refused_with_what_is_wrong() {
    let worker = WorkerProcess::ready(&["--ctx-size", "512"]);
    let long = "word ".repeat(2000);
    let rows = [
        (completion("x", json!({"max_tokens": -1})), "max_tokens"),
        (completion("x", json!({"temperature": 3})), "temperature"),
        (completion("x", json!({"tempreature": 1})), "tempreature"),
        (completion("", json!({})), "prompt"),
        (json!({"task": {"type": "chat", "messages": []}}), "messages"),
        (json!({"task": {"type": "completion", "prompt": [999_999_999]}}), "prompt"),
        (json!({"task": {"type": "paint"}}), "paint"),
        (completion(&long, json!({})), "context_length_exceeded"),
        (completion(&long, json!({})), "512"),
    ];
    for (body, wanted) in rows {
        let (status, text) = worker.post(&body);
        assert_eq!(status, 400, "{wanted}: {text}");
        assert!(text.contains(wanted), "{wanted}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"]["message"].is_string(), "{text}");
    }
    let mut other = completion("x", json!({}));
    other["model"] = json!("another-model");
    assert_eq!(worker.post(&other).0, 404);
    worker.events(&completion("x", json!({"max_tokens": 2})));
}

#[test]
fn sigterm_lets_a_running_answer_end_and_exits_with_zero() {
    let mut worker = WorkerProcess::ready(&["--slots", "1"]);
    let url = format!("{}/v1/inference", worker.url);
    let body = completion("Once", json!({"max_tokens": 100, "ignore_eos": true}));
    let answer = std::thread::spawn(move || {
        block_on(async {
            client().post(url).json(&body).send().await.unwrap().text().await.unwrap()
        })
    });
    worker.wait_until("the slot is busy", |health| health["slots"]["busy"] == 1);
    worker.signal("-TERM");
    assert_eq!(events(&answer.join().unwrap()).last().unwrap()["type"], "done");
    assert_eq!(worker.wait_for_end(), Some(0));
}

#[test]
fn a_truncated_model_is_reported_and_ends_the_process_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.gguf");
    let whole = std::fs::read(demo_model()).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let mut worker = WorkerProcess::start(&broken, &[]);
    worker.wait_for_state("failed");
    assert!(worker.health()["reason"].as_str().unwrap().contains("truncated"));
    worker.wait_for_log("error: ");
    assert_eq!(worker.wait_for_end(), Some(1));
}

#[test]
fn with_a_token_every_route_but_health_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "secret-for-this-test\n").unwrap();
    let worker = WorkerProcess::ready(&["--token-file", file.to_str().unwrap()]);
    let body = completion("x", json!({"max_tokens": 2}));
    assert_eq!(worker.post(&body).0, 401);
    let url = format!("{}/v1/inference", worker.url);
    let status = block_on(async {
        let request = client().post(url).bearer_auth("secret-for-this-test").json(&body);
        request.send().await.unwrap().status()
    });
    assert_eq!(status, 200);
}

#[test]
fn a_worker_off_loopback_without_a_token_does_not_start() {
    let model = demo_model();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"))
        .args(["--port", "0", "--bind", "0.0.0.0", "--model", model.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("token"));
}
