//! What is no server that can be attached, and why.

use rbee_operations::{Operation, WorkerAttach};

use crate::attached::{attach, fails, queen, succeeds};
use crate::support::{HiveDouble, ServerDouble, WorkerDouble};

#[tokio::test]
async fn what_cannot_be_attached_is_refused_with_its_reason() {
    let queen = queen().await;
    let server = ServerDouble::start("library", &["m"], []);
    for (listing, mentions) in [
        ((200, "<html>It works!</html>"), "no list of models"),
        ((500, r#"{"error":"unexpected token '<'"}"#), "what its GET /v1/models answers"),
        ((301, "https://llm.example/openai/v1/models"), "--url https://llm.example/openai"),
        ((307, "/openai/v1/models"), "--url http://127.0.0.1:"),
        ((307, "/v1/models"), "it redirects to itself"),
        ((307, "/login"), "/login, which is no list of models: a login page?"),
        ((302, "/login?next=/v1/models"), "/login?next=/v1/models, which is no list"),
        ((302, "https://llm.example/login"), "https://llm.example/login, which is no list"),
        ((400, "no TLS"), "if it speaks TLS: https://127.0.0.1:"),
        ((404, ""), "HTTP 404"),
        ((404, ""), "the base URL is what stands before /v1/models"),
        ((200, "{"), "no list of models"),
    ] {
        server.list_as(Some(listing));
        let operation = Operation::WorkerAttach(attach(&server.url));
        let why = fails(&queen, operation, "server_unusable").await;
        assert!(why.contains(mentions) && !why.contains("--secret-file"), "{why}");
        assert!(!why.contains("start it"), "it answers: {why}");
        assert_eq!(why.contains("--url"), mentions.starts_with("--url"), "{why}");
    }
    server.list_as(None);
    for (url, code, mentions) in [
        ("http://127.0.0.1:1", "server_unusable", "refused"),
        ("http://127.0.0.1:1", "server_unusable", "start it"),
        ("https://127.0.0.1:1", "server_unusable", "refused"),
        ("nas:11434", "invalid_value", "http://HOST:PORT"),
        ("http://u:p@nas:1", "invalid_value", "--secret-file"),
    ] {
        let why = fails(&queen, Operation::WorkerAttach(attach(url)), code).await;
        assert!(why.contains(mentions), "{url}: {why}");
    }
    succeeds(&queen, attach(&server.url)).await;
    let other = ServerDouble::start("library", &["m"], []);
    let why = fails(&queen, Operation::WorkerAttach(attach(&other.url)), "name_taken").await;
    assert!(why.contains("worker detach nas"), "{why}");
    let twice = WorkerAttach { name: Some("other".parse().unwrap()), ..attach(&server.url) };
    let why = fails(&queen, Operation::WorkerAttach(twice), "server_attached").await;
    assert!(why.contains("attached already, as nas"), "{why}");
    let worker = WorkerDouble::start("w-1", []);
    queen.worker_beat(&worker.beat()).await;
    let hive = HiveDouble::start(false);
    queen.hive_beat(&hive.beat()).await;
    let named = WorkerAttach { name: Some("localhost".parse().unwrap()), ..attach(&other.url) };
    fails(&queen, Operation::WorkerAttach(named), "name_taken").await;
}
