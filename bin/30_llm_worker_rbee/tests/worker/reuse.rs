//! What a worker remembers, on the real model.

use serde_json::{Value, json};

use crate::support::{WorkerProcess, block_on, client, events, text, tokens};

fn ask(prompt: &str, sampling: Value) -> Value {
    json!({"task": {"type": "completion", "prompt": prompt}, "sampling": sampling})
}

fn cached(events: &[Value]) -> u64 {
    events.last().unwrap()["usage"]["cached_tokens"].as_u64().unwrap()
}

#[test]
fn a_prompt_is_computed_once_and_its_answers_end_as_they_should() {
    let worker = WorkerProcess::ready(&["--slots", "2"]);
    let prompt = "Every evening the ferry crossed the bay and came back empty. ".repeat(20);
    let request = ask(&prompt, json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true}));
    let first = worker.events(&request);
    assert_eq!(cached(&first), 0);
    let again = worker.events(&request);
    let prompt_tokens = again.last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(cached(&again), prompt_tokens - 1);
    assert_eq!(again[0]["cached_tokens"], prompt_tokens - 1);
    assert_eq!(tokens(&again).len(), 12);
    let longer = format!("{prompt}And then");
    assert!(cached(&worker.events(&ask(&longer, json!({"max_tokens": 2})))) > prompt_tokens - 5);
}

#[test]
fn prompts_that_leave_the_kv_cache_are_kept_in_memory() {
    let worker = WorkerProcess::ready(&["--slots", "1", "--ctx-size", "768"]);
    let prompt = |word: &str| format!("{word}. {}", "The ferry crossed the bay. ".repeat(70));
    let sampling = json!({"temperature": 0, "max_tokens": 4, "ignore_eos": true});
    let first = worker.events(&ask(&prompt("One"), sampling.clone()));
    worker.events(&ask(&prompt("Another"), sampling.clone()));
    let again = worker.events(&ask(&prompt("One"), sampling));
    assert!(cached(&again) > 300, "{again:?}");
    assert_eq!(tokens(&again).len(), tokens(&first).len());
}

#[test]
fn without_memory_for_them_they_are_computed_again() {
    let args = ["--slots", "1", "--ctx-size", "768", "--prompt-cache-mib", "0"];
    let worker = WorkerProcess::ready(&args);
    let prompt = |word: &str| format!("{word}. {}", "The ferry crossed the bay. ".repeat(70));
    for word in ["One", "Another", "One"] {
        let events = worker.events(&ask(&prompt(word), json!({"max_tokens": 2})));
        assert!(cached(&events) < 20, "{events:?}");
    }
}

#[test]
fn requests_at_once_share_the_beginning_of_their_prompts() {
    let worker = WorkerProcess::ready(&["--slots", "4"]);
    let system = "You are a patient teacher. Answer briefly and kindly. ".repeat(25);
    let url = format!("{}/v1/inference", worker.url);
    let bodies = block_on(futures::future::join_all((0..4).map(|n| {
        let body =
            ask(&format!("{system}Question {n}:"), json!({"max_tokens": 4, "temperature": 0}));
        let request = client().post(&url).json(&body);
        async move { request.send().await.unwrap().text().await.unwrap() }
    })));
    let shared = bodies.iter().filter(|body| cached(&events(body)) > 200).count();
    assert_eq!(shared, 3, "all but the first one");
}

#[test]
fn several_answers_are_told_apart_and_counted_together() {
    let worker = WorkerProcess::ready(&["--slots", "3"]);
    let mut request = ask("My favourite", json!({"seed": 3, "max_tokens": 12, "ignore_eos": true}));
    request["n"] = json!(3);
    let all = worker.events(&request);
    let of = |index: u64| -> Vec<Value> {
        let index_of = |event: &Value| event["index"].as_u64().unwrap_or(0);
        all.iter().filter(|e| e["type"] == "delta" && index_of(e) == index).cloned().collect()
    };
    for index in 0..3 {
        assert_eq!(tokens(&of(index)).len(), 12, "answer {index}");
        let ends = |e: &&Value| e["type"] == "choice_done" && e["index"] == index;
        assert_eq!(all.iter().filter(ends).count(), 1, "answer {index}");
    }
    assert!(text(&of(0)) != text(&of(1)) || text(&of(1)) != text(&of(2)), "all are the same");
    assert_eq!(all.last().unwrap()["usage"]["completion_tokens"], 36);
}

#[test]
fn the_context_s_end_is_the_answer_s_end() {
    let worker = WorkerProcess::ready(&["--slots", "1", "--ctx-size", "256"]);
    let events = worker.events(&ask("Once", json!({"ignore_eos": true})));
    let last = events.last().unwrap();
    assert_eq!(last["finish_reason"], "length");
    let usage = &last["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(count("prompt_tokens") + count("completion_tokens"), 256);
}

#[test]
fn metrics_tell_what_was_done() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    worker.events(&ask("Once upon a time", json!({"max_tokens": 5, "ignore_eos": true})));
    let url = format!("{}/metrics", worker.url);
    worker.wait_until("the request is counted", |_| {
        let text =
            block_on(async { client().get(&url).send().await.unwrap().text().await.unwrap() });
        text.contains("rbee_worker_requests_total{end=\"length\"} 1")
            && text.contains("rbee_worker_generated_tokens_total 5")
            && text.contains("rbee_worker_slots 1")
    });
}

#[test]
fn a_second_model_guesses_and_the_answer_stays() {
    let model = crate::support::demo_model();
    let path = model.to_str().unwrap();
    let plain = WorkerProcess::ready(&["--slots", "1", "--draft", "off"]);
    let guessing = WorkerProcess::ready(&["--slots", "1", "--draft", "off", "--draft-model", path]);
    // So plain that its first token is surely guessed; after that a model of the same size is seen
    // to cost too much.
    let counted = "One two three four five six seven eight nine ten. ".repeat(3);
    let prompt = format!("{counted}One two three four");
    let request = ask(&prompt, json!({"temperature": 0, "max_tokens": 24}));
    let wanted = plain.events(&request);
    let got = guessing.events(&request);
    assert_eq!(tokens(&got), tokens(&wanted));
    assert!(got.last().unwrap()["timings"]["drafted_tokens"].as_u64().unwrap() > 0, "{got:?}");
}
