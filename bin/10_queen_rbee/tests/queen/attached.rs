//! Servers of others as workers: attached, listed, asked, watched, detached.

use job_client::{JobClient, JobEnd};
use rbee_operations::{
    HiveTarget, JobEvent, Operation, ServerApi, WorkerAttach, WorkerDetach, WorkerLogs,
    WorkerTarget,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    HiveDouble, Home, Plays, Queen, Reply, Script, ServerDouble, WorkerDouble, chat, completion,
    until,
};

const CHAT: &str = "/v1/chat/completions";
/// What a llama-server says while it loads.
const LOADING: (u16, &str) =
    (503, r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#);

/// A queen that looks often.
pub(crate) async fn queen() -> Queen {
    Queen::configured(|config| config.worker.heartbeat_interval_ms = 50).await
}

/// A queen with a server that is attached as `nas`.
pub(crate) async fn queen_with(server: &ServerDouble) -> Queen {
    let queen = queen().await;
    succeeds(&queen, attach(&server.url)).await;
    queen
}

pub(crate) fn attach(url: &str) -> WorkerAttach {
    WorkerAttach {
        url: url.to_owned(),
        api: ServerApi::Openai,
        name: Some("nas".parse().unwrap()),
        token: None,
        slots: None,
        models: Vec::new(),
    }
}

pub(crate) async fn succeeds(queen: &Queen, attach: WorkerAttach) -> JobEvent {
    match run(queen, Operation::WorkerAttach(attach)).await {
        JobEnd::Succeeded(event) => event,
        end => panic!("{end:?}"),
    }
}

pub(crate) async fn detach(queen: &Queen, name: &str) {
    let detach = Operation::WorkerDetach(WorkerDetach { name: name.parse().unwrap() });
    assert!(matches!(run(queen, detach).await, JobEnd::Succeeded(_)));
}

pub(crate) async fn fails(queen: &Queen, operation: Operation, code: &str) -> String {
    match run(queen, operation).await {
        JobEnd::Failed(error) => {
            assert_eq!(error.code.as_deref(), Some(code), "{error:?}");
            format!("{} {}", error.message, error.hint.unwrap_or_default())
        }
        end => panic!("{end:?}"),
    }
}

pub(crate) async fn run(queen: &Queen, operation: Operation) -> JobEnd {
    run_and_listen(queen, operation).await.0
}

/// How a job ended, and what it told before that.
async fn run_and_listen(queen: &Queen, operation: Operation) -> (JobEnd, Vec<String>) {
    let jobs = JobClient::new(&queen.url, None);
    let mut told = Vec::new();
    let listen = |event: &JobEvent| told.push(event.message.clone());
    let end = jobs.run_until(&operation, &CancellationToken::new(), listen).await.unwrap();
    (end, told)
}

pub(crate) async fn models(queen: &Queen) -> Vec<String> {
    let list = Reply::read(queen.get("/v1/models")).await.json();
    let ids = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_models_of_a_server_are_listed_and_asked_for_by_either_name() {
    let server = ServerDouble::start("vllm", &["m", "org/Model-8B"], []);
    let queen = queen_with(&server).await;
    assert_eq!(models(&queen).await, ["m", "org-Model-8B"]);
    let status = queen.status().await;
    let worker = &status["workers"][1];
    assert_eq!(worker["worker_id"], "nas-org-Model-8B");
    assert_eq!(worker["server"]["model"], "org/Model-8B");
    assert_eq!((&worker["slots"]["total"], &worker["state"]), (&json!(64), &json!("ready")));
    for name in ["org-Model-8B", "org/Model-8B"] {
        let mut body = chat();
        body["model"] = name.into();
        let reply = queen.ask(CHAT, &body).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
        assert_eq!(reply.header("x-rbee-worker"), "nas-org-Model-8B");
        assert_eq!(server.requests().last().unwrap()["model"], "org/Model-8B");
    }
    queen
        .ask(CHAT, &json!({"model": "org/no", "messages": [{"role": "user", "content": "x"}]}))
        .await
        .error(404, "model_not_found");
}

#[tokio::test]
async fn models_have_as_many_slots_as_their_kind_of_server_has_where_it_tells_none() {
    for (owner, slots) in
        [("library", 1), ("vllm", 64), ("rbee", 16), ("llamacpp", 4), ("organization_owner", 4)]
    {
        let server = ServerDouble::start(owner, &["m"], []);
        let worker = queen_with(&server).await.status().await["workers"][0].clone();
        assert_eq!(worker["slots"]["total"], slots, "{owner}");
    }
}

#[tokio::test]
async fn streams_and_whole_answers_come_in_the_dialect_of_this_queen() {
    let server = ServerDouble::start("library", &["m"], []);
    let queen = queen_with(&server).await;
    let mut body = chat();
    body["stream_options"] = json!({"include_usage": true});
    let transcript = queen.stream(CHAT, &body).await.begun().await.rest().await;
    assert_eq!(transcript.text(), "Hello world");
    assert!(transcript.is_done && transcript.error.is_none());
    let last = transcript.chunks.last().unwrap();
    assert_eq!((&last["model"], &last["usage"]["prompt_tokens"]), (&json!("m"), &json!(5)));
    let reply = queen.ask("/v1/completions", &completion()).await.json();
    assert_eq!(reply["choices"][0]["text"], "Hello world");
    assert_eq!(reply["usage"]["completion_tokens"], 2);
    assert_eq!(server.paths(), ["chat/completions", "completions"]);
}

#[tokio::test]
async fn what_a_client_sends_reaches_the_server_as_it_was() {
    let server = ServerDouble::start("library", &["m"], []);
    let queen = queen_with(&server).await;
    let body = json!({
        "model": "m", "temperature": 0.25, "seed": 7, "stop": ["\n\n"], "user": "u",
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        ]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters":
            {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}}}],
    });
    assert_eq!(queen.ask(CHAT, &body).await.status, 200);
    let mut expected = body;
    expected["stream"] = true.into();
    expected["stream_options"] = json!({"include_usage": true});
    assert_eq!(server.requests()[0].to_string(), expected.to_string(), "in its order, too");
}

