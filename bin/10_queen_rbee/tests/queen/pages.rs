//! Web pages as clients: what their browsers are told.

use access_tokens::TokenStore;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::{Queen, Reply, Script, Stream, WorkerDouble, chat};

const CHAT: &str = "/v1/chat/completions";
const HERE: &str = "http://localhost:3000";
const ELSEWHERE: &str = "https://chat.example";

#[tokio::test]
async fn a_page_of_this_machine_reads_streams_answers_events_and_errors() {
    let says = || Script::Says(&["a"]);
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", [says(), says()]);
    queen.worker_beat(&worker.beat()).await;

    let streamed = streaming(&queen).header("origin", HERE);
    let stream = Stream::open(streamed).await.begun().await;
    let told = ["access-control-allow-origin", "access-control-expose-headers", "x-rbee-worker"];
    assert_eq!(told.map(|name| stream.header(name)), [HERE, "*", "w-1"]);
    assert_eq!(stream.rest().await.text(), "a");
    let mut unknown = chat();
    unknown["model"] = json!("x");
    for (request, status) in [
        (queen.post(CHAT).json(&chat()), 200),
        (queen.post(CHAT).json(&unknown), 404),
        (queen.post(CHAT).json(&json!([])), 400),
        (queen.get("/v1/models"), 200),
    ] {
        let reply = Reply::read(request.header("origin", HERE)).await;
        let told = reply.header("access-control-allow-origin");
        assert_eq!((reply.status, told), (status, HERE), "{reply:?}");
    }
    let events = queen.get("/v1/events").header("origin", HERE).send().await.unwrap();
    assert_eq!(events.headers()["access-control-allow-origin"], HERE);
}

#[tokio::test]
async fn a_page_of_another_site_reads_what_its_token_opens() {
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", [Script::Says(&["a"])]);
    queen.worker_beat(&worker.beat()).await;
    let refused = Reply::read(streaming(&queen).header("origin", ELSEWHERE)).await;
    refused.error(403, "foreign_origin");
    assert_eq!(refused.header("access-control-allow-origin"), "");

    let token = TokenStore::open(&queen.secrets()).create("page").unwrap().secret;
    let refused = Reply::read(streaming(&queen).header("origin", ELSEWHERE)).await;
    refused.error(401, "invalid_api_key");
    assert_eq!(refused.header("access-control-allow-origin"), ELSEWHERE);
    let allowed = streaming(&queen).header("origin", ELSEWHERE).bearer_auth(token.expose());
    let stream = Stream::open(allowed).await.begun().await;
    assert_eq!(stream.header("access-control-allow-origin"), ELSEWHERE);
    assert_eq!(stream.rest().await.text(), "a");
}

fn streaming(queen: &Queen) -> RequestBuilder {
    let mut body = chat();
    body["stream"] = Value::Bool(true);
    queen.post(CHAT).json(&body)
}
