//! The binary: what `rbee-hive` does as a process.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{
    SOON, delete_worker, hive_target, import, kill_workers_left, spawn, worker_logs,
};
use access_tokens::TokenStore;
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use rbee_operations::{ModelDownload, Operation};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_cluster::{
    Api, Binaries, ModelHub, Signal, demo_model, is_alive, run_unread, send_signal, wait_until,
};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use worker_contract::{HiveHeartbeat, ModelEntry, SupervisedState, SupervisedWorker};

#[tokio::test]
async fn a_model_is_imported_and_served_over_http_and_sigterm_leaves_no_process() {
    let mut daemon = Daemon::start().await;
    let api = daemon.api();
    let health = api.get("/health").await.unwrap();
    assert_eq!(health.json().unwrap()["status"], "ok");

    let file = demo_model().unwrap();
    let run = api.run_job(&import(&file, Some("m"))).await.unwrap();
    let told = run.events.iter().filter_map(|(_, event)| event.progress()).next_back();
    let told = told.expect("an import tells of its progress");
    assert_eq!((told.done, told.unit.as_str()), (98_362_432, "bytes"));
    let model: ModelEntry = run.result().unwrap();
    let worker: SupervisedWorker = api.run_job(&spawn("m")).await.unwrap().result().unwrap();

    let capabilities = api.get("/v1/capabilities").await.unwrap().json().unwrap();
    assert_eq!(capabilities["catalog"][0]["sha256"], model.sha256.as_hex());
    assert_eq!(capabilities["workers"][0]["state"], "ready");
    assert_eq!(capabilities["devices"][0]["id"], "CPU-0");
    let status = api.run_job(&Operation::HiveStatus(hive_target())).await.unwrap();
    let status: HiveHeartbeat = status.result().unwrap();
    assert_eq!(status.address.as_deref(), Some(daemon.address.as_str()));

    let metrics = api.get("/metrics").await.unwrap().text;
    for line in [
        "rbee_hive_workers{state=\"ready\"} 1",
        "rbee_hive_worker_restarts_total 0",
        "rbee_hive_catalog_models 1",
        "rbee_hive_catalog_bytes 98362432",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    for begin in ["rbee_hive_device_memory_bytes{device=\"CPU-0\"} ", "rbee_hive_disk_free_bytes "]
    {
        assert!(metrics.lines().any(|l| l.starts_with(begin)), "{begin} is not in\n{metrics}");
    }

    daemon.signal(Signal::TERM);
    assert!(daemon.end().await.success());
    assert!(!is_alive(worker.pid));
    assert!(!daemon.run_file("rbee-hive.addr").exists(), "run files are gone");
}

#[tokio::test]
async fn the_log_of_a_running_hive_is_put_aside_when_it_is_full() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("config.toml"), "[hive]\nbind = \"127.0.0.1:0\"\n").unwrap();
    let log = home.path().join("run/logs/rbee-hive.log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    let writer = fs::File::options().create(true).append(true).open(&log).unwrap();
    let mut hive = command(home.path(), &[]).stderr(writer).spawn().unwrap();
    let says = |text: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
    let missing = "the hive's first lines";
    wait_until(missing, SOON, async || says("hive listens").then_some(())).await.unwrap();

    fs::File::options().write(true).open(&log).unwrap().set_len(11 << 20).unwrap();
    let is_short = async || (fs::metadata(&log).ok()?.len() < 1 << 20).then_some(());
    wait_until("a log that begins anew", SOON, is_short).await.unwrap();
    let aside = fs::read(log.with_extension("log.1")).unwrap();
    assert!(aside.len() >= 11 << 20);
    assert!(String::from_utf8_lossy(&aside).contains("hive listens"));

    send_signal(hive.id().unwrap(), Signal::TERM);
    assert!(hive.wait().await.unwrap().success());
    assert!(says("hive stopped"), "it writes on");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_neither_answers_nor_the_end() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("config.toml"), "[hive]\nbind = \"127.0.0.1:0\"\n").unwrap();
    let file = home.path().join("run/rbee-hive.addr");
    let address = || Some(format!("http://{}", fs::read_to_string(&file).ok()?.trim()));
    run_unread(command(home.path(), &[]), address).await.unwrap();
}

