//! A worker in batch-invariant mode: the same request gives the same text, whatever else it does.

use serde_json::{Value, json};

use crate::support::{WorkerProcess, block_on, client, events, tokens};

const INVARIANT: &[&str] = &["--batch-invariant", "--slots", "4"];

fn greedy() -> Value {
    json!({
        "task": {"type": "completion", "prompt": "The lighthouse keeper looked at the sea and"},
        "sampling": {"temperature": 0, "max_tokens": 64, "ignore_eos": true},
        "deterministic": true,
    })
}

fn seeded() -> Value {
    let mut request = greedy();
    request["sampling"] = json!({"seed": 11, "max_tokens": 40, "ignore_eos": true});
    request
}

#[test]
fn an_answer_cut_at_any_token_goes_on_with_the_very_same_tokens() {
    let worker = WorkerProcess::ready(INVARIANT);
    let whole = tokens(&worker.events(&greedy()));
    assert_eq!(whole.len(), 64);
    for cut in 1..whole.len() {
        let mut request = greedy();
        request["resume"] = json!(whole[..cut]);
        assert_eq!(tokens(&worker.events(&request)), whole[cut..], "cut at {cut}");
    }
}

#[test]
fn an_answer_is_the_same_alone_and_in_a_crowd() {
    let worker = WorkerProcess::ready(INVARIANT);
    let long = "Snow fell on the harbour all night. ".repeat(40);
    let others = [
        json!({"task": {"type": "completion", "prompt": long}, "sampling": {"max_tokens": 30}}),
        json!({"task": {"type": "completion", "prompt": "Two"}, "sampling": {"max_tokens": 50}}),
        json!({"task": {"type": "completion", "prompt": "A recipe:"}, "sampling": {"max_tokens": 9}}),
    ];
    for request in [greedy(), seeded()] {
        let alone = tokens(&worker.events(&request));
        let crowd: Vec<&Value> = others.iter().chain([&request, &request]).chain(&others).collect();
        let url = format!("{}/v1/inference", worker.url);
        let bodies = block_on(futures::future::join_all(crowd.iter().map(|body| {
            let request = client().post(&url).json(body);
            async move { request.send().await.unwrap().text().await.unwrap() }
        })));
        for place in [3, 4] {
            assert_eq!(tokens(&events(&bodies[place])), alone, "place {place}");
        }
        let mut cut = request.clone();
        cut["resume"] = json!(alone[..17]);
        assert_eq!(tokens(&worker.events(&cut)), alone[17..]);
    }
}

#[test]
fn a_prompt_that_was_seen_before_gives_the_same_answer() {
    let worker = WorkerProcess::ready(INVARIANT);
    let mut request = greedy();
    let long = "Snow fell on the harbour all night, and nobody came. ".repeat(30);
    request["task"]["prompt"] = json!(long);
    request["sampling"]["max_tokens"] = json!(24);
    let first = worker.events(&request);
    let again = worker.events(&request);
    assert_eq!(tokens(&again), tokens(&first));
    let cached = |events: &[Value]| events[0]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(&first), 0);
    assert!(cached(&again) >= 128 && cached(&again).is_multiple_of(128), "{}", cached(&again));
}

#[test]
fn only_a_worker_in_that_mode_promises_it() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let (status, text) = worker.post(&greedy());
    assert_eq!(status, 400);
    let error: Value = serde_json::from_str(&text).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    let needed = "its hive needs worker.arguments = [\"--batch-invariant\"] in config.toml";
    assert!(message.ends_with(needed), "{message}");
}
