//! A queen in this process, with a home of her own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use access_tokens::{Authenticator, Secret, local_secret};
use queen_rbee::{App, Settings};
use rbee_config::{Config, Paths};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{HiveHeartbeat, WorkerHeartbeat};

use super::{Reply, Stream};

/// How long what is under way has when she ends.
const DRAIN: Duration = Duration::from_secs(10);

/// A running queen. Dropping it ends her abruptly.
pub(crate) struct Queen {
    pub(crate) url: String,
    http: Client,
    secret: Secret,
    server: Option<JoinHandle<()>>,
    stop: CancellationToken,
    home: Home,
}

/// A queen's files, which outlive her.
#[derive(Clone)]
pub(crate) struct Home(Arc<TempDir>);

impl Home {
    pub(crate) fn new() -> Self {
        Self(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Queen {
    pub(crate) async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    pub(crate) async fn configured(configure: impl FnOnce(&mut Config)) -> Self {
        Self::at(&Home::new(), configure).await
    }

    /// A queen with files that were there before.
    pub(crate) async fn at(home: &Home, configure: impl FnOnce(&mut Config)) -> Self {
        let paths = Paths::under(home.path());
        paths.create_all().unwrap();
        let mut config = Config::default();
        configure(&mut config);
        let (listener, address): (_, SocketAddr) =
            daemon_http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let stop = CancellationToken::new();
        let auth = Authenticator::from_store(&paths.secrets).unwrap();
        let secret = local_secret(&paths.secrets).unwrap();
        let settings = Settings {
            paths,
            config,
            address,
            auth,
            stop: stop.clone(),
            reports: tokio::runtime::Handle::current(),
            with_local_hive: false,
        };
        let app = App::start(settings).await.unwrap();
        let serve = daemon_http::serve(listener, app.routes(), stop.clone(), DRAIN);
        let told = stop.clone();
        let server = TaskTracker::new().spawn(async move {
            let draining = async {
                told.cancelled().await;
                app.end_jobs(DRAIN).await;
            };
            tokio::join!(serve, draining);
            app.shutdown().await;
        });
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let url = format!("http://{address}");
        Self { url, http, secret, server: Some(server), stop, home: home.clone() }
    }

    /// Ends her, and waits for that.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.ended().await;
    }

    /// Waits until she has ended by herself.
    pub(crate) async fn ended(&mut self) {
        self.server.take().unwrap().await.unwrap();
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    /// Where the operator's rules are.
    pub(crate) fn rules_file(&self) -> PathBuf {
        self.home.path().join("scheduler.rhai")
    }

    /// Her secrets.
    pub(crate) fn secrets(&self) -> PathBuf {
        Paths::under(self.home.path()).secrets
    }

    /// A report, as rbee's own processes send it.
    pub(crate) fn report(&self, path: &str) -> RequestBuilder {
        self.post(path).bearer_auth(self.secret.expose())
    }

    /// Sends a body and reads the whole answer.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Reply {
        Reply::read(self.post(path).json(body)).await
    }

    /// Sends a body, with `stream`, and reads the answer piece by piece.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Stream {
        let mut body = body.clone();
        body["stream"] = Value::Bool(true);
        Stream::open(self.post(path).json(&body)).await
    }

    pub(crate) async fn status(&self) -> Value {
        Reply::read(self.get("/v1/status")).await.json()
    }

    pub(crate) async fn worker_beat(&self, beat: &WorkerHeartbeat) {
        let answer = self.report("/v1/worker-heartbeat").json(beat).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }

    pub(crate) async fn hive_beat(&self, beat: &HiveHeartbeat) {
        let answer = self.report("/v1/hive-heartbeat").json(beat).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }

    /// Requests that run on a worker.
    pub(crate) async fn in_flight(&self, worker: &str) -> u64 {
        let status = self.status().await;
        let workers = status["workers"].as_array().unwrap();
        let found = workers.iter().find(|w| w["worker_id"] == worker).expect("a known worker");
        found["in_flight"].as_u64().unwrap()
    }
}

impl Drop for Queen {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}
