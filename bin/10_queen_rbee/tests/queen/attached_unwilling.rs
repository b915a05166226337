//! Servers of others that will not take a request, though nothing is wrong with them.

use rbee_config::Paths;
use rbee_operations::{Infer, Operation, WorkerAttach};
use serde_json::{Value, json};
use worker_contract::{ModelKind, Sampling, WorkerHeartbeat, WorkerState};

use crate::attached::{attach, fails, queen, queen_with, succeeds};
use crate::attached_odd::failures;
use crate::support::{
    HiveDouble, Home, Plays, Queen, Reply, Script, ServerDouble, WorkerDouble, chat, until,
};

const CHAT: &str = "/v1/chat/completions";
const RERANK: &str = "/v1/rerank";

#[tokio::test]
async fn what_a_server_lacks_is_said_at_once_and_does_not_shut_it_to_others() {
    let body = json!({"model": "m", "query": "q", "documents": ["a", "b"]});
    for (status, kind, text) in [
        (404, "text/plain", "404 page not found"),
        (404, "application/json", r#"{"error":"model 'm' not found"}"#),
        (405, "text/html", "<html>"),
        (
            501,
            "application/json",
            r#"{"error":{"message":"start it with --reranking","code":501}}"#,
        ),
    ] {
        let lacks = vec![Plays::Answers(status, kind, text.into()); 4];
        let server = ServerDouble::start("library", &["m"], lacks);
        let queen = queen_with(&server).await;
        for _ in 0..4 {
            let error = queen.ask(RERANK, &body).await.error(404, "unsupported_by_server");
            let message = error["message"].as_str().unwrap();
            let is_told =
                ["nas", RERANK, &status.to_string()].iter().all(|it| message.contains(it));
            assert!(is_told, "{message}");
        }
        assert_eq!(server.requests().len(), 4, "{status}: nothing is asked twice");
        assert!(!decisions(&queen).await.contains(&json!("circuit_opened")), "{status}");
        assert_eq!(queen.ask(CHAT, &chat()).await.status, 200, "{status}");
    }
}

#[tokio::test]
async fn an_error_in_place_of_an_answer_is_told_and_does_not_shut_the_server_to_others() {
    let words = "Trying to keep the first 9999 tokens when context the overflows";
    let event = format!("event: error\ndata: {}\n\n", json!({"error": {"message": words}}));
    let whole = json!({"error": words}).to_string();
    for (kind, body) in [("text/event-stream", event), ("application/json", whole)] {
        let says = vec![Plays::Answers(200, kind, body); 8];
        let server = ServerDouble::start("organization_owner", &["m"], says.clone());
        let queen = queen_with(&server).await;
        for _ in 0..4 {
            let reply = queen.ask(CHAT, &chat()).await;
            assert!(reply.status == 500 && reply.text.contains(words), "{kind}: {reply:?}");
        }
        assert_eq!(server.requests().len(), 8, "{kind}: each is asked once more");
        assert_eq!(failures(&queen).await, "0", "{kind}: nothing is held against it");
        assert_eq!(queen.ask(CHAT, &chat()).await.status, 200, "{kind}");
        let recorded = Reply::read(queen.get("/v1/decisions")).await.text;
        assert!(!recorded.contains(words), "they may repeat a prompt: {recorded}");

        let server = ServerDouble::start("organization_owner", &["m"], says);
        let (queen, hive) = (self::queen().await, HiveDouble::start(false));
        hive.let_start();
        succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
        queen.hive_beat(&hive.beat()).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "{kind}: {reply:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_lm_studio_lacks_is_lacked_though_it_answers_with_a_200() {
    let body = json!({"model": "m", "query": "q", "documents": ["a", "b"]});
    let words = json!({"error": "Unexpected endpoint or method. (POST /v1/rerank)"}).to_string();
    let lacks = vec![Plays::Answers(200, "application/json", words); 4];
    let server = ServerDouble::start("organization_owner", &["m"], lacks);
    let queen = queen_with(&server).await;
    for _ in 0..4 {
        let error = queen.ask(RERANK, &body).await.error(404, "unsupported_by_server");
        assert!(error["message"].as_str().unwrap().contains("(POST /v1/rerank)"), "{error}");
        assert!(error["hint"].as_str().unwrap().starts_with("a hive that has"), "{error}");
    }
    assert_eq!(server.requests().len(), 4, "nothing is asked twice");
    assert_eq!(failures(&queen).await, "0", "nothing is held against it");
}

#[tokio::test]
async fn a_page_instead_of_a_reason_is_the_requests_fault_where_the_status_says_so() {
    let page = || Plays::Answers(413, "text/html", "<html>Too Large</html>".into());
    let server = ServerDouble::start("library", &["m"], [page(), page(), page(), page()]);
    let queen = queen_with(&server).await;
    for _ in 0..4 {
        let reply = queen.ask(CHAT, &chat()).await;
        let message = reply.json()["error"]["message"].to_string();
        assert!(reply.status == 413 && message.contains("the server nas"), "{reply:?}");
    }
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
}

#[tokio::test]
async fn what_no_server_has_a_worker_of_rbee_is_started_for() {
    let lacks = Plays::Answers(404, "text/plain", "404 page not found".into());
    let server = ServerDouble::start("library", &["m"], [lacks]);
    let (queen, hive) = (queen().await, HiveDouble::start(false));
    hive.let_start();
    succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
    queen.hive_beat(&hive.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "{reply:?}");
}

#[tokio::test]
async fn no_worker_is_started_that_could_only_say_that_its_model_cannot_do_it() {
    let body = json!({"model": "m", "input": "a"});
    for (status, told) in [(501, 404), (500, 500)] {
        let words = r#"{"error":{"message":"no vectors here"}}"#;
        let refuses = vec![Plays::Answers(status, "application/json", words.into()); 2];
        let server = ServerDouble::start("library", &["m"], refuses);
        let (queen, hive) = (queen().await, HiveDouble::start(false));
        hive.let_start();
        succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
        let mut beat = hive.beat();
        beat.catalog[0].gguf.kind = Some(ModelKind::Generative);
        queen.hive_beat(&beat).await;
        let reply = queen.ask("/v1/embeddings", &body).await;
        assert_eq!((reply.status, hive.spawns()), (told, 0), "{reply:?}");
        assert!(reply.text.contains("no vectors here"), "{reply:?}");
    }
}

#[tokio::test]
async fn no_worker_is_started_for_what_a_server_calls_a_mistake_of_the_request() {
    for status in [400, 413, 414, 415, 422, 431] {
        let refuses = Plays::Answers(status, "text/plain", "no".into());
        let server = ServerDouble::start("library", &["m"], [refuses]);
        let (queen, hive) = (queen().await, HiveDouble::start(false));
        hive.let_start();
        succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
        queen.hive_beat(&hive.beat()).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!((reply.status, hive.spawns()), (status, 0), "{reply:?}");
    }
}

#[tokio::test]
async fn a_worker_of_rbee_that_loads_is_waited_for_where_the_server_lacks_something() {
    let lacks = Plays::Answers(404, "text/plain", "404 page not found".into());
    let server = ServerDouble::start("library", &["m"], [lacks]);
    let queen = queen_with(&server).await;
    let worker = WorkerDouble::start("w-1", [Script::Says(&["ours"])]);
    let state = WorkerState::Loading { progress: 0.5 };
    let loading = WorkerHeartbeat { state, ..worker.beat() };
    queen.worker_beat(&loading).await;
    let loads = async {
        until("the server was asked, and the request waits", async || {
            queen.worker_beat(&loading).await;
            server.requests().len() == 1 && queen.status().await["waiting"] == 1
        })
        .await;
        queen.worker_beat(&worker.beat()).await;
    };
    let body = chat();
    let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), loads);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "ours", "{reply:?}");
}