#[tokio::test]
async fn calls_reasoning_and_vectors_come_from_servers_too() {
    let chunk = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}});
    let plays = [
        Plays::Chunks(vec![
            chunk(json!({"reasoning": "Hm"})),
            chunk(json!({"tool_calls": [call]})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        ]),
        Plays::Answers(
            200,
            "application/json",
            json!({"data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 3}})
                .to_string(),
        ),
    ];
    let server = ServerDouble::start("library", &["m"], plays);
    let queen = queen_with(&server).await;
    let message = queen.ask(CHAT, &chat()).await.json()["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_content"], "Hm", "{message}");
    assert_eq!(message["tool_calls"][0]["function"]["name"], "f");
    let reply = queen.ask("/v1/embeddings", &json!({"model": "m", "input": "x"})).await.json();
    assert_eq!(reply["data"][0]["embedding"], json!([0.6, 0.8]), "{reply}");
}

#[tokio::test]
async fn what_only_the_client_understands_of_an_answer_reaches_it() {
    let chunks = vec![
        json!({"id": "x", "system_fingerprint": "b42", "service_tier": "flex", "choices": [
            {"index": 0, "delta": {"content": "Hm", "annotations": ["a"]}, "token_ids": [5]}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1, "cost": 2}}),
    ];
    let server =
        ServerDouble::start("vllm", &["m"], [(); 2].map(|()| Plays::Chunks(chunks.clone())));
    let queen = queen_with(&server).await;
    let whole = queen.ask(CHAT, &chat()).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&whole["system_fingerprint"], &whole["service_tier"]),
        (&json!("b42"), &json!("flex"))
    );
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("Hm"), &json!("content_filter"))
    );
    assert_eq!(
        (&choice["message"]["annotations"], &choice["token_ids"]),
        (&json!(["a"]), &json!([5]))
    );
    assert_eq!((&whole["usage"]["cost"], &whole["usage"]["total_tokens"]), (&json!(2), &json!(6)));
    assert_eq!(whole["model"], "m", "the head is the queen's own");

    let mut body = chat();
    body["stream_options"] = json!({"include_usage": true});
    let transcript = queen.stream(CHAT, &body).await.begun().await.rest().await;
    let chunk =
        transcript.chunks.iter().find(|chunk| chunk["choices"][0]["delta"]["content"] == "Hm");
    let chunk = chunk.unwrap();
    assert_eq!(
        (&chunk["system_fingerprint"], &chunk["service_tier"]),
        (&json!("b42"), &json!("flex"))
    );
    assert_eq!(chunk["choices"][0]["delta"]["annotations"], json!(["a"]));
    assert_eq!(chunk["choices"][0]["token_ids"], json!([5]));
    let reason = |chunk: &Value| chunk["choices"][0]["finish_reason"].clone();
    let reasons: Vec<_> = transcript.chunks.iter().map(reason).filter(|r| !r.is_null()).collect();
    assert_eq!(reasons, ["content_filter"]);
    assert_eq!(transcript.chunks.last().unwrap()["usage"]["cost"], 2);
}

