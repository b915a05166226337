//! Vectors and scores by a real embedding model, and by one with a classification head.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use test_cluster::Cluster;

use crate::support::{WorkerProcess, client, events};
use crate::tiny_bert;

#[test]
fn vectors_are_those_of_the_original_weights() {
    let reference = std::fs::read(test_cluster::embedding_reference().unwrap()).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let texts = reference["texts"].as_array().unwrap();
    assert!(texts.len() >= 8);
    let worker = ready(&[]);
    let inputs: Vec<&Value> = texts.iter().map(|text| &text["text"]).collect();
    let events = worker.events(&embed(json!(inputs)));
    let vectors = vectors(&events);
    assert_eq!(vectors.len(), texts.len());
    for (text, vector) in texts.iter().zip(&vectors) {
        let original = numbers(&text["vector"]);
        assert_eq!(vector.len(), 384);
        assert!((dot(vector, vector) - 1.0).abs() < 1e-5, "its length is one");
        let cosine = dot(vector, &original);
        assert!(cosine > 0.9995, "{cosine} for {}", text["text"]);
    }
    let tokens: u64 = texts.iter().map(|text| text["tokens"].as_u64().unwrap()).sum();
    let done = events.last().unwrap();
    assert_eq!(done["usage"]["prompt_tokens"], tokens, "the original tokenizer counts the same");
    assert_eq!(done["usage"]["completion_tokens"], 0);
    assert_eq!(events[0]["prompt_tokens"], tokens);
}

#[test]
fn a_text_has_the_same_vector_alone_and_among_many() {
    let worker = ready(&[]);
    assert_same_alone(&worker, 150, 0.9999);
}

/// Embeds so many texts at once, and some of them alone: the cosines are at least `closest`.
fn assert_same_alone(worker: &WorkerProcess, count: usize, closest: f64) {
    let texts: Vec<String> =
        (0..count).map(|n| format!("{} number {n}", "a word and more ".repeat(n % 17))).collect();
    let together = vectors(&worker.events(&embed(json!(texts))));
    assert_eq!(together.len(), texts.len());
    for n in (0..texts.len()).step_by(13) {
        let alone = vectors(&worker.events(&embed(json!([texts[n]]))));
        let cosine = dot(&alone[0], &together[n]);
        assert!(cosine > closest, "{cosine} for text {n}");
    }
    assert!(dot(&together[0], &together[14]) < closest, "different texts differ");
}

#[test]
fn a_batch_invariant_worker_gives_a_text_the_same_digits_in_any_company() {
    let worker = ready(&["--batch-invariant"]);
    let mut ask = embed(json!(["a red fox", "a blue house by the sea", "a red fox"]));
    ask["deterministic"] = json!(true);
    let together = vectors(&worker.events(&ask));
    ask["task"]["inputs"] = json!(["a red fox"]);
    let alone = vectors(&worker.events(&ask));
    assert!(together[0] == alone[0] && together[2] == alone[0]);
}

#[test]
fn as_many_texts_as_allowed_are_all_answered_in_order() {
    let worker = ready(&[]);
    let texts: Vec<String> = (0..2048).map(|n| format!("{n}")).collect();
    let events = worker.events(&embed(json!(texts)));
    let indices = events.iter().filter(|event| event["type"] == "embedding");
    let indices: Vec<u64> = indices.map(|event| event["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..2048).collect::<Vec<u64>>());
    assert_eq!(events.last().unwrap()["type"], "done");
}

#[test]
fn token_ids_are_used_as_they_are() {
    let worker = ready(&[]);
    // [CLS] hello [SEP] in BERT's vocabulary.
    let events = worker.events(&embed(json!(["hello", [101, 7592, 102], [7592]])));
    let vectors = vectors(&events);
    assert!(dot(&vectors[0], &vectors[1]) > 0.9999);
    assert!(dot(&vectors[0], &vectors[2]) < 0.9999);
}

#[test]
fn what_cannot_be_a_vector_is_refused_with_what_is_wrong() {
    let worker = ready(&[]);
    let long = "word ".repeat(600);
    let chat = json!({"task": {"type": "chat", "messages": [{"role": "user", "content": "x"}]}});
    let completion = json!({"task": {"type": "completion", "prompt": "x"}});
    let infill = json!({"task": {"type": "infill", "prefix": "x", "suffix": "y"}});
    let mut deterministic = embed(json!(["x"]));
    deterministic["deterministic"] = json!(true);
    let mut resumed = embed(json!(["x"]));
    resumed["resume"] = json!([1]);
    let rows = [
        (embed(json!([])), "empty", "inputs"),
        (embed(json!(["x", ""])), "empty", "inputs[1]"),
        (embed(json!([[]])), "empty", "inputs[0]"),
        (embed(json!(["x", &long])), "context_length_exceeded", "inputs[1]"),
        (embed(json!(vec!["x"; 2049])), "too_many_texts", "inputs"),
        (embed(json!([[30_522]])), "invalid_token", "inputs[0]"),
        (embed(json!([[-1]])), "invalid_token", "inputs[0]"),
        (rerank("", &["x"]), "empty", "query"),
        (rerank("x", &[]), "empty", "documents"),
        (rerank("x", &["y", ""]), "empty", "documents[1]"),
        (rerank("x", &[&long]), "context_length_exceeded", "documents[0]"),
        (resumed, "invalid_value", "resume"),
        (deterministic, "not_deterministic", "deterministic"),
        (chat, "unsupported_task", "task"),
        (completion, "unsupported_task", "task"),
        (infill, "unsupported_task", "task"),
    ];
    for (body, code, param) in rows {
        let error = refused(&worker, &body);
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &json!(param)), "{error}");
    }
    let too_long = refused(&worker, &embed(json!([long])))["message"].to_string();
    assert!(too_long.contains("602 tokens") && too_long.contains("at most 512"), "{too_long}");
    assert_eq!(vectors(&worker.events(&embed(json!(["x"])))).len(), 1);
}