#[tokio::test]
async fn a_server_that_lacks_something_is_not_asked_in_the_place_of_one_that_rests() {
    let lacks = Plays::Answers(404, "text/plain", "404 page not found".into());
    let server = ServerDouble::start("library", &["m"], vec![lacks; 9]);
    let busy = Plays::Answers(503, "text/plain", "busy".into());
    let other = ServerDouble::start("library", &["m"], [busy]);
    let queen = queen_with(&server).await;
    let name = Some("desk".parse().unwrap());
    succeeds(&queen, WorkerAttach { name, ..attach(&other.url) }).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.header("x-rbee-worker"), "desk-m", "{reply:?}");
    assert!(server.requests().len() <= 1, "{:?}", server.paths());
}

#[tokio::test]
async fn a_wrong_token_is_noticed_also_where_the_list_is_open_to_all() {
    let server = ServerDouble::start_at(0, "llamacpp", &["m"], [], Some("hush")).unwrap();
    server.open_list();
    let queen = queen().await;
    for (token, mentions) in [(None, "demands a token"), (Some("wrong"), "refuses the token")] {
        let token = token.map(str::to_owned);
        let operation = Operation::WorkerAttach(WorkerAttach { token, ..attach(&server.url) });
        let why = fails(&queen, operation, "server_unusable").await;
        assert!(why.contains(mentions) && why.contains("--secret-file"), "{why}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_token_for_requests_only_gets_none_until_it_is_attached_again() {
    let server = ServerDouble::start_at(0, "library", &["m"], [], Some("hush")).unwrap();
    server.open_list();
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("it refuses the token"), "{error}");
    let worker = queen.status().await["workers"][0].clone();
    assert_eq!(worker["state"], "failed", "{worker}");
    assert!(worker["reason"].as_str().unwrap().contains("it refuses the token"), "{worker}");
    let error = queen.ask(CHAT, &chat()).await.error(503, "no_worker");
    assert!(error["message"].as_str().unwrap().contains("it refuses the token"), "{error}");
    let token = Some("hush".to_owned());
    succeeds(&queen, WorkerAttach { token, ..attach(&server.url) }).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
}

#[tokio::test]
async fn a_server_that_is_full_for_longer_than_a_request_may_take_is_not_waited_for() {
    for status in [429, 503] {
        let server = ServerDouble::start("library", &["m"], [Plays::Full(status, 3600)]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let message = reply.json()["error"]["message"].to_string();
        assert_eq!((reply.status, reply.header("retry-after")), (status, "3600"), "{message}");
        assert!(message.contains("nas") && message.contains("the quota is used up"), "{message}");
        assert_eq!(server.requests().len(), 1);
        let metrics = Reply::read(queen.get("/metrics")).await.text;
        let counted = "requests_total{model=\"m\",outcome=\"busy\"} 1";
        assert!(metrics.contains(counted), "the request is not at fault: {metrics}");
    }
}

#[tokio::test]
async fn a_server_that_stays_full_until_the_deadline_is_told_as_the_reason() {
    let server = ServerDouble::start("library", &["m"], vec![Plays::Full(429, 1); 9]);
    let queen = queen_with(&server).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "1500").json(&chat());
    let reply = Reply::read(request).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "1"), "{reply:?}");
    until("it was asked again", async || server.requests().len() > 1).await;
}

