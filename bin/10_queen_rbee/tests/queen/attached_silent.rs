//! Servers of others that fall silent in the middle of an answer: they may hold a call back until it is whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rbee_operations::WorkerAttach;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::attached::{attach, succeeds};
use crate::attached_failover::impatient;
use crate::attached_odd::failures;
use crate::support::{Plays, Queen, Reply, ServerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

/// Longer than a server may be silent that can go on itself.
const LONG: Duration = Duration::from_secs(7);

/// How an answer begins, what is asked for, and whether another server has room.
type Row = (&'static str, Value, Value, bool);

#[tokio::test]
async fn a_server_that_holds_a_call_back_is_waited_for_where_nobody_could_go_on() {
    let word = json!({"content": "I write it."});
    let thought = json!({"reasoning_content": "Hm"});
    let speaker = json!({"role": "assistant", "content": ""});
    let rows: [Row; 5] = [
        ("a word, and a function is offered", word.clone(), with_function(), true),
        ("a thought, and a function is offered", thought.clone(), with_function(), true),
        ("a thought", thought, chat(), true),
        ("a word, and nobody is there to go on", word, chat(), false),
        ("who speaks, and nobody else is there", speaker, with_function(), false),
    ];
    let both = rows.iter().flat_map(|row| [(row, true), (row, false)]);
    join_all(both.map(|(row, is_streamed)| Box::pin(is_waited_for(row, is_streamed)))).await;
}

async fn is_waited_for((because, begins, body, has_other): &Row, is_streamed: bool) {
    let told_to = Arc::new(Notify::new());
    let plays = Plays::Holds(vec![chunk(begins)], Arc::clone(&told_to), call());
    let server = ServerDouble::start("library", &["m"], [plays]);
    let other = ServerDouble::start("library", &["m"], []);
    let queen = impatient(&server).await;
    if *has_other {
        attach_other(&queen, &other).await;
    }
    let computes = async {
        is_silent_over_one(&server, LONG).await;
        told_to.notify_one();
    };
    let (called, ()) = tokio::join!(called(&queen, body, is_streamed), computes);
    assert_eq!(called, "write_file", "{because}, streamed: {is_streamed}");
    let asked = (server.requests().len(), other.requests().len());
    assert_eq!(asked, (1, 0), "{because}, streamed: {is_streamed}");
    assert_eq!(failures(&queen).await, "0", "{because}: nothing is held against it");
}

#[tokio::test]
async fn a_server_that_is_asked_in_one_piece_is_waited_for_until_it_has_computed_all_of_it() {
    for is_streamed in [true, false] {
        let told_to = Arc::new(Notify::new());
        let plays = [refuses_streams(), Plays::ThinksOf(Arc::clone(&told_to), whole())];
        let server = ServerDouble::start("vllm", &["m"], plays);
        let other = ServerDouble::start("vllm", &["m"], []);
        let queen = impatient(&server).await;
        attach_other(&queen, &other).await;
        let computes = async {
            is_silent_over(2, &server, Duration::from_secs(3)).await;
            told_to.notify_one();
        };
        let asks = async {
            if is_streamed {
                return queen.stream(CHAT, &chat()).await.begun().await.rest().await.text();
            }
            let reply = queen.ask(CHAT, &chat()).await.json();
            reply["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
        };
        let (text, ()) = tokio::join!(asks, computes);
        assert_eq!(text, "All of it", "streamed: {is_streamed}");
        assert_eq!((server.requests().len(), other.requests().len()), (2, 0));
        assert_eq!(failures(&queen).await, "0", "nothing is held against it");
    }
}

#[tokio::test]
async fn a_deadline_that_passes_over_an_answer_in_one_piece_is_no_failure_of_its_server() {
    let plays = [refuses_streams(), Plays::ThinksOf(Arc::new(Notify::new()), whole())];
    let server = ServerDouble::start("vllm", &["m"], plays);
    let queen = impatient(&server).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "3000").json(&chat());
    Reply::read(request).await.error(504, "deadline_exceeded");
    assert_eq!(failures(&queen).await, "0");
}

#[tokio::test]
async fn what_a_server_is_silent_over_goes_on_as_soon_as_somebody_can_go_on_with_it() {
    for (began, rest) in [
        (Plays::Hangs(&[]), Plays::Says(&["Hello", " world"])),
        (Plays::Hangs(&["Hello"]), Plays::Says(&[" world"])),
    ] {
        let server = ServerDouble::start("library", &["m"], [began.clone()]);
        let other = ServerDouble::start("llamacpp", &["m"], [rest]);
        let queen = impatient(&server).await;
        let comes = async {
            is_silent_over_one(&server, Duration::from_secs(2)).await;
            attach_other(&queen, &other).await;
        };
        let answer = async { queen.stream(CHAT, &chat()).await.begun().await.rest().await };
        let (transcript, ()) = tokio::join!(answer, comes);
        assert!(transcript.is_done && transcript.error.is_none(), "{began:?}: {transcript:?}");
        assert_eq!(transcript.text(), "Hello world", "{began:?}: {transcript:?}");
        assert_eq!((server.requests().len(), other.requests().len()), (1, 1), "{began:?}");
    }
}

#[tokio::test]
async fn a_server_whose_connection_is_dead_goes_on_itself_where_nobody_else_can() {
    for is_streamed in [true, false] {
        let plays = [Plays::Hangs(&["Hello"]), Plays::Says(&[" world"])];
        let server = ServerDouble::start("llamacpp", &["m"], plays);
        let queen = impatient(&server).await;
        let text = if is_streamed {
            queen.stream(CHAT, &chat()).await.begun().await.rest().await.text()
        } else {
            let reply = queen.ask(CHAT, &chat()).await.json();
            reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
        };
        assert_eq!((&*text, server.requests().len()), ("Hello world", 2));
    }
}

#[tokio::test]
async fn who_failed_a_request_before_goes_on_with_what_another_server_has_given_of_it_since() {
    let plays = [Plays::Dies(&[]), Plays::Says(&[" world"])];
    let server = ServerDouble::start("llamacpp", &["m"], plays);
    let other = ServerDouble::start("llamacpp", &["m"], [Plays::Hangs(&["Hello"])]);
    let queen = impatient(&server).await;
    attach_other(&queen, &other).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "15000").json(&chat());
    let reply = Reply::read(request).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
    assert_eq!((server.requests().len(), other.requests().len()), (2, 1));
}

#[tokio::test]
async fn a_deadline_that_a_silent_server_lets_pass_is_its_failure_only_where_it_gave_nothing() {
    for (delta, body, message, failed) in [
        (json!({"content": "I"}), with_function(), "has passed after 1 tokens", "0"),
        (json!({"role": "assistant"}), chat(), "after 0 tokens: nas-m gave nothing for ", "1"),
    ] {
        let plays = Plays::Holds(vec![chunk(&delta)], Arc::new(Notify::new()), call());
        let server = ServerDouble::start("library", &["m"], [plays]);
        let queen = impatient(&server).await;
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", "3000").json(&body);
        let error = Reply::read(request).await.error(504, "deadline_exceeded");
        assert!(error["message"].as_str().unwrap().contains(message), "{delta}: {error}");
        assert_eq!(server.requests().len(), 1, "{delta}: it is not asked again");
        assert_eq!(failures(&queen).await, failed, "{delta}");
    }
}

#[tokio::test]
async fn a_server_that_gives_chunks_without_text_is_at_work_and_keeps_its_request() {
    let told_to = Arc::new(Notify::new());
    let server = ServerDouble::start("llamacpp", &["m"], [Plays::Drips("", told_to.clone())]);
    let other = ServerDouble::start("llamacpp", &["m"], []);
    let queen = impatient(&server).await;
    attach_other(&queen, &other).await;
    let works = async {
        is_silent_over_one(&server, Duration::from_secs(3)).await;
        told_to.notify_one();
    };
    let body = chat();
    let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), works);
    assert_eq!(reply.header("x-rbee-worker"), "nas-m", "{reply:?}");
    assert_eq!((server.requests().len(), other.requests().len()), (1, 0));
}

