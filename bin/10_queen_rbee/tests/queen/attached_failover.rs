//! Answers that go on when a server of somebody else fails, or when a worker does and a server is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rbee_operations::{Operation, WorkerAttach};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use worker_contract::{ChatMessage, Prompt, Role, Task};

use crate::attached::{attach, detach, fails, models, queen, queen_with, succeeds};
use crate::support::{
    Plays, Queen, Reply, Script, ServerDouble, WorkerDouble, chat, completion, until,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

/// The whole text of an answer that a server began and a worker ended, which is slower.
async fn from_server(
    play: Plays,
    path: &str,
    body: &Value,
    rest: Script,
) -> (String, WorkerDouble) {
    let server = ServerDouble::start("library", &["m"], [play]);
    let queen = impatient(&server).await;
    let worker = WorkerDouble::start("w-1", [rest]);
    queen.worker_beat(&worker.beat()).await;
    let transcript = queen.stream(path, body).await.begun().await.rest().await;
    assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
    (transcript.text(), worker)
}

/// Attaches a server with another model: from then on what clients say is kept for servers.
async fn knows_servers(queen: &Queen) {
    let other = ServerDouble::start("library", &["other"], []);
    let name = Some("library".parse().unwrap());
    succeeds(queen, WorkerAttach { name, ..attach(&other.url) }).await;
}

/// A queen that gives up soon who is silent.
pub(crate) async fn impatient(server: &ServerDouble) -> Queen {
    let queen = Queen::configured(|config| {
        config.worker.heartbeat_interval_ms = 50;
        config.queen.stall_timeout_s = 1;
    })
    .await;
    succeeds(&queen, attach(&server.url)).await;
    queen
}

#[tokio::test]
async fn what_a_server_began_a_worker_of_rbee_ends() {
    for play in
        [Plays::Dies(&["Hello", ","]), Plays::Hangs(&["Hello", ","]), Plays::Fails(&["Hello", ","])]
    {
        let (text, worker) =
            from_server(play.clone(), CHAT, &chat(), Script::Says(&[" world"])).await;
        assert_eq!(text, "Hello, world", "{play:?}");
        let asked = &worker.requests()[0];
        let Task::Chat(chat) = &asked.task else { panic!("{asked:?}") };
        assert_eq!(chat.messages.last().unwrap(), &ChatMessage::text(Role::Assistant, "Hello,"));
        assert!(chat.continue_last && asked.resume.is_empty());
    }
}

#[tokio::test]
async fn a_completion_goes_on_after_prompt_and_text() {
    let play = Plays::Dies(&[" upon", " "]);
    let (text, worker) =
        from_server(play, COMPLETION, &completion(), Script::Says(&["a time"])).await;
    assert_eq!(text, " upon a time");
    let prompt = Prompt::Text("Once upon ".into());
    assert_eq!(worker.requests()[0].task, Task::Completion { prompt });
}

#[tokio::test]
async fn a_completion_goes_on_at_no_server_that_puts_its_prompt_into_a_template() {
    for (owner, goes_on) in [("library", false), ("organization_owner", false), ("theirs", true)] {
        let server = ServerDouble::start(owner, &["m"], []);
        let queen = Queen::configured(|config| config.worker.heartbeat_interval_ms = 50).await;
        let worker = WorkerDouble::start("w-1", [Script::Hangs(&[" upon"])]);
        queen.worker_beat(&worker.beat()).await;
        knows_servers(&queen).await;
        let mut stream = queen.stream(COMPLETION, &completion()).await.begun().await;
        stream.until_text().await;
        succeeds(&queen, attach(&server.url)).await;
        drop(worker);
        let transcript = stream.rest().await;
        let is_whole = transcript.is_done && transcript.error.is_none();
        assert_eq!(is_whole, goes_on, "{owner}: {transcript:?}");
        assert_eq!(server.requests().len(), usize::from(goes_on), "{owner}: {transcript:?}");
        let asked = queen.ask(COMPLETION, &completion()).await;
        assert_eq!(asked.status, 200, "{owner}: it can begin all the same");
    }
}

#[tokio::test]
async fn what_a_worker_of_rbee_began_a_server_ends_that_can() {
    for owner in ["llamacpp", "vllm", "rbee"] {
        let server = ServerDouble::start(owner, &["m"], [Plays::Says(&[" wor", "ld"])]);
        let queen = Queen::configured(|config| config.worker.heartbeat_interval_ms = 50).await;
        let worker = WorkerDouble::start("w-1", [Script::Hangs(&["Hello "])]);
        queen.worker_beat(&worker.beat()).await;
        knows_servers(&queen).await;
        let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
        stream.until_text().await;
        succeeds(&queen, attach(&server.url)).await;
        drop(worker);
        let transcript = stream.rest().await;
        assert_eq!(transcript.text(), "world", "{owner}: the client has the space");
        assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
        let asked = &server.requests()[0];
        assert_eq!(asked["messages"][1], json!({"role": "assistant", "content": "Hello"}));
        let is_told = asked["continue_final_message"] == true;
        assert_eq!(is_told, owner != "rbee", "{asked}");
    }
}

#[tokio::test]
async fn the_prompt_has_as_many_tokens_where_an_answer_went_on_as_where_it_did_not() {
    // None of them tells how many tokens it read.
    let whole = Plays::Forgets(&["Hello"]);
    let plays = [Plays::Dies(&["Hello", ",", " "]), whole.clone()];
    let first = ServerDouble::start("llamacpp", &["m"], plays);
    let second = ServerDouble::start("llamacpp", &["m"], [Plays::Forgets(&["world"]), whole]);
    let queen = queen_with(&first).await;
    let name = Some("z-other".parse().unwrap());
    succeeds(&queen, WorkerAttach { name, ..attach(&second.url) }).await;
    let mut body = chat();
    body["stream_options"] = json!({"include_usage": true});
    body["messages"][0]["content"] = "What do bees say? ".repeat(10).into();
    let ask = async || {
        let transcript = queen.stream(CHAT, &body).await.begun().await.rest().await;
        let usage = transcript.chunks.last().unwrap()["usage"].clone();
        (transcript.text(), usage["prompt_tokens"].as_u64().unwrap())
    };
    let (went_on, undisturbed) = (ask().await, ask().await);
    assert_eq!((went_on.0.as_str(), undisturbed.0.as_str()), ("Hello, world", "Hello"));
    assert_eq!(went_on.1, undisturbed.1);
}

#[tokio::test]
async fn a_server_that_would_begin_anew_is_not_asked_to_go_on() {
    let server = ServerDouble::start("library", &["m"], []);
    let queen = queen_with(&server).await;
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["Hello"])]);
    let mut body = chat();
    body["deterministic"] = true.into();
    queen.worker_beat(&worker.beat()).await;
    let mut stream = queen.stream(CHAT, &body).await.begun().await;
    stream.until_text().await;
    drop(worker);
    let transcript = stream.rest().await;
    let error = transcript.error.expect("the true error");
    assert!(!transcript.is_done && error["message"].as_str().unwrap().contains("w-1"), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn what_nobody_can_go_on_with_ends_by_the_true_error() {
    let thought = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]});
    let error = json!({"error": "out of memory"});
    let server = ServerDouble::start("library", &["m"], [Plays::Chunks(vec![thought, error])]);
    let queen = queen_with(&server).await;
    let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
    let error = transcript.error.expect("an error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("out of memory") && !transcript.is_done, "{message}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn where_nobody_can_go_on_no_failover_is_recorded() {
    let server = ServerDouble::start("library", &["m"], [Plays::Dies(&["Hello"])]);
    let queen = queen_with(&server).await;
    let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
    assert_eq!(transcript.error.expect("an error")["code"], "worker_failed");
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let kinds: Vec<_> = decisions.as_array().unwrap().iter().map(|it| &it["kind"]).collect();
    assert_eq!(kinds, ["give_up", "dispatch"], "{decisions}");
}

#[tokio::test]
async fn before_the_first_token_a_request_is_tried_elsewhere_from_its_start() {
    for play in [
        Plays::Dies(&[]),
        Plays::Fails(&[]),
        Plays::Answers(500, "text/html", "<html>".into()),
        Plays::Answers(500, "application/json", r#"{"error":"out of memory"}"#.into()),
        Plays::Answers(503, "application/json", r#"{"error":"busy"}"#.into()),
        Plays::Answers(404, "application/json", r#"{"error":"model 'm' not found"}"#.into()),
        Plays::Answers(405, "text/plain", "no such method".into()),
        Plays::Answers(501, "application/json", r#"{"error":"no chat here"}"#.into()),
        Plays::Answers(403, "application/json", r#"{"error":"not for you"}"#.into()),
        Plays::Answers(401, "application/json", r#"{"error":"Invalid API Key"}"#.into()),
        Plays::Full(429, 3600),
        Plays::Answers(408, "application/json", r#"{"error":"too slow"}"#.into()),
        Plays::Answers(409, "application/json", r#"{"error":"it loads another"}"#.into()),
        Plays::Answers(425, "text/plain", "too early".into()),
    ] {
        let failing = ServerDouble::start("library", &["m"], vec![play.clone(); 20]);
        let fine = ServerDouble::start("library", &["m"], []);
        let queen = queen_with(&failing).await;
        let other = rbee_operations::WorkerAttach {
            name: Some("z-other".parse().unwrap()),
            ..attach(&fine.url)
        };
        succeeds(&queen, other).await;
        let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
        assert_eq!(transcript.text(), "Hello world", "{play:?}: {transcript:?}");
        assert_eq!(failing.requests().len(), 1, "{play:?}");
        assert_eq!(fine.requests()[0]["messages"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_end_without_a_farewell_is_an_end() {
    let server = ServerDouble::start("library", &["m"], [Plays::Forgets(&["Hello"])]);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello");
    assert_eq!(server.requests().len(), 1, "nothing was asked again");
}

#[tokio::test]
async fn nothing_is_added_to_an_answer_whose_end_was_told_whatever_comes_after_it() {
    let text = json!({"choices": [{"index": 0, "delta": {"content": "Hello"}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let more = |chunk| Plays::Chunks(vec![text.clone(), end.clone(), chunk]);
    for play in [
        Plays::Lingers(&["Hello"]),
        more(json!({"what": "is this"})),
        more(text.clone()),
        more(json!({"error": "out of memory"})),
    ] {
        let (text, worker) =
            from_server(play.clone(), CHAT, &chat(), Script::Says(&[" world"])).await;
        assert_eq!((text.as_str(), worker.requests().len()), ("Hello", 0), "{play:?}");
    }
}

#[tokio::test]
async fn who_tells_the_end_of_an_answer_and_then_nothing_is_not_waited_for_as_one_that_computes() {
    let server = ServerDouble::start("library", &["m"], [Plays::Lingers(&["Hello"])]);
    let queen = Queen::configured(|config| config.queen.stall_timeout_s = 600).await;
    succeeds(&queen, attach(&server.url)).await;
    let (began, body) = (Instant::now(), chat());
    let reply = queen.ask(CHAT, &body).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello", "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_looks_do_not_reach_ends_the_answer_that_it_gives() {
    let end = Arc::new(Notify::new());
    let server = ServerDouble::start("library", &["m"], [Plays::Waits(&["Hello"], end.clone())]);
    let door = Door::of(&server).await;
    let queen = queen().await;
    succeeds(&queen, attach(&door.url)).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    drop(door.open);
    let state = async || queen.status().await["workers"][0]["state"].clone();
    until("looks do not reach it", async || state().await == "failed").await;
    queen.ask(CHAT, &chat()).await.error(503, "no_worker");
    end.notify_one();
    let transcript = stream.rest().await;
    assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_detached_ends_the_answer_that_it_gives_and_nobody_says_it_was_never_there()
 {
    for is_killed in [false, true] {
        let end = Arc::new(Notify::new());
        let plays = [Plays::Waits(&["Hello"], end.clone())];
        let server = ServerDouble::start("library", &["m"], plays);
        let queen = queen_with(&server).await;
        let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
        stream.until_text().await;
        detach(&queen, "nas").await;
        queen.ask(CHAT, &chat()).await.error(404, "model_not_found");
        if is_killed {
            drop(server);
        } else {
            end.notify_one();
        }
        let transcript = stream.rest().await;
        assert_eq!(transcript.is_done, !is_killed, "{transcript:?}");
        if let Some(error) = transcript.error {
            assert_eq!(error["code"], "worker_failed", "{error}");
            assert!(error["message"].as_str().unwrap().contains("nas-m"), "{error}");
            let metrics = Reply::read(queen.get("/metrics")).await.text;
            let failovers = "rbee_queen_failovers_total{model=\"m\"} 0";
            assert!(metrics.contains(failovers), "nobody went on: {metrics}");
        }
    }
}

/// A way to a server that can be shut, while what is under way goes on.
struct Door {
    url: String,
    open: DropGuard,
    _ways: DropGuard,
}

impl Door {
    async fn of(server: &ServerDouble) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (open, ways) = (CancellationToken::new(), CancellationToken::new());
        let (tasks, ended, port) = (TaskTracker::new(), ways.clone(), server.port);
        tasks.clone().spawn(open.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { return };
                tasks.spawn(ended.clone().run_until_cancelled_owned(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }));
            }
        }));
        Self { url, open: open.drop_guard(), _ways: ways.drop_guard() }
    }
}

#[tokio::test]
async fn answers_that_a_server_leaves_out_are_asked_for_one_by_one() {
    let server = ServerDouble::start("library", &["m"], [Plays::Says(&["a"]), Plays::Says(&["b"])]);
    let queen = queen_with(&server).await;
    let mut body = chat();
    body["n"] = 2.into();
    let reply = queen.ask(CHAT, &body).await.json();
    let of = |n: usize| reply["choices"][n]["message"]["content"].clone();
    assert_eq!([of(0), of(1)], ["a", "b"], "{reply}");
    assert_eq!(server.requests()[1]["n"], 1);
}

#[tokio::test]
async fn a_llama_server_with_fewer_slots_than_answers_are_wanted_is_asked_for_one_at_a_time() {
    for (slots, asked) in [(Some(1), vec![1, 1]), (Some(2), vec![2, 1]), (None, vec![1, 1])] {
        let plays = [Plays::Says(&["a"]), Plays::Says(&["b"])];
        let server = ServerDouble::start("llamacpp", &["m"], plays);
        if let Some(slots) = slots {
            server.say_of_itself(json!({"total_slots": slots}));
        }
        let queen = queen_with(&server).await;
        let mut body = chat();
        body["n"] = 2.into();
        let reply = queen.ask(CHAT, &body).await;
        assert_eq!(reply.status, 200, "{slots:?}: {reply:?}");
        let of = |n: usize| reply.json()["choices"][n]["message"]["content"].clone();
        assert_eq!([of(0), of(1)], ["a", "b"], "{slots:?}: {reply:?}");
        let numbers: Vec<_> = server.requests().iter().map(|asked| asked["n"].clone()).collect();
        assert_eq!(numbers, asked, "{slots:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_server() {
    let server = ServerDouble::start("library", &["m"], [Plays::Hangs(&["Hello"])]);
    let queen = queen_with(&server).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    assert_eq!(queen.in_flight("nas-m").await, 1);
    drop(stream);
    until("the place is free", async || queen.in_flight("nas-m").await == 0).await;
}

#[tokio::test]
async fn another_queen_is_a_server_that_can_go_on() {
    let theirs = WorkerDouble::start("w-theirs", [Script::Says(&[" world"])]);
    let (far, near) = (Queen::start().await, Queen::start().await);
    far.worker_beat(&theirs.beat()).await;
    let ours = WorkerDouble::start("w-ours", [Script::Hangs(&["Hello"])]);
    near.worker_beat(&ours.beat()).await;
    knows_servers(&near).await;
    let mut stream = near.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    succeeds(&near, attach(&far.url)).await;
    drop(ours);
    let transcript = stream.rest().await;
    assert_eq!(
        (transcript.text().as_str(), transcript.is_done),
        (" world", true),
        "{transcript:?}"
    );
    let Task::Chat(chat) = &theirs.requests()[0].task else { panic!("it was a chat") };
    assert!(chat.continue_last && chat.messages[1].content == "Hello");
}

#[tokio::test]
async fn a_server_that_says_nothing_takes_no_longer_than_the_deadline() {
    let server = ServerDouble::start("library", &["m"], [Plays::Silent]);
    let queen = queen_with(&server).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "2000").json(&chat());
    let error = Reply::read(request).await.error(504, "deadline_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("0 tokens: nas-m had given nothing yet, after "), "{message}");
    assert!(error["hint"].as_str().unwrap().starts_with("allow more time"), "{error}");
    assert_eq!(queen.in_flight("nas-m").await, 0);
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200, "it is asked again");
}

#[tokio::test]
async fn a_silent_server_is_given_up_where_another_one_can_take_the_request() {
    for (play, path, body) in
        [(Plays::Silent, CHAT, chat()), (Plays::Hangs(&[]), COMPLETION, completion())]
    {
        let silent = ServerDouble::start("library", &["m"], [play.clone()]);
        let fine = ServerDouble::start("library", &["m"], []);
        let queen = impatient(&silent).await;
        let name = Some("z-other".parse().unwrap());
        succeeds(&queen, WorkerAttach { name, ..attach(&fine.url) }).await;
        let transcript = queen.stream(path, &body).await.begun().await.rest().await;
        assert_eq!(transcript.text(), "Hello world", "{play:?}: {transcript:?}");
        assert_eq!((silent.requests().len(), fine.requests().len()), (1, 1), "{play:?}");
        let metrics = Reply::read(queen.get("/metrics")).await.text;
        let failures = "worker_failures_total{worker=\"nas-m\",model=\"m\"} 1";
        assert!(metrics.contains(failures), "{play:?}: {metrics}");
    }
}

#[tokio::test]
async fn the_only_server_is_waited_for_and_a_deadline_that_it_lets_pass_is_its_failure() {
    let told_to = Arc::new(Notify::new());
    let plays = [Plays::Thinks(told_to.clone()), Plays::Silent];
    // What runs one request at a time has the second one in its queue.
    let server = ServerDouble::start("llamacpp", &["m"], plays);
    let queen = impatient(&server).await;
    let late = async {
        until("the first is there", async || server.requests().len() == 1).await;
        let late = queen.post(CHAT).header("x-rbee-deadline-ms", "2500").json(&chat());
        let error = Reply::read(late).await.error(504, "deadline_exceeded");
        told_to.notify_one();
        error
    };
    let first = chat();
    let (first, error) = tokio::join!(queen.ask(CHAT, &first), late);
    assert_eq!((first.status, server.requests().len()), (200, 2), "{first:?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("after 0 tokens: nas-m gave nothing for "), "{message}");
    assert!(error.get("hint").is_none(), "more time is no help: {error}");
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let given_up = decisions.as_array().unwrap().iter().find(|it| it["kind"] == "give_up");
    let given_up = given_up.unwrap_or_else(|| panic!("{decisions}"));
    assert_eq!(
        (&given_up["reason"], &given_up["worker_id"]),
        (&json!("deadline"), &json!("nas-m"))
    );
    let metrics = Reply::read(queen.get("/metrics")).await.text;
    let failures = "worker_failures_total{worker=\"nas-m\",model=\"m\"} 1";
    assert!(metrics.contains(failures), "{metrics}");
}

/// A llama-server that is told to stop in mid-answer: its port is shut at once, and its stream stays open.
async fn stopping_server(listener: TcpListener) -> TcpStream {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let listed =
        json!({"object": "list", "data": [{"id": "m", "owned_by": "llamacpp"}]}).to_string();
    let json = "content-type: application/json\r\nconnection: close";
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 1 << 16];
        let read = stream.read(&mut asked).await.unwrap();
        let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
        if asked.starts_with("POST") {
            let delta = json!({"choices": [{"index": 0, "delta": {"content": "Hello,"}}]});
            stream.write_all(format!("{HEAD}data: {delta}\n\n").as_bytes()).await.unwrap();
            return stream;
        }
        let lists = asked.starts_with("GET /v1/models");
        let (status, body) =
            if lists { ("200 OK", listed.as_str()) } else { ("404 Not Found", "{}") };
        let length = body.len();
        let reply =
            format!("HTTP/1.1 {status}\r\n{json}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_shuts_its_port_in_mid_answer_is_not_waited_for_as_one_that_is_busy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let queen = Queen::configured(|config| {
        config.worker.heartbeat_interval_ms = 50;
        config.queen.stall_timeout_s = 600;
    })
    .await;
    let stops = stopping_server(listener);
    let answer = async {
        succeeds(&queen, attach(&url)).await;
        let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
        stream.until_text().await;
        let other = ServerDouble::start("llamacpp", &["m"], [Plays::Says(&[" world"])]);
        let name = Some("other".parse().unwrap());
        succeeds(&queen, WorkerAttach { name, ..attach(&other.url) }).await;
        (stream.rest().await, other)
    };
    let (_held, (transcript, other)) = tokio::join!(stops, answer);
    assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
    assert_eq!(transcript.text(), " world", "after the first of it");
    assert_eq!(other.requests()[0]["messages"][1]["content"], "Hello,");
}

#[tokio::test]
async fn a_server_that_looks_find_well_is_waited_for_where_nobody_else_has_the_model() {
    // The one gives not even the head of its answer, the other nothing after that.
    let ends: [Arc<Notify>; 2] = Default::default();
    let plays = [Plays::Thinks(ends[0].clone()), Plays::Waits(&[], ends[1].clone())];
    let server = ServerDouble::start("llamacpp", &["m"], plays);
    let queen = impatient(&server).await;
    let loads = async {
        until("both are asked", async || server.requests().len() == 2).await;
        let (asked, enough) = (Instant::now(), Duration::from_secs(7));
        until("one out of reach would be given up", async || asked.elapsed() > enough).await;
        assert_eq!(server.requests().len(), 2, "nothing lost its place there");
        for end in &ends {
            end.notify_one();
        }
    };
    let first = async { queen.ask(CHAT, &chat()).await };
    let second = async {
        until("the first is there", async || server.requests().len() == 1).await;
        queen.ask(COMPLETION, &completion()).await
    };
    let (first, second, ()) = tokio::join!(first, second, loads);
    assert_eq!((first.status, second.status), (200, 200), "{first:?} {second:?}");
    assert_eq!(server.requests().len(), 2, "nothing was sent again");
}

#[tokio::test]
async fn a_server_that_says_after_long_that_an_answer_comes_is_waited_for_no_longer() {
    let told_to = Arc::new(Notify::new());
    let server = ServerDouble::start("llamacpp", &["m"], [Plays::HangsLate(told_to.clone())]);
    let fine = ServerDouble::start("llamacpp", &["m"], []);
    let queen = impatient(&server).await;
    let comes = async {
        until("it is asked", async || server.requests().len() == 1).await;
        let (asked, enough) = (Instant::now(), Duration::from_secs(3));
        until("it is late", async || asked.elapsed() > enough).await;
        told_to.notify_one();
        let name = Some("z-other".parse().unwrap());
        succeeds(&queen, WorkerAttach { name, ..attach(&fine.url) }).await;
    };
    let body = completion();
    let (answer, ()) = tokio::join!(queen.ask(COMPLETION, &body), comes);
    assert_eq!(answer.header("x-rbee-worker"), "z-other-m", "{answer:?}");
    let decisions = Reply::read(queen.get("/v1/decisions")).await.text;
    let silent = decisions.split("it gave nothing for ").nth(1);
    let seconds = silent.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 3), "from when it was asked: {decisions}");
}

#[tokio::test]
async fn a_server_that_answers_others_is_late_and_has_not_failed() {
    let ends: [Arc<Notify>; 2] = Default::default();
    let plays = [Plays::Drips("x", ends[0].clone()), Plays::Thinks(ends[1].clone())];
    let server = ServerDouble::start("llamacpp", &["m"], plays);
    let fine = ServerDouble::start("llamacpp", &["m"], []);
    let queen = impatient(&server).await;
    let mut first = queen.stream(CHAT, &chat()).await.begun().await;
    first.until_text().await;
    let body = chat();
    let answers = async {
        until("both are asked", async || server.requests().len() == 2).await;
        let name = Some("z-other".parse().unwrap());
        succeeds(&queen, WorkerAttach { name, ..attach(&fine.url) }).await;
        let (asked, enough) = (Instant::now(), Duration::from_secs(3));
        until("one that hangs would be given up", async || asked.elapsed() > enough).await;
        ends[1].notify_one();
    };
    let (second, ()) = tokio::join!(queen.ask(CHAT, &body), answers);
    ends[0].notify_one();
    assert!(first.rest().await.is_done);
    assert_eq!(second.header("x-rbee-worker"), "nas-m", "{second:?}");
    assert_eq!((server.requests().len(), fine.requests().len()), (2, 0));
}

#[tokio::test]
async fn a_request_does_not_go_round_among_queens() {
    let (one, two) = (Queen::start().await, Queen::start().await);
    let worker = WorkerDouble::start("w-1", [Script::Silent]);
    one.worker_beat(&worker.beat()).await;
    succeeds(&two, attach(&one.url)).await;
    succeeds(&one, attach(&two.url)).await;
    // The worker is believed to be slower than a server, so each queen would rather ask the other.
    let request = one.post(CHAT).header("x-rbee-deadline-ms", "2000").json(&chat());
    let asking = Reply::read(request);
    let reached = until("it came to the worker", async || worker.requests().len() == 1);
    let (reply, ()) = tokio::join!(asking, reached);
    reply.error(504, "deadline_exceeded");
    until("no place is kept", async || two.in_flight("nas-m").await == 0).await;
    assert_eq!(worker.requests().len(), 1);
}

#[tokio::test]
async fn what_no_queen_has_any_longer_none_lists_and_none_attaches_herself() {
    let (one, two) = (queen().await, queen().await);
    let worker = WorkerDouble::start("w-1", []);
    one.worker_beat(&worker.beat()).await;
    succeeds(&two, attach(&one.url)).await;
    let name = Some("other".parse().unwrap());
    succeeds(&one, WorkerAttach { name, ..attach(&two.url) }).await;
    assert_eq!(models(&two).await, ["m"]);
    drop(worker);
    until("nobody lists it", async || models(&one).await.is_empty()).await;
    until("nor the other", async || models(&two).await.is_empty()).await;

    let name = Some("self".parse().unwrap());
    let refused = Operation::WorkerAttach(WorkerAttach { name, ..attach(&one.url) });
    let message = fails(&one, refused, "server_unusable").await;
    assert!(message.contains("it is this queen herself"), "{message}");
    assert!(message.contains("another server") && !message.contains("start it"), "{message}");
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_begun_again_where_nobody_can_go_on_with_it() {
    let thought = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]});
    let text = json!({"choices": [{"index": 0, "delta": {"content": "Good"}}]});
    let error = json!({"error": "out of memory"});
    let plays = [Plays::Chunks(vec![thought, text, error])];
    let server = ServerDouble::start("library", &["m"], plays);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
    assert_eq!(reply.json()["choices"][0]["message"].get("reasoning_content"), None, "{reply:?}");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_begun_anew_is_recorded_as_such_and_not_as_refused() {
    let thought = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]});
    let error = json!({"error": "out of memory over: my secret plan"});
    for play in [Plays::Dies(&["Hello"]), Plays::Chunks(vec![thought, error])] {
        let server = ServerDouble::start("library", &["m"], [play.clone()]);
        let queen = queen_with(&server).await;
        assert_eq!(queen.ask(CHAT, &chat()).await.status, 200, "{play:?}");
        let recorded = Reply::read(queen.get("/v1/decisions")).await;
        let decisions = recorded.json()["decisions"].clone();
        let of = |field: &str| -> Vec<Value> {
            decisions.as_array().unwrap().iter().map(|it| it[field].clone()).collect()
        };
        assert!(!of("kind").contains(&json!("reject")), "{play:?}: {decisions}");
        assert!(of("reason").contains(&json!("begun_anew")), "{play:?}: {decisions}");
        let metrics = Reply::read(queen.get("/metrics")).await.text;
        for counted in ["failovers_total{model=\"m\"} 0", "retries_total{model=\"m\"} 1"] {
            assert!(metrics.contains(counted), "{play:?}: nobody went on: {metrics}");
        }
        assert!(!recorded.text.contains("secret"), "{play:?}: {decisions}");
    }
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_again_and_again_at_one_place_ends_with_the_reason() {
    let thoughts = (0..40).map(|number| {
        let thought = format!("thought {number} ");
        json!({"choices": [{"index": 0, "delta": {"reasoning_content": thought}}]})
    });
    let mut chunks: Vec<_> = thoughts.collect();
    chunks.push(json!({"error": "out of memory"}));
    let server = ServerDouble::start("library", &["m"], vec![Plays::Chunks(chunks); 50]);
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("out of memory"), "{error}");
    assert!(server.requests().len() <= 5, "{} tries", server.requests().len());
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let anew = decisions.as_array().unwrap().iter().filter(|it| it["reason"] == "begun_anew");
    let tries = server.requests().len();
    assert_eq!(anew.count(), tries - 1, "after the last try it is given up: {decisions}");
}

#[tokio::test]
async fn a_server_that_breaks_each_answer_off_before_it_gives_anything_is_given_up_soon() {
    let server = ServerDouble::start("library", &["m"], vec![Plays::Dies(&[]); 50]);
    let queen = queen_with(&server).await;
    queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(server.requests().len() <= 4, "{} tries", server.requests().len());
}