#[tokio::test]
async fn models_come_and_go_with_the_servers_list() {
    let server = ServerDouble::start("library", &["a"], []);
    let queen = queen_with(&server).await;
    server.serve(&["b", "c"]);
    until("the list is the new one", async || models(&queen).await == ["b", "c"]).await;
    server.serve(&[]);
    until("nothing is listed", async || models(&queen).await.is_empty()).await;
}

#[tokio::test]
async fn only_the_models_that_are_wanted_become_workers() {
    let server = ServerDouble::start("library", &["a", "org/b", "c"], []);
    let queen = queen().await;
    let wanted = vec!["org/b".to_owned(), "c".to_owned()];
    succeeds(&queen, WorkerAttach { models: wanted, slots: Some(9), ..attach(&server.url) }).await;
    assert_eq!(models(&queen).await, ["c", "org-b"]);
    assert_eq!(queen.status().await["workers"][0]["slots"]["total"], 9);
    let missing = WorkerAttach { models: vec!["x".into()], ..attach(&server.url) };
    let why = fails(&queen, Operation::WorkerAttach(missing), "model_not_found").await;
    assert!(why.contains("org/b"), "{why}");
}

#[tokio::test]
async fn a_name_that_a_hives_catalog_has_is_the_hives_unless_the_servers_is_asked_for() {
    let server = ServerDouble::start("library", &["m", "own"], []);
    let (queen, hive) = (queen().await, HiveDouble::start(false));
    hive.let_start();
    let alone = succeeds(&queen, attach(&server.url)).await;
    assert_eq!(alone.data.unwrap()["shared"], json!([]));
    assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "nas-m");

    let told = async || {
        let list = Operation::WorkerList(HiveTarget { hive_id: "nas".parse().unwrap() });
        let JobEnd::Succeeded(event) = run(&queen, list).await else { panic!("no list") };
        let workers = event.data.unwrap()["attached"].clone();
        [0, 1].map(|at| workers[at]["reason"].as_str().map(str::to_owned))
    };
    assert_eq!(told().await, [None, None]);
    queen.hive_beat(&hive.beat()).await;
    let [passed_over, other] = told().await;
    assert!(passed_over.unwrap().contains("a hive has a model of that name"), "it is told there");
    assert_eq!(other, None);
    let shared = succeeds(&queen, attach(&server.url)).await;
    assert!(shared.message.contains("requests for m do not go to it"), "{shared:?}");
    assert_eq!(shared.data.unwrap()["shared"], json!(["m"]));
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "the file that is pinned: {reply:?}");
    assert_eq!(server.requests().len(), 1);
    let recorded = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let spawn = recorded.as_array().unwrap().iter().find(|it| it["kind"] == "spawn").unwrap();
    assert_eq!(spawn["reason"], "elsewhere", "{spawn}");

    let named = WorkerAttach { models: vec!["m".into()], ..attach(&server.url) };
    let shared = succeeds(&queen, named).await;
    assert!(shared.message.contains("requests for m go to it and to the hives"), "{shared:?}");
    assert_eq!(told().await[0], None, "it has its share");
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.header("x-rbee-worker"), "nas-m", "it is the faster one: {reply:?}");
}

#[tokio::test]
async fn a_model_is_called_the_same_on_all_servers_and_no_other_model_is() {
    let server = ServerDouble::start("library", &["a/b"], []);
    let queen = queen_with(&server).await;
    assert_eq!(models(&queen).await, ["a-b"]);
    let other = ServerDouble::start("library", &["a-b", "a/b"], []);
    let name = Some("other".parse().unwrap());
    succeeds(&queen, WorkerAttach { name, ..attach(&other.url) }).await;
    let of = async |worker: usize| queen.status().await["workers"][worker]["model"]["name"].clone();
    until("it has the other name", async || of(0).await == "a-b-c14cddc0").await;
    assert_eq!(models(&queen).await, ["a-b", "a-b-c14cddc0"]);
    let mut body = chat();
    for _ in 0..8 {
        body["model"] = "a-b".into();
        assert_eq!(queen.ask(CHAT, &body).await.header("x-rbee-worker"), "other-a-b");
        body["model"] = "a/b".into();
        let reply = queen.ask(CHAT, &body).await;
        assert_ne!(reply.header("x-rbee-worker"), "other-a-b", "{reply:?}");
    }
}

