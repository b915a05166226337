//! Answers that go well.

use serde_json::json;
use worker_contract::{Prompt, Task};

use crate::support::{Queen, Reply, Script, WorkerDouble, chat, completion};

#[tokio::test]
async fn a_whole_answer_has_the_text_the_usage_and_the_names_of_worker_and_request() {
    let (queen, worker) = queen_with_worker([]).await;
    let request = queen.post("/v1/chat/completions").header("x-request-id", "my-id-1");
    let reply = Reply::read(request.json(&chat())).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = reply.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello world");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["model"], "m");
    let usage = json!({
        "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
    });
    assert_eq!(answer["usage"], usage);
    assert_eq!(reply.header("x-request-id"), "my-id-1");
    assert_eq!(reply.header("x-rbee-worker"), "w-1");
    assert_eq!(worker.requests()[0].request_id.as_str(), "my-id-1");
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_the_reason_and_done() {
    let (queen, _worker) = queen_with_worker([]).await;
    let stream = queen.stream("/v1/chat/completions", &chat()).await.begun().await;
    assert_eq!(stream.header("x-rbee-worker"), "w-1");
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let transcript = stream.rest().await;
    let deltas: Vec<_> =
        transcript.chunks.iter().map(|c| c["choices"][0]["delta"].clone()).collect();
    assert_eq!(
        deltas,
        [
            json!({"role": "assistant", "content": ""}),
            json!({"content": "Hello"}),
            json!({"content": " world"}),
            json!({}),
        ]
    );
    assert_eq!(transcript.chunks[3]["choices"][0]["finish_reason"], "stop");
    assert!(transcript.is_done && transcript.error.is_none());
    let ids: std::collections::HashSet<_> =
        transcript.chunks.iter().map(|chunk| chunk["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn the_usage_comes_in_a_chunk_of_its_own_if_it_was_asked_for() {
    let (queen, _worker) = queen_with_worker([]).await;
    let mut body = completion();
    body["stream_options"] = json!({"include_usage": true});
    let asked = queen.stream("/v1/completions", &body).await.rest().await;
    let (last, others) = asked.chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(9)));
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&json!(null))));
    assert_eq!(asked.text(), "Hello world");

    let not_asked = queen.stream("/v1/completions", &completion()).await.rest().await;
    assert!(not_asked.chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn the_worker_gets_what_was_asked_and_the_time_that_is_left() {
    let (queen, worker) = queen_with_worker([]).await;
    let body = json!({"model": "m", "prompt": [[5, 6, 7]], "max_tokens": 9, "seed": 4});
    let request = queen.post("/v1/completions").header("x-rbee-deadline-ms", "5000").json(&body);
    let reply = Reply::read(request).await;
    assert_eq!(reply.json()["choices"][0]["text"], "Hello world");
    let got = worker.requests().remove(0);
    assert_eq!(got.task, Task::Completion { prompt: Prompt::Tokens(vec![5, 6, 7]) });
    assert_eq!((got.sampling.max_tokens, got.sampling.seed), (Some(9), Some(4)));
    assert_eq!(got.model.unwrap().as_str(), "m");
    let left = got.deadline_ms.unwrap();
    assert!((1..=5000).contains(&left), "{left}");
}

#[tokio::test]
async fn requests_are_shared_between_the_workers_of_a_model() {
    let hang = || [Script::Hangs(&["a"]), Script::Hangs(&["a"])];
    let first = WorkerDouble::start("w-1", hang());
    let second = WorkerDouble::start("w-2", hang());
    let queen = Queen::start().await;
    queen.worker_beat(&first.beat()).await;
    queen.worker_beat(&second.beat()).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = queen.stream("/v1/chat/completions", &chat()).await.begun().await;
        stream.until_text().await;
        streams.push(stream);
    }
    assert_eq!((queen.in_flight("w-1").await, queen.in_flight("w-2").await), (2, 2));
}

#[tokio::test]
async fn models_are_those_of_catalogs_and_of_workers() {
    let (queen, worker) = queen_with_worker([]).await;
    let mut other = worker.beat();
    other.worker_id = "w-2".parse().unwrap();
    other.model.name = "other".parse().unwrap();
    queen.worker_beat(&other).await;
    let list = Reply::read(queen.get("/v1/models")).await.json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["m", "other"]);
    let one = Reply::read(queen.get("/v1/models/other")).await.json();
    assert_eq!((&one["object"], &one["owned_by"]), (&json!("model"), &json!("rbee")));
    Reply::read(queen.get("/v1/models/%FF")).await.error(404, "model_not_found");
    let none = Reply::read(queen.get("/v1/models/othr")).await.error(404, "model_not_found");
    assert!(none["message"].as_str().unwrap().contains("Did you mean 'other'?"), "{none}");
}

#[tokio::test]
async fn a_queen_that_is_asked_to_end_lets_a_running_answer_end_first() {
    let (mut queen, _worker) = queen_with_worker([Script::Says(&["a", "b", "c"])]).await;
    let mut stream = queen.stream("/v1/chat/completions", &chat()).await.begun().await;
    stream.until_text().await;
    Reply::read(queen.post("/v1/shutdown?workers=maybe")).await.error(400, "invalid_value");
    let answer = Reply::read(queen.post("/v1/shutdown?workers=keep")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let transcript = stream.rest().await;
    assert!(transcript.is_done);
    queen.ended().await;
}

async fn queen_with_worker(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}