#[test]
fn a_chat_model_refuses_to_make_vectors_and_says_what_to_do() {
    let worker = WorkerProcess::ready(&[]);
    assert_eq!(worker.health()["kind"], "generative");
    for body in [embed(json!(["x"])), rerank("x", &["y"])] {
        let error = refused(&worker, &body);
        assert_eq!((&error["code"], &error["param"]), (&json!("unsupported_task"), &json!("task")));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("makes text, not vectors"), "{message}");
        let setting = "worker.arguments = [\"--pooling\", \"mean\"] in config.toml";
        assert!(message.contains(setting), "{message}");
    }
}

#[test]
fn documents_are_ranked_by_the_cosine_of_their_vectors() {
    let worker = ready(&[]);
    let query = "A man is playing guitar.";
    let documents = ["The stock market fell sharply today.", "Someone plays a musical instrument."];
    let events = worker.events(&rerank(query, &documents));
    let scores = scores(&events);
    let embedded = vectors(&worker.events(&embed(json!([query, documents[0], documents[1]]))));
    for (n, score) in scores.iter().enumerate() {
        assert!((score - dot(&embedded[0], &embedded[n + 1])).abs() < 1e-3, "{scores:?}");
    }
    assert_eq!(scores.len(), 2);
    assert!(scores[1] > scores[0] + 0.3, "{scores:?}");
    let metrics = worker.metrics();
    assert!(metrics.contains("rbee_worker_requests_total{end=\"stop\"} 2\n"), "{metrics}");
    assert!(!metrics.contains("rbee_worker_prompt_tokens_total 0\n"), "{metrics}");
}

#[test]
fn a_closed_connection_frees_the_worker_before_the_texts_are_computed() {
    let worker = ready(&["--slots", "1"]);
    // Half a million tokens: minutes on one thread.
    let texts = vec!["a word and more ".repeat(60); 2048];
    let body = embed(json!(texts)).to_string();
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
    worker.wait_until("the request runs", |health| health["slots"]["busy"] == 1);
    assert_eq!(vectors(&worker.events(&embed(json!(["beside it"])))).len(), 1);
    drop(connection);
    worker.wait_until("nothing runs", |health| health["slots"]["busy"] == 0);
}

#[test]
fn sigterm_lets_running_texts_end_and_exits_with_zero() {
    let mut worker = ready(&["--slots", "1"]);
    let address = worker.url.strip_prefix("http://").unwrap().to_owned();
    let body = embed(json!(vec!["a word and more ".repeat(10); 200])).to_string();
    let mut connection = TcpStream::connect(&address).unwrap();
    write!(
        connection,
        "POST /v1/inference HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    worker.wait_until("the request runs", |health| health["slots"]["busy"] == 1);
    worker.signal("-TERM");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("\"type\":\"embedding\"").count(), 200);
    assert!(answer.contains("\"type\":\"done\""));
    assert_eq!(worker.wait_for_end(), Some(0));
}

#[test]
fn each_pooling_gives_other_vectors_of_length_one() {
    let ask = embed(json!(["A man is playing guitar."]));
    let all: Vec<Vec<f64>> = ["mean", "cls", "last"]
        .iter()
        .map(|pooling| vectors(&ready(&["--pooling", pooling]).events(&ask)).remove(0))
        .collect();
    for (n, one) in all.iter().enumerate() {
        assert!((dot(one, one) - 1.0).abs() < 1e-5);
        for other in &all[n + 1..] {
            let cosine = dot(one, other);
            assert!(cosine < 0.999, "{cosine}");
        }
    }
    let by_the_file = vectors(&ready(&[]).events(&ask)).remove(0);
    assert!(dot(&by_the_file, &all[0]) > 0.9999, "the file says mean");
}