#[tokio::test]
async fn a_name_without_a_tag_is_that_of_the_latest_where_no_model_has_it_itself() {
    let server = ServerDouble::start("library", &["tiny:latest", "org/big:latest"], []);
    let queen = queen_with(&server).await;
    let ask = async |model: &str| {
        let mut body = chat();
        body["model"] = model.into();
        queen.ask(CHAT, &body).await
    };
    for (asked, there) in [
        ("tiny", "tiny:latest"),
        ("tiny:latest", "tiny:latest"),
        ("org/big", "org/big:latest"),
        ("org-big", "org/big:latest"),
    ] {
        let reply = ask(asked).await;
        assert_eq!(reply.json()["model"], asked, "{reply:?}");
        assert_eq!(server.requests().last().unwrap()["model"], there);
        let path = format!("/v1/models/{}", asked.replace('/', "%2F"));
        assert_eq!(Reply::read(queen.get(&path)).await.status, 200, "{asked}");
    }
    let named = WorkerAttach { models: vec!["tiny".into()], ..attach(&server.url) };
    let told = succeeds(&queen, named).await.message;
    assert!(told.contains("tiny:latest"), "so it is where it is attached: {told}");
    succeeds(&queen, attach(&server.url)).await;
    ask("tin").await.error(404, "model_not_found");
    ask("tiny:small").await.error(404, "model_not_found");
    server.serve(&["tiny", "tiny:latest"]);
    until("the other one is there", async || models(&queen).await == ["tiny", "tiny:latest"]).await;
    ask("tiny").await;
    assert_eq!(server.requests().last().unwrap()["model"], "tiny", "its own name comes first");
}

