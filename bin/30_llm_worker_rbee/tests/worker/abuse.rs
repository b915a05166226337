//! What a worker is asked that nobody should ask: it refuses in words, and goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{WorkerProcess, block_on, client, events, tokens};

/// What is at once, also where other tests take the processors.
const AT_ONCE: Duration = Duration::from_secs(10);

fn completion(sampling: Value) -> Value {
    json!({"task": {"type": "completion", "prompt": "Once"}, "sampling": sampling})
}

fn format(format: Value) -> Value {
    let mut request = completion(json!({"max_tokens": 4}));
    request["format"] = format;
    request
}

fn chat(messages: Value) -> Value {
    json!({"task": {"type": "chat", "messages": messages}, "sampling": {"max_tokens": 4}})
}

#[test]
fn what_cannot_be_served_is_refused_in_words_and_the_next_one_is_served() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    let biases: Vec<Value> = (0..10_000).map(|n| json!([n, 1.0])).collect();
    let huge = json!({"enum": [" ".repeat(10 << 20)]});
    let rows = [
        ("an empty prompt", json!({"task": {"type": "completion", "prompt": ""}}), "prompt"),
        ("no messages", chat(json!([])), "messages"),
        ("a message without content", chat(json!([{"role": "user"}])), "content"),
        ("an unknown role", chat(json!([{"role": "robot", "content": "x"}])), "robot"),
        ("a long stop text", completion(json!({"stop": ["x".repeat(100_000)]})), "stop"),
        ("many biases", completion(json!({"logit_bias": biases})), "logit_bias"),
        (
            "a token that is none",
            completion(json!({"logit_bias": [[9_999_999, 1.0]]})),
            "logit_bias",
        ),
        ("text for a number", completion(json!({"temperature": "NaN"})), "temperature"),
        ("no number", completion(json!({"top_p": null, "temperature": -1.0})), "temperature"),
        ("many likeliest tokens", completion(json!({"logprobs": 1000})), "logprobs"),
        ("a schema for no text", format(json!({"type": "json_schema", "schema": false})), "schema"),
        (
            "a schema against itself",
            format(
                json!({"type": "json_schema", "schema": {"type": "integer", "minimum": 5, "maximum": 1}}),
            ),
            "schema",
        ),
        ("a huge schema", format(json!({"type": "json_schema", "schema": huge})), "schema"),
        ("a deep schema", format(json!({"type": "json_schema", "schema": deep})), "schema"),
        ("an open bracket", format(json!({"type": "regex", "pattern": "(a"})), "pattern"),
        ("no grammar", format(json!({"type": "lark", "grammar": "start: nothing"})), "grammar"),
        ("too many answers", json!({"task": {"type": "completion", "prompt": "x"}, "n": 100}), "n"),
        ("vectors of a chat model", json!({"task": {"type": "embed", "inputs": ["x"]}}), "vectors"),
    ];
    for (what, body, wanted) in rows {
        let (status, text) = worker.post(&body);
        let start: String = text.chars().take(500).collect();
        assert_eq!(status, 400, "{what}: {start}");
        let error: Value = serde_json::from_str(&text).unwrap();
        let error = &error["error"];
        let told = format!("{} {}", error["message"], error["param"]);
        assert!(told.contains(wanted), "{what}: {start}");
        assert!(text.len() < 4000, "{what}: an error of {} bytes", text.len());
    }
    assert_eq!(
        tokens(&worker.events(&completion(json!({"max_tokens": 3, "ignore_eos": true})))).len(),
        3
    );
}