#[tokio::test]
async fn that_a_full_server_sends_a_request_back_is_recorded_once_and_then_who_answers_it() {
    let server = ServerDouble::start("library", &["m"], vec![Plays::Full(429, 1); 5]);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!((reply.status, server.requests().len()), (200, 6), "{reply:?}");
    let recorded = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let all = recorded.as_array().unwrap();
    let of = |kind: &str| all.iter().filter(|it| it["kind"] == kind).collect::<Vec<_>>();
    let (retries, dispatches) = (of("retry"), of("dispatch"));
    assert_eq!((retries.len(), &retries[0]["reason"]), (1, &json!("busy")), "{recorded}");
    assert!(retries[0]["why"].as_str().unwrap().contains("nas-m takes no more"), "{recorded}");
    assert!(retries[0]["why"].as_str().unwrap().contains("429"), "{recorded}");
    assert!(!recorded.to_string().contains("quota"), "its words may repeat a prompt: {recorded}");
    assert_eq!(dispatches.len(), 4, "the first three, and that which was answered: {recorded}");
    assert_eq!(all[0]["kind"], "dispatch", "{recorded}");
    assert!(of("wait").len() <= 17, "{recorded}");
}

#[tokio::test]
async fn while_a_server_is_full_for_longer_than_a_request_may_take_others_are_refused_at_once() {
    for status in [429, 503] {
        let server = ServerDouble::start("library", &["m"], [Plays::Full(status, 3600)]);
        let queen = queen_with(&server).await;
        assert_eq!(queen.ask(CHAT, &chat()).await.status, status);
        let reply = queen.ask(CHAT, &chat()).await;
        let message = reply.json()["error"]["message"].to_string();
        let words =
            format!("nas takes no more at present: HTTP {status}; it wants to be left alone");
        assert!(reply.status == status && message.contains(&words), "{reply:?}");
        assert!(!message.contains("quota"), "that was said of another one's request: {message}");
        let retry: u32 = reply.header("retry-after").parse().unwrap();
        assert!((3500..=3600).contains(&retry), "{retry}");
        assert_eq!(server.requests().len(), 1);
        let recorded = decisions(&queen).await;
        assert!(!recorded.contains(&json!("wait")), "{status}: {recorded:?}");
        assert!(reasons(&queen).await.contains(&json!("resting")), "{status}: it is recorded why");
        let text = Reply::read(queen.get("/metrics")).await.text;
        let counted = "rbee_queen_requests_total{model=\"m\",outcome=\"busy\"} 2\n";
        assert!(text.contains(counted), "{text}");
    }
}

#[tokio::test]
async fn a_request_that_has_the_time_is_sent_when_a_full_server_has_rested() {
    let server = ServerDouble::start("library", &["m"], [Plays::Full(429, 2)]);
    let queen = queen_with(&server).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "1000").json(&chat());
    assert_eq!(Reply::read(request).await.status, 429, "there is no time to ask it again");
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
    assert_eq!(server.requests().len(), 2, "it was left alone until then");
    assert!(reasons(&queen).await.contains(&json!("resting")), "that is what it waited for");
}

