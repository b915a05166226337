//! Embeddings and reranking.

use serde_json::{Value, json};
use worker_contract::{ModelKind, Prompt, Task};

use crate::attached::queen_with as queen_with_server;
use crate::support::{
    HiveDouble, Plays, Queen, Reply, Script, ServerDouble, WorkerDouble, chat, completion, done,
};

const EMBED: &str = "/v1/embeddings";
const RERANK: &str = "/v1/rerank";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn vectors_come_in_the_order_of_their_texts_whatever_the_workers() {
    let script =
        || Script::Plays(vec![vector(1, &[0.0, 1.0]), vector(0, &[0.25, -1.0]), done(0, "stop")]);
    let (queen, worker) = queen_with([script(), script(), script(), script()]).await;
    let mut body = json!({"model": "m", "input": ["a", [5, 6]]});
    let reply = queen.ask(EMBED, &body).await;
    assert_eq!(reply.header("x-rbee-worker"), "w-1");
    let item = |index: u32, vector: Value| json!({"object": "embedding", "index": index, "embedding": vector});
    let expected = json!({
        "object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "data": [item(0, json!([0.25, -1.0])), item(1, json!([0.0, 1.0]))],
    });
    assert_eq!(reply.json(), expected);
    let inputs = vec![Prompt::Text("a".into()), Prompt::Tokens(vec![5, 6])];
    assert_eq!(worker.requests()[0].task, Task::Embed { inputs });

    body["encoding_format"] = json!("base64");
    let packed = queen.ask(EMBED, &body).await.json();
    assert_eq!(packed["data"][0]["embedding"], "AACAPgAAgL8=");

    body["dimensions"] = json!(2);
    assert_eq!(queen.ask(EMBED, &body).await.status, 200);
    body["dimensions"] = json!(3);
    let error = queen.ask(EMBED, &body).await.error(400, "invalid_value");
    assert_eq!(error["param"], "dimensions");
}

#[tokio::test]
async fn documents_are_ranked_by_their_scores() {
    let script =
        || Script::Plays(vec![score(0, -2.5), score(1, 0.75), score(2, 0.5), done(0, "stop")]);
    let (queen, worker) = queen_with([script(), script()]).await;
    let mut body = json!({"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c"]});
    let ranked = |index: u32, score: f64| json!({"index": index, "relevance_score": score});
    let expected = json!({
        "object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "results": [ranked(1, 0.75), ranked(2, 0.5), ranked(0, -2.5)],
    });
    assert_eq!(queen.ask(RERANK, &body).await.json(), expected);
    let documents = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!(worker.requests()[0].task, Task::Rerank { query: "q".into(), documents });

    body["top_n"] = json!(1);
    body["return_documents"] = json!(true);
    let best = json!([{"index": 1, "relevance_score": 0.75, "document": {"text": "b"}}]);
    assert_eq!(queen.ask(RERANK, &body).await.json()["results"], best);
}

#[tokio::test]
async fn the_best_documents_of_a_server_are_chosen_here() {
    let scores = json!({"results": [
        {"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.75},
    ]});
    let plays = Plays::Answers(200, "application/json", scores.to_string());
    let server = ServerDouble::start("llamacpp", &["m"], [plays]);
    let queen = queen_with_server(&server).await;
    let body = json!({
        "model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1, "return_documents": true,
    });
    let reply = queen.ask(RERANK, &body).await;
    let best = json!([{"index": 1, "relevance_score": 0.75, "document": {"text": "b"}}]);
    assert_eq!(reply.json()["results"], best, "{reply:?}");
    let asked = json!({"model": "m", "query": "q", "documents": ["a", "b"]});
    assert_eq!(server.requests(), [asked]);
}

#[tokio::test]
async fn what_a_models_file_cannot_do_is_refused_before_a_worker_is_started() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let mut beat = hive.beat();
    beat.catalog[0].gguf.kind = Some(ModelKind::Embedding);
    queen.hive_beat(&beat).await;
    for (path, body) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let error = queen.ask(path, &body).await.error(400, "unsupported_task");
        assert_eq!(error["param"], "model");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("m makes vectors, not text"), "{message}");
    }
    beat.catalog[0].gguf.kind = Some(ModelKind::Generative);
    queen.hive_beat(&beat).await;
    let embed = json!({"model": "m", "input": "a"});
    let error = queen.ask(EMBED, &embed).await.error(400, "unsupported_task");
    assert!(error["message"].as_str().unwrap().starts_with("m makes text"), "{error}");
    assert_eq!(hive.spawns(), 0);
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let of = |it: &Value| (it["kind"].clone(), it["reason"].clone());
    let recorded: Vec<_> = decisions.as_array().unwrap().iter().map(of).collect();
    assert_eq!(recorded, vec![(json!("reject"), json!("unable")); 3], "{decisions}");

    // A worker may have been told to do what the file does not say.
    let plays = Script::Plays(vec![vector(0, &[1.0]), done(0, "stop")]);
    let worker = WorkerDouble::start("w-1", [plays]);
    let mut said = worker.beat();
    said.model.kind = ModelKind::Embedding;
    queen.worker_beat(&said).await;
    assert_eq!(queen.ask(EMBED, &embed).await.status, 200);
}

#[tokio::test]
async fn a_model_that_may_be_able_is_given_a_worker() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let other = HiveDouble::start_as("other".parse().unwrap(), false);
    let mut beat = hive.beat();
    beat.catalog[0].gguf.kind = Some(ModelKind::Embedding);
    queen.hive_beat(&beat).await;
    queen.hive_beat(&other.beat()).await;
    hive.let_start();
    other.let_start();
    // The other one's file may be another.
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    assert_eq!(hive.spawns() + other.spawns(), 1);
}

#[tokio::test]
async fn a_model_that_makes_no_vectors_says_so_and_is_not_asked_again() {
    let refuses = || Script::Refuses(400, "unsupported_task");
    let (queen, worker) = queen_with([refuses(), refuses()]).await;
    let error = queen.ask(EMBED, &json!({"model": "m", "input": "a"})).await;
    assert_eq!(error.error(400, "unsupported_task")["param"], "input");
    let body = json!({"model": "m", "query": "q", "documents": ["a"]});
    let error = queen.ask(RERANK, &body).await;
    assert_eq!(error.error(400, "unsupported_task")["param"], "documents");
    assert_eq!(worker.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_without_all_its_vectors_is_a_failure_of_the_worker() {
    let half = || Script::Plays(vec![vector(0, &[1.0]), done(0, "stop")]);
    let (queen, _worker) = queen_with([half()]).await;
    let body = json!({"model": "m", "input": ["a", "b"]});
    queen.ask(EMBED, &body).await.error(502, "worker_failed");
    let decisions = Reply::read(queen.get("/v1/decisions")).await.text;
    assert!(decisions.contains("goes on after 1 vectors"), "{decisions}");
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_before_a_worker_is_asked() {
    let (queen, worker) = queen_with([]).await;
    queen.ask(EMBED, &json!({"model": "m", "input": []})).await.error(400, "empty_array");
    queen.ask(EMBED, &json!({"model": "n", "input": "a"})).await.error(404, "model_not_found");
    let many = json!({"model": "m", "query": "q", "documents": vec!["a"; 3000]});
    queen.ask(RERANK, &many).await.error(400, "array_above_max_length");
    assert_eq!(worker.requests().len(), 0);
}

fn vector(index: u32, vector: &[f32]) -> Value {
    json!({"type": "embedding", "index": index, "vector": vector})
}

fn score(index: u32, score: f32) -> Value {
    json!({"type": "score", "index": index, "score": score})
}

async fn queen_with(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}