#[tokio::test]
async fn a_hive_that_is_replaced_leaves_its_worker_and_shows_its_log_on() {
    let mut daemon = Daemon::start().await;
    daemon.api().run_job(&import(&demo_model().unwrap(), Some("m"))).await.unwrap();
    let worker: SupervisedWorker =
        daemon.api().run_job(&spawn("m")).await.unwrap().result().unwrap();
    let odd = daemon.api().post("/v1/shutdown?workers=maybe", &json!({})).await.unwrap();
    assert_eq!(odd.status, 400);
    let asked = daemon.api().post("/v1/shutdown?workers=keep", &json!({})).await.unwrap();
    assert_eq!(asked.status, 202);
    assert!(daemon.end().await.success());
    assert!(is_alive(worker.pid));

    daemon.start_again().await;
    let api = daemon.api();
    let capabilities = api.get("/v1/capabilities").await.unwrap().json().unwrap();
    assert_eq!(capabilities["workers"][0]["pid"], worker.pid);
    let lines = logged(&api, &worker_logs(&worker.worker_id, 1000)).await;
    assert!(lines.iter().any(|line| line.contains("the model is loaded")), "{lines:?}");
    let last = logged(&api, &worker_logs(&worker.worker_id, 1)).await;
    assert_eq!(last, lines[lines.len() - 1..]);

    send_signal(worker.pid, Signal::KILL);
    let next = wait_until("another process", SOON, async || {
        let answer = api.get("/v1/capabilities").await.ok()?.json().ok()?;
        let next: SupervisedWorker = serde_json::from_value(answer["workers"][0].clone()).ok()?;
        (next.pid != worker.pid && next.state == SupervisedState::Ready).then_some(next)
    });
    let next = next.await.unwrap();
    let metrics = api.get("/metrics").await.unwrap().text;
    assert!(metrics.contains("rbee_hive_worker_restarts_total 1\n"), "{metrics}");
    let both = logged(&api, &worker_logs(&worker.worker_id, 1000)).await;
    assert!(both.starts_with(&lines) && both.len() > lines.len(), "both processes are in the log");

    let Operation::WorkerLogs(mut follow) = worker_logs(&worker.worker_id, 0) else {
        unreachable!("it is what the function makes");
    };
    follow.follow = true;
    let follow = Operation::WorkerLogs(follow);
    let deleting = async {
        let begun = async || {
            let jobs = api.get("/v1/jobs?all=true").await.ok()?.text;
            (jobs.contains("worker_logs") && jobs.contains("running")).then_some(())
        };
        wait_until("a job that follows the log", SOON, begun).await.unwrap();
        api.run_job(&delete_worker(&worker.worker_id)).await.unwrap();
    };
    let (followed, ()) = tokio::join!(logged(&api, &follow), deleting);
    assert!(followed.iter().any(|line| line.contains("draining")), "{followed:?}");
    assert!(!is_alive(next.pid));

    daemon.signal(Signal::TERM);
    assert!(daemon.end().await.success());
}