#[test]
fn a_chat_model_with_a_pooling_makes_vectors() {
    let worker = WorkerProcess::ready(&["--pooling", "last"]);
    assert_eq!(worker.health()["kind"], "embedding");
    // Its weights are quantized: more depends on the shape of a batch.
    assert_same_alone(&worker, 30, 0.999);
}

#[test]
fn a_model_without_a_classification_head_cannot_rank_and_says_so() {
    let mut worker = WorkerProcess::start(&model(), &["--pooling", "rank"]);
    worker.wait_for_state("failed");
    let reason = worker.health()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("classification head"), "{reason}");
    assert_eq!(worker.wait_for_end(), Some(1));
}

#[test]
fn a_reranking_model_scores_by_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    tiny_bert::write(&file);
    let worker = WorkerProcess::ready_with(&file, &[]);
    let health = worker.health();
    assert_eq!((&health["kind"], &health["context_length"]), (&json!("reranking"), &json!(32)));
    let documents = ["red fox", "blue house", "red", "green green green fox", "red fox"];
    let scores = scores(&worker.events(&rerank("red house", &documents)));
    assert_eq!(scores.len(), documents.len());
    for (document, score) in documents.iter().zip(&scores) {
        let expected = f64::from(tiny_bert::score("red house", document));
        assert!((score - expected).abs() < 0.01, "{document}: {score} instead of {expected}");
    }
    let spread = scores.iter().copied().fold(f64::MIN, f64::max)
        - scores.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 0.1, "the scores differ: {scores:?}");
    let error = refused(&worker, &embed(json!(["red"])));
    assert_eq!(error["code"], "unsupported_task");
    let long = "red ".repeat(30);
    let error = refused(&worker, &rerank("red house", &["red", long.trim_end()]));
    assert_eq!(error["param"], "documents[1] with the query", "{error}");
}

#[test]
fn what_a_model_can_do_is_told_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = folder.path().join("tiny.gguf");
    tiny_bert::write(&tiny);
    let rows = [
        (test_cluster::demo_model().unwrap(), "generative"),
        (model(), "embedding"),
        (tiny, "reranking"),
    ];
    for (file, kind) in rows {
        let mut inspect = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"));
        let run = inspect.arg("inspect").arg(&file).arg("--json").output().unwrap();
        let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(summary["kind"], kind, "{summary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedding_model_is_imported_and_its_worker_spawned_by_the_keeper() {
    let cluster = Cluster::builder().integrated().start().await.unwrap();
    let file = model();
    let import = ["model", "import", file.to_str().unwrap(), "--alias", "minilm"];
    cluster.keeper(import).await.unwrap().expect_success().unwrap();
    let spawn = ["worker", "spawn", "--model", "minilm"];
    cluster.keeper(spawn).await.unwrap().expect_success().unwrap();
    let listed = cluster
        .wait_for_worker("the embedding worker to be ready", |worker| worker["state"] == "ready")
        .await
        .unwrap();
    assert_eq!(listed["model"]["kind"], "embedding", "{listed}");
    assert_eq!(listed["model"]["context_length"], 512, "{listed}");

    let secret = cluster.home().path().join("data/secrets/hives/localhost.token");
    let secret = std::fs::read_to_string(secret).unwrap();
    let url = format!("{}/v1/inference", listed["address"].as_str().unwrap());
    let body = embed(json!(["hello"]));
    let answer = client().post(url).bearer_auth(secret.trim()).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(vectors(&events(&answer.text().await.unwrap()))[0].len(), 384);
}

fn model() -> PathBuf {
    test_cluster::embedding_model().expect("scripts/fetch-embedding-model.sh brings the model")
}

/// A worker of the embedding model.
fn ready(args: &[&str]) -> WorkerProcess {
    WorkerProcess::ready_with(&model(), args)
}

fn embed(inputs: Value) -> Value {
    json!({"task": {"type": "embed", "inputs": inputs}})
}

fn rerank(query: &str, documents: &[&str]) -> Value {
    json!({"task": {"type": "rerank", "query": query, "documents": documents}})
}

/// The error of a request that must be refused.
fn refused(worker: &WorkerProcess, body: &Value) -> Value {
    let (status, text) = worker.post(body);
    assert_eq!(status, 400, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["error"].take()
}

fn vectors(events: &[Value]) -> Vec<Vec<f64>> {
    let all = events.iter().filter(|event| event["type"] == "embedding");
    all.map(|event| numbers(&event["vector"])).collect()
}

/// The scores, in the documents' order.
fn scores(events: &[Value]) -> Vec<f64> {
    let all = events.iter().filter(|event| event["type"] == "score");
    all.map(|event| event["score"].as_f64().unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(x, y)| x * y).sum()
}
