//! A hive that is removed, or whose secret is lost: nothing of it is believed, and it is sent nothing.

use std::sync::{Arc, Mutex};

use access_tokens::HiveSecrets;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use job_client::{JobClient, JobEnd};
use rbee_config::Paths;
use rbee_operations::Operation;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;
use worker_contract::{HiveHeartbeat, WorkerHeartbeat};

use crate::support::{HiveDouble, Home, Queen, Reply, Script, WorkerDouble, chat, serve, until};

const CHAT: &str = "/v1/chat/completions";
const OF_WORKER: &str = "/v1/worker-heartbeat";
const OF_HIVE: &str = "/v1/hive-heartbeat";
const SECRET: &str = "the-secret-of-a-hive-that-is-removed-later";
const ANOTHER: &str = "another-secret-of-the-hive-that-was-removed";

#[tokio::test]
async fn a_worker_of_a_removed_hive_is_asked_no_longer_and_its_answers_go_on_elsewhere() {
    let worker = WorkerDouble::start("w-1", [Script::Says(&["a"]), Script::Hangs(&["Hello"])]);
    let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
    let (queen, ear) = (Queen::start().await, Ear::start());
    add(&queen, &ear, SECRET).await;
    // Its hive lists it nowhere.
    let beat = WorkerHeartbeat { hive_id: "gone".parse().unwrap(), ..worker.beat() };
    let report = || Reply::read(queen.post(OF_WORKER).bearer_auth(SECRET).json(&beat));
    assert_eq!(report().await.status, 204);
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;

    queen.worker_beat(&other.beat()).await;
    succeeded(&run(&queen, remove()).await);
    until("its answers are left", async || worker.open() == 0).await;
    let transcript = stream.rest().await;
    assert!(transcript.is_done && transcript.error.is_none(), "{transcript:?}");
    assert_eq!(transcript.text(), " world");
    assert_eq!(report().await.status, 401);
    let workers = queen.status().await["workers"].clone();
    assert_eq!(
        (workers.as_array().map(Vec::len), &workers[0]["worker_id"]),
        (Some(1), &json!("w-2"))
    );
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    assert_eq!(worker.requests().len(), 2);
    assert_eq!(worker.shown().unwrap(), format!("Bearer {SECRET}"));
}

#[tokio::test]
async fn a_hive_that_nobody_added_is_taken_off_the_list_once_it_is_gone() {
    let queen = Queen::start().await;
    let hive = HiveDouble::start_as("gone".parse().unwrap(), false);
    let address = Some("http://127.0.0.1:1".to_owned());
    queen.hive_beat(&HiveHeartbeat { address, ..hive.beat() }).await;
    let (code, hint) = failed(run(&queen, remove()).await);
    assert!(code == "hive_not_found" && hint.contains("rbee-keeper hive stop gone"), "{hint}");
    succeeded(&run(&queen, json!({"HiveStop": {"hive_id": "gone"}})).await);
    let refused = queen.ask(CHAT, &chat()).await;
    let error = refused.error(503, "hive_gone");
    let hint = error["hint"].as_str().unwrap();
    assert!(
        hint.ends_with("one that was not added by SSH is started on its own machine"),
        "{hint}"
    );
    succeeded(&run(&queen, remove()).await);
    assert_eq!(queen.status().await["hives"], json!([]));
    failed(run(&queen, remove()).await);
}

#[tokio::test]
async fn a_worker_that_reports_keeps_its_answers_though_its_hive_is_gone_and_was_never_added() {
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["Hello"])]);
    let queen = Queen::start().await;
    let hive = HiveDouble::start_as("gone".parse().unwrap(), false);
    let address = Some("http://127.0.0.1:1".to_owned());
    queen.hive_beat(&HiveHeartbeat { address, ..hive.beat() }).await;
    let beat = WorkerHeartbeat { hive_id: "gone".parse().unwrap(), ..worker.beat() };
    queen.worker_beat(&beat).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    succeeded(&run(&queen, json!({"HiveStop": {"hive_id": "gone"}})).await);
    queen.worker_beat(&beat).await;
    let (code, _) = failed(run(&queen, remove()).await);
    assert_eq!((code.as_str(), worker.open()), ("hive_not_found", 1));
    let workers = queen.status().await["workers"].clone();
    assert_eq!(workers[0]["worker_id"], "w-1", "{workers}");
}

