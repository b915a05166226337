//! What kind of server an attached one is, and what it says of itself.

use job_client::JobEnd;
use rbee_operations::{HiveTarget, ListAll, Listed, Operation};
use serde_json::{Value, json};

use crate::attached::{queen_with, run};
use crate::support::{ServerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn an_ollama_is_known_as_one_whoever_its_models_are_of() {
    for models in [&["kim/tale:v1", "m:latest"][..], &["kim/tale:v1"]] {
        let server = ServerDouble::start("library", models, []);
        let queen = queen_with(&server).await;
        let status = queen.status().await;
        let workers = status["workers"].as_array().unwrap();
        assert_eq!(workers.len(), models.len(), "{status}");
        assert!(workers.iter().all(|it| it["server"]["engine"] == "ollama"), "{status}");
    }
}

#[tokio::test]
async fn a_server_without_a_model_is_in_the_lists_of_workers_with_the_reason() {
    let server = ServerDouble::start("library", &[], []);
    let queen = queen_with(&server).await;
    let is_told = |servers: &Value| {
        let told = ["server", "url", "state", "reason"].map(|field| servers[0][field].clone());
        let expected = ["nas", server.url.as_str(), "ready", "it lists no models"];
        assert_eq!(told, expected.map(Value::from), "{servers}");
    };
    is_told(&queen.status().await["attached_servers"]);
    let of = |hive: &str| Operation::WorkerList(HiveTarget { hive_id: hive.parse().unwrap() });
    let all = Operation::ListAll(ListAll { of: Listed::Workers });
    for operation in [of("nas"), of("localhost"), all] {
        let end = run(&queen, operation.clone()).await;
        let JobEnd::Succeeded(event) = end else { panic!("{operation:?}: {end:?}") };
        is_told(&event.data.unwrap()["attached_servers"]);
    }
    server.serve(&["m"]);
    until("its model tells of it", async || queen.status().await.get("attached_servers").is_none())
        .await;
}

#[tokio::test]
async fn an_ollama_that_had_no_model_is_known_as_one_when_it_has() {
    let server = ServerDouble::start("library", &[], []);
    let queen = queen_with(&server).await;
    server.serve(&["kim/tale:v1"]);
    let workers = async || queen.status().await["workers"].clone();
    until("its model is a worker", async || workers().await != json!([])).await;
    assert_eq!(workers().await[0]["server"]["engine"], "ollama");
}

#[tokio::test]
async fn a_llama_server_that_was_started_again_between_two_looks_has_the_slots_that_it_has_then() {
    let server = ServerDouble::start("llamacpp", &["m"], []);
    server.say_of_itself(json!({"total_slots": 3}));
    let queen = queen_with(&server).await;
    let slots = async || -> Value { queen.status().await["workers"][0]["slots"]["total"].clone() };
    assert_eq!(slots().await, 3);
    server.say_of_itself(json!({"total_slots": 2}));
    until("it is asked again", async || slots().await == 2).await;
}

#[tokio::test]
async fn a_llama_server_with_several_models_has_the_slots_that_a_loaded_one_tells() {
    let server = ServerDouble::start("llamacpp", &["a b&c", "m"], []);
    server.load_late();
    server.say_of_itself(json!({"total_slots": 1}));
    let queen = queen_with(&server).await;
    let slots = async || -> Vec<Value> {
        let status = queen.status().await;
        let workers = status["workers"].as_array().unwrap().iter();
        workers.map(|worker| worker["slots"]["total"].clone()).collect()
    };
    assert_eq!(slots().await, [4, 4], "nothing is loaded to learn it");
    let mut body = chat();
    body["model"] = "a b&c".into();
    assert_eq!(queen.ask(CHAT, &body).await.status, 200);
    until("the loaded one has told", async || slots().await == [1, 1]).await;
}