#[tokio::test]
async fn of_a_server_with_very_many_models_the_rest_is_told_of_and_one_bad_entry_hides_none() {
    let queen = queen().await;
    let entries: Vec<String> = (0..300).map(|n| format!(r#"{{"id":"m{n}"}}"#)).collect();
    let listing = format!(r#"{{"data":[{{"object":"model"}},{}]}}"#, entries.join(","));
    let server = ServerDouble::start("library", &[], []);
    server.list_as(Some((200, listing.leak())));
    let (end, told) = run_and_listen(&queen, Operation::WorkerAttach(attach(&server.url))).await;
    let JobEnd::Succeeded(event) = end else { panic!("{end:?}") };
    let data = event.data.unwrap();
    assert_eq!((&data["left_out"], data["workers"].as_array().unwrap().len()), (&json!(44), 256));
    assert!(
        told.iter().any(|told| told.contains("44 more of its models are left out")),
        "{told:?}"
    );
    let named = WorkerAttach { models: vec!["m299".into()], ..attach(&server.url) };
    assert_eq!(succeeds(&queen, named).await.data.unwrap()["left_out"], 0);
    assert_eq!(models(&queen).await, ["m299"]);
}

#[tokio::test]
async fn a_server_gets_its_token_and_nobody_else_does() {
    let guarded =
        ServerDouble::start_at(0, "vllm", &["m"], [], Some("hush-hush")).expect("a free port");
    let home = Home::new();
    let often = |config: &mut rbee_config::Config| config.worker.heartbeat_interval_ms = 50;
    let queen = Queen::at(&home, often).await;
    let why = fails(&queen, Operation::WorkerAttach(attach(&guarded.url)), "server_unusable").await;
    assert!(why.contains("demands a token") && why.contains("--secret-file"), "{why}");
    let with = |token: &str| WorkerAttach { token: Some(token.into()), ..attach(&guarded.url) };
    let why = fails(&queen, Operation::WorkerAttach(with("wrong")), "server_unusable").await;
    assert!(why.contains("refuses the token") && !why.contains("wrong"), "{why}");
    succeeds(&queen, with("hush-hush")).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    let jobs = Reply::read(queen.get("/v1/jobs")).await.text;
    assert!(jobs.contains("worker_attach") && !jobs.contains("hush"), "{jobs}");
    let told = [queen.status().await.to_string(), jobs];
    assert!(told.iter().all(|text| !text.contains("hush")), "{told:?}");

    queen.stop().await;
    let queen = Queen::at(&home, often).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200, "it is known after a restart");
    let folder = home.path().join("data/secrets/servers");
    assert!(folder.join("nas.token").exists(), "{folder:?}");
    let kept = std::fs::read_to_string(home.path().join("data/servers.json")).unwrap();
    assert!(kept.contains("nas") && !kept.contains("hush"), "{kept}");
    let detach = Operation::WorkerDetach(WorkerDetach { name: "nas".parse().unwrap() });
    assert!(matches!(run(&queen, detach.clone()).await, JobEnd::Succeeded(_)));
    assert!(!folder.join("nas.token").exists());
    queen.ask(CHAT, &chat()).await.error(404, "model_not_found");
    fails(&queen, detach, "server_not_found").await;
    queen.stop().await;
    let queen = Queen::at(&home, often).await;
    assert!(models(&queen).await.is_empty(), "what is detached stays so");
}

#[tokio::test]
async fn a_server_that_stops_and_comes_back_is_noticed_both_times() {
    let server = ServerDouble::start("library", &["m"], []);
    let (queen, port) = (queen_with(&server).await, server.port);
    server.list_as(Some((200, "<html>")));
    let state = async || queen.status().await["workers"][0]["state"].clone();
    until("it is told that it is wrong", async || state().await == "failed").await;
    let reason = queen.status().await["workers"][0]["reason"].to_string();
    assert!(reason.contains("no list of models"), "{reason}");
    let refused = async |why: &str| {
        let error = queen.ask(CHAT, &chat()).await.error(503, "no_worker");
        let begin = format!("the server nas, which has the model m, cannot be used: {why}");
        assert!(error["message"].as_str().unwrap().starts_with(&begin), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("worker list"), "{error}");
    };
    refused("it does not answer as it should").await;
    server.list_as(None);
    until("it is good again", async || state().await == "ready").await;
    drop(server);
    let reason = async || queen.status().await["workers"][0]["reason"].to_string();
    until("it is gone", async || reason().await.contains("cannot be reached")).await;
    refused("it cannot be reached: ").await;
    let mut again = None;
    until("its port is free", async || {
        again = ServerDouble::start_at(port, "library", &["m"], [], None);
        again.is_some()
    })
    .await;
    until("it is back", async || queen.ask(CHAT, &chat()).await.status == 200).await;
}

#[tokio::test]
async fn a_server_that_loads_its_model_is_waited_for() {
    let server = ServerDouble::start("llamacpp", &["m"], []);
    let queen = queen_with(&server).await;
    server.list_as(Some(LOADING));
    let state = async || queen.status().await["workers"][0]["state"].clone();
    until("it loads", async || state().await == "loading").await;
    let waits = async || queen.status().await["waiting"] == 1;
    let loads = async {
        until("the request waits", waits).await;
        server.list_as(None);
    };
    let body = chat();
    let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), loads);
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn a_llama_server_has_as_many_slots_as_it_says_each_time_that_it_is_started() {
    let server = ServerDouble::start_at(0, "llamacpp", &["m"], [], Some("sk-its")).unwrap();
    server.say_of_itself(json!({"default_generation_settings": {}, "total_slots": 2}));
    let queen = queen().await;
    let attach = WorkerAttach { token: Some("sk-its".to_owned()), ..attach(&server.url) };
    succeeds(&queen, attach.clone()).await;
    let slots = async || queen.status().await["workers"][0]["slots"]["total"].clone();
    assert_eq!(slots().await, 2);
    let starts_with = async |slots: u32| {
        server.list_as(Some(LOADING));
        let loads = async || queen.status().await["workers"][0]["state"] == "loading";
        until("it loads", loads).await;
        server.say_of_itself(json!({"total_slots": slots}));
        server.list_as(None);
        let is_ready = async || queen.status().await["workers"][0]["state"] == "ready";
        until("it has loaded", is_ready).await;
    };
    starts_with(1).await;
    assert_eq!(slots().await, 1);
    succeeds(&queen, WorkerAttach { slots: Some(9), ..attach }).await;
    starts_with(3).await;
    assert_eq!(slots().await, 9, "somebody said so");
}

#[tokio::test]
async fn a_server_is_no_hive_and_its_workers_are_listed() {
    let server = ServerDouble::start("library", &["org/m"], []);
    let queen = queen_with(&server).await;
    for name in ["localhost", "nas"] {
        let target = HiveTarget { hive_id: name.parse().unwrap() };
        let JobEnd::Succeeded(listed) = run(&queen, Operation::WorkerList(target)).await else {
            panic!("{name}")
        };
        let data = listed.data.unwrap();
        let worker = &data["attached"][0];
        assert_eq!((&worker["server"], &worker["engine"]), (&json!("nas"), &json!("ollama")));
        assert_eq!((&worker["model"], &worker["original"]), (&json!("org-m"), &json!("org/m")));
    }
    let target = HiveTarget { hive_id: "nas".parse().unwrap() };
    let why = fails(&queen, Operation::ModelList(target), "not_a_hive").await;
    assert!(why.contains("worker detach nas"), "{why}");
    for hive in ["localhost", "nas"] {
        let target = || WorkerTarget {
            hive_id: hive.parse().unwrap(),
            worker_id: "nas-org-m".parse().unwrap(),
        };
        let JobEnd::Succeeded(shown) = run(&queen, Operation::WorkerGet(target())).await else {
            panic!("it is shown")
        };
        assert_eq!(shown.data.unwrap()["original"], "org/m");
        let WorkerTarget { hive_id, worker_id } = target();
        let logs = WorkerLogs { hive_id, worker_id, lines: None, follow: false };
        for operation in [
            Operation::WorkerDelete(target()),
            Operation::WorkerRestart(target()),
            Operation::WorkerLogs(logs),
        ] {
            let why = fails(&queen, operation, "worker_of_server").await;
            assert!(why.contains("worker detach nas"), "{why}");
        }
    }
}

#[tokio::test]
async fn errors_of_a_server_reach_the_client_as_what_they_are() {
    let error = |message: &str, code: Value| {
        json!({"error": {"message": message, "type": "BadRequestError", "code": code}}).to_string()
    };
    let json = "application/json";
    let plays = [
        Plays::Answers(400, json, error("too long", "context_length_exceeded".into())),
        Plays::Answers(400, json, error("no tools here", 400.into())),
        Plays::Answers(500, json, error("no images here", 500.into())),
        Plays::Answers(500, json, error("no images here", 500.into())),
        Plays::Answers(502, "text/html", "<html>Bad Gateway</html>".into()),
        Plays::Answers(502, "text/html", "<html>Bad Gateway</html>".into()),
        Plays::Answers(200, "text/html", "<html>It works!</html>".into()),
    ];
    let server = ServerDouble::start("library", &["m"], plays);
    let queen = queen_with(&server).await;
    let refused = queen.ask(CHAT, &chat()).await.error(400, "context_length_exceeded");
    assert_eq!(refused["message"], "too long");
    for (status, message) in [(400, "no tools here"), (500, "no images here")] {
        let reply = queen.ask(CHAT, &chat()).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["message"]), (status, &json!(message)));
        assert_eq!(error["code"], Value::Null, "a status is no code");
    }
    let failed = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("neither text/event-stream nor JSON"), "the last of three: {message}");
    assert_eq!(server.requests().len(), 7);
}