/// The lines that a job shows.
async fn logged(api: &Api, operation: &Operation) -> Vec<String> {
    let run = api.run_job(operation).await.unwrap();
    let shown = run.events.iter().filter(|(_, event)| event.event == "log");
    shown.flat_map(|(_, event)| event.message.lines().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_hive_that_is_killed_and_started_again_has_the_same_worker() {
    let mut daemon = Daemon::start().await;
    daemon.api().run_job(&import(&demo_model().unwrap(), Some("m"))).await.unwrap();
    let worker: SupervisedWorker =
        daemon.api().run_job(&spawn("m")).await.unwrap().result().unwrap();
    daemon.signal(Signal::KILL);
    daemon.end().await;
    assert!(is_alive(worker.pid), "a worker outlives its hive");

    daemon.start_again().await;
    let capabilities = daemon.api().get("/v1/capabilities").await.unwrap().json().unwrap();
    let workers: Vec<SupervisedWorker> =
        serde_json::from_value(capabilities["workers"].clone()).unwrap();
    assert_eq!(workers, std::slice::from_ref(&worker));

    let asked = daemon.api().post("/v1/shutdown", &json!({})).await.unwrap();
    assert_eq!(asked.status, 202);
    assert!(daemon.end().await.success());
    assert!(!is_alive(worker.pid));
}

#[tokio::test]
async fn a_download_that_a_killed_hive_left_goes_on_by_itself() {
    let hub = ModelHub::start().await.unwrap();
    let bytes = fs::read(demo_model().unwrap()).unwrap();
    let size = bytes.len() as u64;
    hub.put("SmolLM2-135M-Instruct.Q4_1.gguf", bytes);
    hub.faults().slow = Some(32 << 10);
    let keys = format!("hf_endpoint = {:?}", hub.address);
    let mut daemon = Daemon::start_configured(&[], &keys).await;
    let download = Operation::ModelDownload(ModelDownload {
        hive_id: worker_contract::HiveAlias::localhost(),
        reference: "hf:me/smol".parse().unwrap(),
        alias: Some("m".parse().unwrap()),
        projector: rbee_operations::ProjectorChoice::Usual,
    });
    let body = json!({ "operation": download });
    assert!(daemon.api().post("/v1/jobs", &body).await.unwrap().status < 300);
    let partial = daemon.home.path().join("models/partial");
    let noted = async || {
        let files = fs::read_dir(&partial).ok()?.flatten();
        let mut notes =
            files.map(|file| file.path()).filter(|p| p.extension() == Some("json".as_ref()));
        let note: Value = serde_json::from_slice(&fs::read(notes.next()?).ok()?).ok()?;
        (!note["done"].as_array()?.is_empty()).then_some(())
    };
    wait_until("a note of what is there", SOON, noted).await.unwrap();
    // In whatever way a hive ends: killed, then told to.
    for signal in [Signal::KILL, Signal::TERM] {
        daemon.signal(signal);
        daemon.end().await;
        assert!(hub.sent() < size, "it ended in the middle");
        if signal == Signal::TERM {
            hub.faults().slow = None;
        }
        daemon.start_again().await;
        let jobs = daemon.jobs().await;
        assert_eq!((jobs.len(), &jobs[0]["caller"]), (1, &json!("hive")), "{jobs:?}");
        assert_eq!(jobs[0]["operation"], "model_download");
    }
    let before = hub.sent();
    let ended = async || (daemon.jobs().await[0]["state"] == "succeeded").then_some(());
    wait_until("the end of the download", SOON, ended).await.unwrap();
    let model: ModelEntry = daemon.api().run_job(&download).await.unwrap().result().unwrap();
    assert_eq!(model.gguf.size_bytes, size);
    assert!(hub.sent() - before < size, "it went on with what was there");
    let worker: SupervisedWorker =
        daemon.api().run_job(&spawn("m")).await.unwrap().result().unwrap();
    assert_eq!(worker.state, SupervisedState::Ready);
    daemon.signal(Signal::KILL);
    daemon.end().await;
    daemon.start_again().await;
    assert_eq!(daemon.jobs().await, [Value::Null; 0], "it has ended");
}

#[tokio::test]
async fn a_download_that_somebody_cancelled_stays_so() {
    let hub = ModelHub::start().await.unwrap();
    hub.put("m.gguf", fs::read(demo_model().unwrap()).unwrap());
    hub.faults().slow = Some(128 << 10);
    let keys = format!("hf_endpoint = {:?}", hub.address);
    let mut daemon = Daemon::start_configured(&[], &keys).await;
    let body = json!({ "operation": { "ModelDownload": { "reference": "hf:me/m" } } });
    let job = daemon.api().post("/v1/jobs", &body).await.unwrap().json().unwrap();
    let begun = async || (hub.sent() > 0).then_some(());
    wait_until("its first bytes", SOON, begun).await.unwrap();
    let path = format!("/v1/jobs/{}", job["job_id"].as_str().unwrap());
    daemon.api().delete(&path).await.unwrap();
    let ended = async || (daemon.jobs().await[0]["state"] == "cancelled").then_some(());
    wait_until("its end", SOON, ended).await.unwrap();
    daemon.signal(Signal::KILL);
    daemon.end().await;
    daemon.start_again().await;
    assert_eq!(daemon.jobs().await, [Value::Null; 0]);
}

#[tokio::test]
async fn the_queen_hears_of_each_change_and_is_told_where_the_hive_is() {
    let queen = DeafQueen::start().await;
    let daemon = Daemon::start_with(&["--queen", &queen.address, "--alias", "gpu-1"]).await;
    let first = queen.heartbeat(|_| true).await;
    let secret = fs::read_to_string(daemon.home.path().join("data/secrets/local.token")).unwrap();
    assert_eq!(*queen.bearer.borrow(), format!("Bearer {}", secret.trim()));
    assert_eq!(first.hive_id.as_str(), "gpu-1");
    assert_eq!(first.address.as_deref(), Some(daemon.address.as_str()));
    daemon.api().run_job(&import(&demo_model().unwrap(), Some("m"))).await.unwrap();
    queen.heartbeat(|heartbeat| heartbeat.catalog.len() == 1).await;
    let worker: SupervisedWorker =
        daemon.api().run_job(&spawn("m")).await.unwrap().result().unwrap();
    queen
        .heartbeat(|heartbeat| {
            heartbeat.workers.iter().any(|worker| worker.state == SupervisedState::Ready)
        })
        .await;
    daemon.signal(Signal::TERM);
    queen.heartbeat(|heartbeat| heartbeat.workers.is_empty() && heartbeat.catalog.len() == 1).await;
    wait_until("the worker's end", SOON, async || (!is_alive(worker.pid)).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_requests_have_the_right_status_and_an_error_object() {
    let daemon = Daemon::start().await;
    // After a refused body the server closes the connection: none is used twice.
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let jobs = format!("{}/v1/jobs", daemon.address);
    let large = json!({"operation": {"ModelList": {"hive_id": "x".repeat(2 << 20)}}}).to_string();
    for (body, expected) in [
        ("{", 400),
        (r#"{"operation":{"WorkerSpwan":{}}}"#, 400),
        (r#"{"operation":{"WorkerSpawn":{"model":"../m"}}}"#, 400),
        (r#"{"operation":{"ModelDownload":{"reference":"hf:../../etc"}}}"#, 400),
        (r#"{"operation":{"ModelDownload":{"reference":"file:/a/../b"}}}"#, 400),
        (r#"{"operation":{"ModelDownload":{"reference":"https://h/a\u0000.gguf"}}}"#, 400),
        (r#"{"operation":{"WorkerSpawn":{"model":"m","slots":-1}}}"#, 400),
        (large.as_str(), 413),
    ] {
        let request = client.post(&jobs).header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let shown: String = body.chars().take(60).collect();
        assert_eq!(answer.status().as_u16(), expected, "{shown}");
        let error: Value = answer.json().await.unwrap();
        assert!(error["error"]["message"].is_string(), "{shown}: {error}");
    }
    let unknown = client.get(format!("{}/v1/nothing", daemon.address)).send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn with_a_token_only_health_is_open() {
    let daemon = Daemon::start().await;
    let secrets = daemon.home.path().join("data/secrets");
    let token = TokenStore::open(&secrets).create("test").unwrap();
    let local = fs::read_to_string(secrets.join("local.token")).unwrap();
    for (bearer, route, expected) in [
        (None, "/health", 200),
        (None, "/v1/capabilities", 401),
        (Some("rbee_wrong"), "/v1/jobs", 401),
        (Some(token.secret.expose()), "/v1/capabilities", 200),
        (Some(local.trim()), "/v1/jobs", 200),
    ] {
        let answer = Api::new(&daemon.address, bearer).unwrap().get(route).await.unwrap();
        assert_eq!(answer.status, expected, "{route} {bearer:?}");
    }
}

#[tokio::test]
async fn two_hives_in_one_home_are_refused() {
    let daemon = Daemon::start().await;
    let second = daemon.command(&[]).output().await.unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("runs already"), "{words}");
}

#[tokio::test]
async fn a_hive_that_others_can_reach_demands_its_secret_without_any_token() {
    let daemon = Daemon::start_with(&["--bind", "0.0.0.0:0", "--advertise", "127.0.0.1"]).await;
    let port = daemon.address.rsplit_once(':').unwrap().1;
    let address = format!("http://127.0.0.1:{port}");
    let secret = daemon.home.path().join("data/secrets/local.token");
    let secret = fs::read_to_string(secret).unwrap();
    for (bearer, expected) in [(None, 401), (Some("rbee_wrong"), 401), (Some(secret.trim()), 200)] {
        let answer = Api::new(&address, bearer).unwrap().get("/v1/capabilities").await.unwrap();
        assert_eq!(answer.status, expected, "{bearer:?}");
    }
}

struct Daemon {
    address: String,
    child: Child,
    flags: Vec<String>,
    home: TempDir,
}

impl Daemon {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(flags: &[&str]) -> Self {
        Self::start_configured(flags, "").await
    }

    /// With further keys of the section `[hive]`.
    async fn start_configured(flags: &[&str], hive_keys: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "[queen]\nbind = \"127.0.0.1:0\"\n\n[hive]\nbind = \"127.0.0.1:0\"\nworker_ports = \"0\"\nstop_grace_s = 5\n\
                      {hive_keys}\n[worker]\nctx_size = 512\nthreads = 1\n"
        );
        fs::write(home.path().join("config.toml"), config).unwrap();
        let child = command(home.path(), flags).spawn().unwrap();
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut daemon = Self { address: String::new(), child, flags, home };
        daemon.wait_healthy().await;
        daemon
    }

    async fn start_again(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.child = command(self.home.path(), &flags).spawn().unwrap();
        self.wait_healthy().await;
    }

    async fn wait_healthy(&mut self) {
        let file = self.run_file("rbee-hive.addr");
        let healthy = wait_until("a healthy hive", SOON, async || {
            let address = format!("http://{}", fs::read_to_string(&file).ok()?.trim());
            let answer = Api::new(&address, None).ok()?.get("/health").await.ok()?;
            (answer.status == 200).then_some(address)
        });
        self.address = healthy.await.unwrap();
    }

    fn api(&self) -> Api {
        Api::new(&self.address, None).unwrap()
    }

    async fn jobs(&self) -> Vec<Value> {
        let answer = self.api().get("/v1/jobs").await.unwrap().json().unwrap();
        answer["jobs"].as_array().unwrap().clone()
    }

    fn command(&self, flags: &[&str]) -> Command {
        command(self.home.path(), flags)
    }

    fn run_file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("run").join(name)
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.child.id().expect("it was not waited for"), signal);
    }

    async fn end(&mut self) -> std::process::ExitStatus {
        let patience = SOON + Duration::from_secs(10);
        tokio::time::timeout(patience, self.child.wait()).await.expect("it ends").unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill_workers_left(self.home.path());
    }
}

fn command(home: &Path, flags: &[&str]) -> Command {
    let worker = Binaries::find().and_then(|found| found.get("llm-worker-rbee")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command
        .args(flags)
        .env("RBEE_HOME", home)
        .env("RBEE_BIN_DIR", worker.parent().unwrap())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Takes heartbeats and does nothing else.
struct DeafQueen {
    address: String,
    heard: watch::Receiver<Vec<HiveHeartbeat>>,
    bearer: watch::Receiver<String>,
    _server: tokio::task::JoinSet<()>,
}

impl DeafQueen {
    async fn start() -> Self {
        let (sender, heard) = watch::channel(Vec::new());
        let (authorization, bearer) = watch::channel(String::new());
        let take = async move |headers: HeaderMap, Json(heartbeat): Json<HiveHeartbeat>| {
            authorization.send_replace(headers["authorization"].to_str().unwrap().to_owned());
            sender.send_modify(|heard: &mut Vec<_>| heard.push(heartbeat));
            StatusCode::NO_CONTENT
        };
        let routes = axum::Router::new()
            .route("/v1/hive-heartbeat", axum::routing::post(take))
            .route("/v1/worker-heartbeat", axum::routing::post(async || StatusCode::NO_CONTENT));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, heard, bearer, _server: server }
    }

    async fn heartbeat(&self, wanted: impl Fn(&HiveHeartbeat) -> bool) -> HiveHeartbeat {
        let heard = self.heard.clone();
        let looking = async || heard.borrow().iter().rev().find(|h| wanted(h)).cloned();
        wait_until("such a heartbeat", SOON, looking).await.unwrap()
    }
}