#[test]
fn a_prompt_that_can_never_fit_is_refused_at_once_and_health_is_told_meanwhile() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let nothing = json!({"role": "user", "content": ""});
    let control = "<|im_start|>".repeat(300_000);
    for (what, body) in [
        ("messages of nothing", chat(json!(vec![nothing; 60_000]))),
        ("control tokens", chat(json!([{"role": "user", "content": control}]))),
        ("one long word", chat(json!([{"role": "user", "content": "x".repeat(9_000_000)}]))),
    ] {
        let begun = Instant::now();
        let url = format!("{}/v1/inference", worker.url);
        let answer = std::thread::spawn(move || {
            block_on(async {
                let answer = client().post(url).json(&body).send().await.unwrap();
                (answer.status(), answer.text().await.unwrap())
            })
        });
        while !answer.is_finished() {
            let asked = Instant::now();
            worker.health();
            assert!(asked.elapsed() < AT_ONCE, "{what}: health took {:?}", asked.elapsed());
        }
        let (status, text) = answer.join().unwrap();
        let said: String = text.chars().take(500).collect();
        assert!(begun.elapsed() < AT_ONCE, "{what} took {:?}", begun.elapsed());
        assert!(status == 400 && text.contains("context_length_exceeded"), "{what}: {said}");
        assert!(text.contains("at least"), "{what}: {said}");
    }
    worker.wait_until("all is free", |health| health["queued"] == 0);
    worker.events(&completion(json!({"max_tokens": 1})));
}

#[test]
fn an_expression_that_explodes_takes_a_bounded_time_and_stops_nobody() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    for pattern in
        ["((a{1,1000}){1,1000}){1,1000}", "(x+x+)+y", "(.*a){200}", "[\\w\\W]{0,100000}z"]
    {
        let (status, text) = worker.post(&format(json!({"type": "regex", "pattern": pattern})));
        let is_refused = status == 400 && text.contains("pattern");
        let is_answered = status == 200 && text.contains("\"type\":\"done\"");
        let is_given_up = status == 200 && text.contains("format_failed");
        assert!(is_refused || is_answered || is_given_up, "{pattern}: {status} {text}");
        worker.events(&completion(json!({"max_tokens": 1})));
    }
}

#[test]
fn a_thousand_requests_at_once_are_answered_or_refused_and_leave_nothing_behind() {
    let worker = WorkerProcess::ready(&["--slots", "4", "--max-queue", "64"]);
    let url = format!("{}/v1/inference", worker.url);
    let client = client();
    let asks = (0..1000).map(|n| {
        let body = completion(json!({"seed": n, "max_tokens": 2, "ignore_eos": true}));
        let request = client.post(&url).json(&body);
        async move {
            let answer = request.send().await.unwrap();
            let (status, hint) = (answer.status(), answer.headers().get("retry-after").cloned());
            (status.as_u16(), hint, answer.text().await.unwrap())
        }
    });
    let answers = block_on(futures::future::join_all(asks));
    let mut served = 0;
    for (status, hint, body) in answers {
        match status {
            200 => {
                assert_eq!(tokens(&events(&body)).len(), 2, "{body}");
                served += 1;
            }
            429 => assert!(hint.is_some() && body.contains("queue_full"), "{body}"),
            other => panic!("status {other}: {body}"),
        }
    }
    assert!(served >= 64, "{served} were served");
    worker
        .wait_until("all is free", |health| health["slots"]["busy"] == 0 && health["queued"] == 0);
}

#[test]
fn a_reader_of_single_bytes_holds_up_nobody() {
    let worker = WorkerProcess::ready(&["--slots", "2"]);
    let body = completion(json!({"max_tokens": 2000, "ignore_eos": true})).to_string();
    let address = worker.url.strip_prefix("http://").unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/inference HTTP/1.1\r\nhost: {address}\r\n");
    let length = body.len();
    write!(slow, "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut byte = [0];
    for _ in 0..20 {
        slow.read_exact(&mut byte).unwrap();
        let quick = worker.events(&completion(json!({"max_tokens": 5, "ignore_eos": true})));
        assert_eq!(tokens(&quick).len(), 5);
    }
    drop(slow);
    worker.wait_until("its slot is free", |health| health["slots"]["busy"] == 0);
}