#[tokio::test]
async fn requests_that_a_server_cannot_serve_do_not_shut_it_to_others() {
    let error = json!({"error": {"message": "no images here", "code": 500}}).to_string();
    let bad = vec![Plays::Answers(500, "application/json", error); 12];
    let server = ServerDouble::start("llamacpp", &["m"], bad);
    let queen = queen_with(&server).await;
    for _ in 0..6 {
        assert_eq!(queen.ask(CHAT, &chat()).await.status, 500);
    }
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let kinds: Vec<_> = decisions.as_array().unwrap().iter().map(|it| &it["kind"]).collect();
    assert!(!kinds.is_empty() && !kinds.contains(&&json!("circuit_opened")), "{decisions}");
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
}

#[tokio::test]
async fn what_only_rbee_promises_goes_to_rbee_only() {
    let server = ServerDouble::start("library", &["m"], []);
    let queen = queen_with(&server).await;
    let mut body = chat();
    body["deterministic"] = true.into();
    let error = queen.ask(CHAT, &body).await.error(400, "unsupported_by_model");
    assert!(error["hint"].as_str().unwrap().contains("deterministic"), "{error}");
    let form = json!({"type": "json_object"});
    let completion = json!({"model": "m", "prompt": "Hi", "response_format": form});
    let error = queen.ask("/v1/completions", &completion).await.error(400, "unsupported_by_model");
    assert!(error["hint"].as_str().unwrap().contains("forms in completions"), "{error}");
    let mut demand = chat();
    demand["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "f"}})] {
        demand["tool_choice"] = choice;
        let error = queen.ask(CHAT, &demand).await.error(400, "unsupported_by_model");
        assert!(error["hint"].as_str().unwrap().contains("tool_choice"), "{error}");
    }
    assert!(server.requests().is_empty(), "nothing is sent where it would be passed over");
    let worker = WorkerDouble::start("w-1", [Script::Says(&["ours"]), Script::Says(&["{}"])]);
    queen.worker_beat(&worker.beat()).await;
    let reply = queen.ask(CHAT, &body).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "ours", "{reply:?}");
    let reply = queen.ask("/v1/completions", &completion).await;
    assert_eq!(reply.json()["choices"][0]["text"], "{}", "{reply:?}");
}