/// Waits until the server has been silent for so long over the only request that it has got.
async fn is_silent_over_one(server: &ServerDouble, long: Duration) {
    is_silent_over(1, server, long).await;
}

/// Waits until the server has been silent for so long over the last one of so many requests.
async fn is_silent_over(count: usize, server: &ServerDouble, long: Duration) {
    until("it is asked", async || server.requests().len() == count).await;
    let asked = Instant::now();
    until("it is silent for long", async || asked.elapsed() > long).await;
    assert_eq!(server.requests().len(), count, "nothing is sent again");
}

fn refuses_streams() -> Plays {
    let body = json!({"error": {"message": "Streaming is not supported for this model"}});
    Plays::Answers(400, "application/json", body.to_string())
}

fn whole() -> String {
    let choice = json!({"index": 0, "message": {"content": "All of it"}, "finish_reason": "stop"});
    json!({"choices": [choice]}).to_string()
}

async fn attach_other(queen: &Queen, other: &ServerDouble) {
    let name = Some("z-other".parse().unwrap());
    succeeds(queen, WorkerAttach { name, ..attach(&other.url) }).await;
}

/// The function that an answer calls.
async fn called(queen: &Queen, body: &Value, is_streamed: bool) -> Value {
    let named = |message: &Value| message["tool_calls"][0]["function"]["name"].clone();
    if !is_streamed {
        return named(&queen.ask(CHAT, body).await.json()["choices"][0]["message"]);
    }
    let transcript = queen.stream(CHAT, body).await.begun().await.rest().await;
    assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
    let mut calls = transcript.chunks.iter().map(|chunk| named(&chunk["choices"][0]["delta"]));
    calls.find(|name| !name.is_null()).unwrap_or_default()
}

/// A request with which nobody can go on once it is begun.
fn with_function() -> Value {
    let function = json!({"name": "write_file", "parameters": {"type": "object"}});
    let mut body = chat();
    body["tools"] = json!([{"type": "function", "function": function}]);
    body
}

fn chunk(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

/// The last chunk of an answer: a whole call.
fn call() -> Value {
    let call =
        json!({"index": 0, "id": "c", "function": {"name": "write_file", "arguments": "{}"}});
    let delta = json!({"tool_calls": [call]});
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
}
