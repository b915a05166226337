//! Servers of others that are behind a path, and servers whose list of models never comes.

use rbee_operations::{Operation, WorkerAttach};
use serde_json::{Value, json};

use crate::attached::{attach, fails, models, queen, queen_with, succeeds};
use crate::support::{Home, Plays, Queen, ServerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn whatever_is_asked_of_a_server_behind_a_path_goes_there() {
    let scores = json!({"results": [
        {"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.75},
    ]});
    let vectors = json!({"data": [{"index": 0, "embedding": [0.6, 0.8]}]});
    let says = |value: &Value| Plays::Answers(200, "application/json", value.to_string());
    for path in ["/llm", "/gate/of/openai"] {
        let plays = [says(&scores), says(&vectors)];
        let server = ServerDouble::start_behind(path, "llamacpp", &["m"], plays);
        server.say_of_itself(json!({"total_slots": 3}));
        let queen = queen_with(&server).await;
        let worker = &queen.status().await["workers"][0];
        assert_eq!(worker["slots"]["total"], 3, "{path}: what it says of itself is there, too");

        let body = json!({"model": "m", "query": "q", "documents": ["a", "b"]});
        let reply = queen.ask("/v1/rerank", &body).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let best = &reply.json()["results"][0];
        assert_eq!((&best["index"], &best["relevance_score"]), (&json!(1), &json!(0.75)));
        let reply = queen.ask("/v1/embeddings", &json!({"model": "m", "input": "x"})).await;
        assert_eq!(reply.json()["data"][0]["embedding"], json!([0.6, 0.8]), "{path}: {reply:?}");
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
        assert_eq!(server.paths(), ["rerank", "embeddings", "chat/completions"]);
    }
}

#[tokio::test]
async fn the_models_of_a_server_that_is_gone_when_the_queen_is_started_are_not_forgotten() {
    let server = ServerDouble::start("library", &["m"], []);
    let home = Home::new();
    let often = |config: &mut rbee_config::Config| config.worker.heartbeat_interval_ms = 50;
    let queen = Queen::at(&home, often).await;
    succeeds(&queen, attach(&server.url)).await;
    server.serve(&["m", "org/late"]);
    let file = home.path().join("data/servers.json");
    let kept = || std::fs::read_to_string(&file).unwrap();
    until("its models are written down", async || kept().contains("org/late")).await;
    queen.stop().await;
    drop(server);

    let queen = Queen::at(&home, often).await;
    let error = queen.ask(CHAT, &chat()).await.error(503, "no_worker");
    let message = error["message"].as_str().unwrap();
    let begin = "the server nas, which has the model m, cannot be used: it cannot be reached";
    assert!(message.starts_with(begin), "{error}");
    let status = queen.status().await;
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{status}");
    for worker in workers {
        assert_eq!(
            (&worker["state"], &worker["server"]["engine"]),
            (&json!("failed"), &json!("ollama"))
        );
        assert!(worker["reason"].as_str().unwrap().contains("cannot be reached"), "{worker}");
    }
}

#[tokio::test]
async fn a_server_whose_list_never_comes_holds_up_nobody_else() {
    let hung = ServerDouble::start("vllm", &["m"], []);
    let other = ServerDouble::start("vllm", &["n"], []);
    let queen = queen().await;
    let named = |name: &str, server: &ServerDouble| WorkerAttach {
        name: Some(name.parse().unwrap()),
        ..attach(&server.url)
    };
    // Its name is the first in any order.
    succeeds(&queen, named("a-hung", &hung)).await;
    hung.never_list();
    until("somebody looks at it in vain", async || hung.looks_in_vain() == (1, 1)).await;
    succeeds(&queen, named("nas", &other)).await;
    other.serve(&["n", "later"]);
    until("what the other one has is known", async || {
        models(&queen).await.contains(&"later".to_owned())
    })
    .await;
    for model in ["later", "n", "m"] {
        let mut body = chat();
        body["model"] = model.into();
        assert_eq!(queen.ask(CHAT, &body).await.status, 200, "{model}");
    }
    // A look ends after a while, and another one begins.
    let (_, looking) = hung.looks_in_vain();
    assert!(looking <= 1, "it is looked at {looking} times at once");

    let third = ServerDouble::start("vllm", &["o"], []);
    third.never_list();
    let refused = Operation::WorkerAttach(named("third", &third));
    let why = fails(&queen, refused, "server_unusable").await;
    assert!(why.contains(&third.url) && why.contains("does not answer in time"), "{why}");
}