#[tokio::test]
async fn many_that_only_rbee_can_serve_do_not_hold_up_one_that_a_server_can() {
    let server = ServerDouble::start("library", &["m"], []);
    let queen = queen_with(&server).await;
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["x"]), Script::Hangs(&["x"])]);
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let mut own = chat();
    own["deterministic"] = true.into();
    let _running = [
        queen.stream(CHAT, &own).await.begun().await,
        queen.stream(CHAT, &own).await.begun().await,
    ];
    let crowd = futures::future::join_all((0..20).map(|_| queen.ask(CHAT, &own)));
    let ordinary = async {
        until("twenty wait", async || {
            queen.worker_beat(&beat).await;
            queen.status().await["waiting"] == 20
        })
        .await;
        queen.ask(CHAT, &chat()).await
    };
    tokio::select! {
        replies = crowd => panic!("the worker is full: {replies:?}"),
        reply = ordinary => assert_eq!(reply.header("x-rbee-worker"), "nas-m", "{reply:?}"),
    }
}

#[tokio::test]
async fn what_a_server_refuses_a_worker_of_rbee_answers_that_runs_the_model() {
    let error = |status| {
        let body = json!({"error": {"message": "no tools here"}}).to_string();
        Plays::Answers(status, "application/json", body)
    };
    for status in [400, 402, 409, 415, 422] {
        let server = ServerDouble::start("library", &["m"], vec![error(status); 3]);
        let queen = queen_with(&server).await;
        let refused = queen.ask(CHAT, &chat()).await;
        assert_eq!(refused.status, status, "nobody else is there");
        assert_eq!(refused.json()["error"]["message"], "no tools here");
        let worker = WorkerDouble::start("w-1", [Script::Says(&["ours"])]);
        queen.worker_beat(&worker.beat()).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "ours", "{status} {reply:?}");
        // Where it may not be the request, it was asked once more while nobody else was there.
        let asked = if matches!(status, 402 | 409) { 3 } else { 2 };
        assert_eq!(server.requests().len(), asked, "{status}: the server was asked first");
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_told_where_no_worker_comes_in_time() {
    let body = json!({"error": {"message": "no tools here"}}).to_string();
    let refuses = Plays::Answers(409, "application/json", body);
    let server = ServerDouble::start("library", &["m"], [refuses.clone(), refuses]);
    let (queen, hive) = (queen().await, HiveDouble::start(false));
    succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
    queen.hive_beat(&hive.beat()).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "1000").json(&chat());
    let reply = Reply::read(request).await;
    assert_eq!((reply.status, hive.spawns()), (409, 1), "{reply:?}");
    assert_eq!(reply.json()["error"]["message"], "no tools here");
}

#[tokio::test]
async fn a_model_whose_server_stays_full_gets_a_worker_of_its_own() {
    let server =
        ServerDouble::start("library", &["m"], [Plays::Hangs(&["x"]), Plays::Hangs(&["x"])]);
    let (queen, hive) = (queen().await, HiveDouble::start(false));
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    let models = vec!["m".into()];
    succeeds(&queen, WorkerAttach { slots: Some(1), models, ..attach(&server.url) }).await;
    let _running = [
        queen.stream(CHAT, &chat()).await.begun().await,
        queen.stream(CHAT, &chat()).await.begun().await,
    ];
    let body = chat();
    let asked = queen.ask(CHAT, &body);
    let reports = async {
        loop {
            queen.hive_beat(&hive.beat()).await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        reply = asked => assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "{reply:?}"),
        () = reports => unreachable!("it reports without end"),
    }
}