#[tokio::test]
async fn where_a_hive_has_the_model_nobody_waits_until_a_full_server_has_rested() {
    let server = ServerDouble::start("library", &["m"], [Plays::Full(429, 3600)]);
    let (queen, hive) = (queen().await, HiveDouble::start(false));
    hive.let_start();
    succeeds(&queen, WorkerAttach { models: vec!["m".into()], ..attach(&server.url) }).await;
    queen.hive_beat(&hive.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "{reply:?}");
    let recorded = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let mut spawns = recorded.as_array().unwrap().iter().filter(|it| it["kind"] == "spawn");
    assert!(spawns.any(|it| it["reason"] == "resting"), "{recorded}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_a_server_says_is_told_to_who_asked_and_recorded_nowhere() {
    let said = r#"{"error":{"message":"cannot do: my secret plan","code":"oops"}}"#;
    for status in [400, 401, 403, 404, 422, 429, 500, 502, 503] {
        let plays = vec![Plays::Answers(status, "application/json", said.into()); 9];
        let server = ServerDouble::start("library", &["m"], plays);
        let queen = queen_with(&server).await;
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", "2000").json(&chat());
        let reply = Reply::read(request).await;
        let is_told = reply.text.contains("my secret plan");
        assert!(is_told || status == 401, "{status}: {reply:?}");
        let recorded = Reply::read(queen.get("/v1/decisions")).await.text;
        assert!(!recorded.contains("my secret plan"), "{status}: {recorded}");
    }
}

#[tokio::test]
async fn who_refuses_a_request_at_last_is_recorded() {
    let said = r#"{"error":{"message":"no tools here","code":"no_tools"}}"#;
    let refuses = Plays::Answers(400, "application/json", said.into());
    let server = ServerDouble::start("library", &["m"], [refuses]);
    let queen = queen_with(&server).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 400);
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let last = &decisions[0];
    let expected = json!(["give_up", "refused", "nas-m", "nas-m refuses it: HTTP 400 (no_tools)"]);
    let found = ["kind", "reason", "worker_id", "why"].map(|field| &last[field]);
    assert_eq!(json!(found), expected, "{decisions}");
}

#[tokio::test]
async fn what_a_server_says_is_in_the_events_of_a_job_and_not_in_its_record() {
    let said = r#"{"error":{"message":"cannot do: my secret plan","code":"oops"}}"#;
    for status in [400, 500] {
        let plays = vec![Plays::Answers(status, "application/json", said.into()); 2];
        let server = ServerDouble::start("library", &["m"], plays);
        let home = Home::new();
        let queen = Queen::at(&home, |_| {}).await;
        succeeds(&queen, attach(&server.url)).await;
        let infer = Operation::Infer(Box::new(Infer {
            model: "m".parse().unwrap(),
            prompt: "Hi".into(),
            system: None,
            sampling: Sampling::default(),
        }));
        let told = fails(&queen, infer, "oops").await;
        assert!(told.contains("my secret plan"), "{status}: {told}");
        // While the file is open, so that the write-ahead log is looked at too.
        let data = Paths::under(home.path()).data;
        let files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap());
        let files = files.filter(|it| it.file_name().to_string_lossy().starts_with("queen.db"));
        let stored: Vec<u8> = files.flat_map(|it| std::fs::read(it.path()).unwrap()).collect();
        let is_stored = |text: &str| stored.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(is_stored(&format!("HTTP {status} (oops)")) && !is_stored("secret"), "{status}");
    }
}

#[tokio::test]
async fn nothing_is_recorded_as_tried_elsewhere_where_there_is_nobody_else() {
    for status in [403, 404] {
        let refuses = Plays::Answers(status, "text/plain", "no".into());
        let server = ServerDouble::start("library", &["m"], [refuses]);
        let queen = queen_with(&server).await;
        assert_eq!(queen.ask(CHAT, &chat()).await.status, status);
        assert_eq!(decisions(&queen).await, [json!("give_up"), json!("dispatch")], "{status}");
        let text = Reply::read(queen.get("/metrics")).await.text;
        assert!(text.contains("rbee_queen_retries_total{model=\"m\"} 0\n"), "{text}");
    }
}

async fn decisions(queen: &Queen) -> Vec<Value> {
    recorded(queen, "kind").await
}

async fn reasons(queen: &Queen) -> Vec<Value> {
    recorded(queen, "reason").await
}

async fn recorded(queen: &Queen, field: &str) -> Vec<Value> {
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    decisions.as_array().unwrap().iter().map(|it| it[field].clone()).collect()
}