#[tokio::test]
async fn a_report_that_comes_while_its_hive_is_removed_is_refused() {
    let worker = WorkerDouble::start("w-1", []);
    let hive = HiveDouble::start_as("gone".parse().unwrap(), false);
    for is_added_again in [false, true] {
        let (queen, ear, elsewhere) = (Queen::start().await, Ear::start(), Ear::start());
        add(&queen, &ear, SECRET).await;
        let said = HiveHeartbeat { address: Some(elsewhere.url.clone()), ..hive.beat() };
        let of_worker = WorkerHeartbeat {
            hive_id: "gone".parse().unwrap(),
            address: elsewhere.url.clone(),
            ..worker.beat()
        };
        let mut held = Vec::new();
        for (path, report) in [(OF_HIVE, json!(said)), (OF_WORKER, json!(of_worker))] {
            held.push(Held::begin(&queen, path, &report).await);
        }
        succeeded(&run(&queen, remove()).await);
        if is_added_again {
            add(&queen, &ear, ANOTHER).await;
        }
        for report in held {
            let answer = report.end().await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        }
        assert_eq!(queen.status().await["workers"], json!([]));
        for look in ["HiveRefresh", "WorkerList"] {
            failed(run(&queen, json!({look: {"hive_id": "gone"}})).await);
        }
        assert_ne!(queen.ask(CHAT, &chat()).await.status, 200);
        assert_eq!(elsewhere.shown(), Vec::<String>::new(), "again: {is_added_again}");
        let is_another = |shown: &String| *shown == format!("Bearer {ANOTHER}");
        assert!(ear.shown().iter().all(is_another), "{:?}", ear.shown());
        assert_eq!(ear.shown().is_empty(), !is_added_again);
    }
}

#[tokio::test]
async fn a_hive_whose_secret_is_lost_is_sent_nothing_until_it_has_one_again() {
    for left in [None, Some(""), Some("short")] {
        let (home, ear) = (Home::new(), Ear::start());
        let queen = Queen::at(&home, |_| {}).await;
        add(&queen, &ear, SECRET).await;
        queen.stop().await;
        let secrets = Paths::under(home.path()).secrets;
        let file = secrets.join("hives/gone.token");
        match left {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let queen = Queen::at(&home, |_| {}).await;
        for look in ["HiveRefresh", "WorkerList", "HiveStop"] {
            let (code, hint) = failed(run(&queen, json!({look: {"hive_id": "gone"}})).await);
            assert_eq!(code, "secret_missing", "{look} with {left:?}");
            assert!(hint.contains("rbee-keeper hive add gone --url URL --secret-file FILE"));
        }
        assert_eq!(ear.shown(), Vec::<String>::new(), "{left:?}");

        add(&queen, &ear, ANOTHER).await;
        failed(run(&queen, json!({"HiveRefresh": {"hive_id": "gone"}})).await);
        let shown = ear.shown();
        assert!(!shown.is_empty(), "it is asked");
        assert!(shown.iter().all(|shown| *shown == format!("Bearer {ANOTHER}")), "{shown:?}");
        let kept = HiveSecrets::open(&secrets).unwrap().get(&"gone".parse().unwrap());
        assert_eq!(kept.unwrap().expose(), ANOTHER);
    }
}

/// Listens where a hive is said to be, and refuses everything.
struct Ear {
    url: String,
    shown: Arc<Mutex<Vec<String>>>,
    _server: DropGuard,
}

impl Ear {
    fn start() -> Self {
        let shown = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&shown);
        let hear = async move |headers: HeaderMap| {
            let secret =
                headers.get(AUTHORIZATION).map(|secret| secret.to_str().unwrap().to_owned());
            heard.lock().unwrap().extend(secret);
            axum::http::StatusCode::FORBIDDEN
        };
        let (address, server) = serve(axum::Router::new().fallback(hear), 0).unwrap();
        Self { url: format!("http://{address}"), shown, _server: server }
    }

    /// All that it was shown as `authorization`.
    fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap().clone()
    }
}

/// A report whose secret was looked at, and that has not come whole.
struct Held {
    connection: TcpStream,
    rest: Vec<u8>,
}

impl Held {
    async fn begin(queen: &Queen, path: &str, report: &Value) -> Self {
        let address = queen.url.trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).await.unwrap();
        let mut rest = report.to_string().into_bytes();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {SECRET}\r\n\
             expect: 100-continue\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            rest.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // Who asks for the body has let the report in.
        let mut told = Vec::new();
        while !told.ends_with(b"\r\n\r\n") {
            let read = connection.read_buf(&mut told).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&told));
        }
        assert!(told.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&told));
        let first: Vec<u8> = rest.drain(..5).collect();
        connection.write_all(&first).await.unwrap();
        Self { connection, rest }
    }

    /// Sends the rest; gives the answer.
    async fn end(mut self) -> String {
        self.connection.write_all(&self.rest).await.unwrap();
        let mut answer = String::new();
        self.connection.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn add(queen: &Queen, ear: &Ear, secret: &str) {
    let add = json!({"hive_id": "gone", "url": ear.url, "secret": secret});
    succeeded(&run(queen, json!({"HiveAdd": add})).await);
}

fn remove() -> Value {
    json!({"HiveRemove": {"hive_id": "gone"}})
}

async fn run(queen: &Queen, operation: Value) -> JobEnd {
    let operation: Operation = serde_json::from_value(operation).unwrap();
    JobClient::new(&queen.url, None).run(&operation, |_| {}).await.unwrap()
}

fn succeeded(end: &JobEnd) {
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
}

/// The code and the hint of a failure.
fn failed(end: JobEnd) -> (String, String) {
    let JobEnd::Failed(last) = end else { panic!("{end:?}") };
    (last.code.unwrap_or_default(), last.hint.unwrap_or_default())
}
