//! The HTTP side of a queen, made of the same crates as the real one, whose jobs follow a script.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access_tokens::{Authenticator, Secret};
use axum::extract::{Path, Query, RawQuery};
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon_http::{ApiError, Edge, bind, edge, serve};
use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Limits, Outcome, routes};
use rbee_operations::{Infer, Listed, Operation, Progress};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For how long who follows a job that has ended may take to read that.
const DRAIN: Duration = Duration::from_secs(5);

type Shutdowns = Arc<Mutex<Vec<String>>>;

/// A queen that is up until it is dropped.
pub(crate) struct TestQueen {
    pub(crate) url: String,
    pub(crate) jobs: JobRegistry,
    /// The queries of the calls that asked her to end.
    pub(crate) shutdowns: Shutdowns,
    /// One permit for each download of `hf:o/slow` that may end.
    pub(crate) slow: Arc<Semaphore>,
    stop: CancellationToken,
    server: JoinSet<()>,
}

impl TestQueen {
    /// A queen of this version that demands no token.
    pub(crate) fn start() -> Self {
        Self::with(env!("CARGO_PKG_VERSION"), "queen-rbee", &[], Authenticator::open())
    }

    pub(crate) fn of_version(version: &str) -> Self {
        Self::with(version, "queen-rbee", &[], Authenticator::open())
    }

    /// Another daemon of rbee.
    pub(crate) fn named(name: &str) -> Self {
        Self::with(env!("CARGO_PKG_VERSION"), name, &[], Authenticator::open())
    }

    pub(crate) fn with_token(secret: &str) -> Self {
        let auth = Authenticator::fixed(Secret::from(secret.to_owned()));
        Self::with(env!("CARGO_PKG_VERSION"), "queen-rbee", &[], auth)
    }

    /// One with these features, who lets nobody in without a secret that is in this folder.
    pub(crate) fn with_features(features: &[&str], secrets: &std::path::Path) -> Self {
        let auth = Authenticator::from_store(secrets).unwrap().demanding();
        Self::with(env!("CARGO_PKG_VERSION"), "queen-rbee", features, auth)
    }

    fn with(version: &str, name: &str, features: &[&str], auth: Authenticator) -> Self {
        let bound = bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self::at(bound, version, name, features, auth)
    }

    /// The next life of a queen that has ended, at the same address.
    pub(crate) async fn again(url: &str) -> Self {
        let address = url.trim_start_matches("http://").parse().unwrap();
        // A command that another test is about to start has her listener as well, for a moment.
        let bound = loop {
            match bind(address) {
                Ok(bound) => break bound,
                Err(_taken) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        Self::at(bound, env!("CARGO_PKG_VERSION"), "queen-rbee", &[], Authenticator::open())
    }

    fn at(
        (listener, address): (TcpListener, SocketAddr),
        version: &str,
        name: &str,
        features: &[&str],
        auth: Authenticator,
    ) -> Self {
        let slow = Arc::new(Semaphore::new(0));
        let script = Arc::new(Script { slow: Arc::clone(&slow) });
        let jobs = JobRegistry::in_memory(Limits::default());
        let build = json!({ "name": name, "version": version, "features": features });
        let shutdowns = Shutdowns::default();
        let asked = Arc::clone(&shutdowns);
        let routes = Router::new()
            .route("/v1/build-info", get(move || async { Json(build) }))
            .route("/v1/models", get(|| async { Json(models()) }))
            .route("/v1/models/{id}", get(one_model))
            .route("/v1/status", get(|| async { Json(status()) }))
            .route("/v1/decisions", get(decisions))
            .route("/v1/policy/test", post(policy_test))
            .route("/v1/shutdown", post(|query| async move { shutdown(&asked, query) }))
            .merge(routes(jobs.clone(), script, auth.clone()));
        let routes = edge(routes, Edge { auth, max_body_bytes: 10 << 20 });
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, routes, stop.clone(), DRAIN));
        Self { url: format!("http://{address}"), jobs, shutdowns, slow, stop, server }
    }
}

impl TestQueen {
    /// Ends her as an orderly end does: who follows a job is told before she is gone.
    pub(crate) async fn end(mut self) {
        self.jobs.shutdown(Duration::ZERO).await;
        self.stop.cancel();
        while self.server.join_next().await.is_some() {}
    }
}

impl Drop for TestQueen {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn shutdown(asked: &Mutex<Vec<String>>, RawQuery(query): RawQuery) -> Json<Value> {
    asked.lock().unwrap().push(query.unwrap_or_default());
    Json(json!({ "state": "stopping" }))
}

pub(crate) fn worker() -> Value {
    json!({
        "worker_id": "w-1a2b3c4d", "hive_id": "localhost", "model": "smollm2-135m",
        "device": "CPU-0", "address": "http://127.0.0.1:9300", "port": 9300, "pid": 4242,
        "started_at": 1_700_000_000, "state": "ready",
    })
}

pub(crate) fn model() -> Value {
    json!({
        "alias": "smollm2-135m", "sha256": "b".repeat(64), "source": "file:/models/m.gguf",
        "added_at": 1_700_000_000, "architecture": "llama", "quantization": "Q4_1",
        "parameters": 134_515_008, "context_length": 8192, "has_chat_template": true,
        "size_bytes": 98_362_432,
    })
}

pub(crate) fn hive() -> Value {
    json!({
        "hive_id": "localhost", "address": "http://127.0.0.1:9000", "version": "0.1.0",
        "devices": [{
            "id": "CPU-0", "backend": "CPU", "name": "a processor",
            "memory_total_bytes": 16_000_000_000_u64, "memory_free_bytes": 8_000_000_000_u64,
        }],
        "catalog": [model()], "workers": [worker()], "liveness": "alive",
    })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "features": ["local-hive"], "uptime_s": 7860,
        "address": "http://127.0.0.1:8500", "hives": [hive()], "models": [], "jobs_running": 1,
        "workers": [{
            "worker_id": "w-1a2b3c4d", "hive_id": "localhost", "address": "http://127.0.0.1:9300",
            "model": { "name": "smollm2-135m", "digest": null, "context_length": 2048 },
            "device": "CPU-0", "state": "ready", "slots": { "total": 4, "busy": 1 }, "queued": 0,
            "kv_cache": { "used_tokens": 100, "capacity_tokens": 1000 },
            "tokens_per_second": 61.25, "engine_build": "llama.cpp", "pid": 4242,
            "in_flight": 1, "last_seen_ms": 20, "liveness": "alive",
        }],
    })
}

fn models() -> Value {
    json!({ "object": "list", "data": [{ "id": "smollm2-135m", "object": "model" }] })
}

/// The model of a server, by its name there.
async fn one_model(Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    match name.as_str() {
        "org/Model-8B" => Ok(Json(json!({ "id": "org-Model-8B", "object": "model" }))),
        _ => Err(ApiError::not_found("model_not_found", format!("there is no model {name:?}"))),
    }
}

/// Two decisions about every request but `unknown`, the latest first.
async fn decisions(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let request = &query["request_id"];
    if request == "unknown" {
        return Json(json!({ "decisions": [] }));
    }
    let decision = |id: u64, kind: &str, why: &str| {
        json!({
            "id": id, "at": "2026-11-24T10:00:00.000Z", "kind": kind, "request_id": request,
            "model": "smollm2-135m", "reason": "x", "why": why,
        })
    };
    Json(json!({ "decisions": [
        decision(2, "dispatch", "w-1 is the only worker that can take it"),
        decision(1, "spawn", "no worker runs it; one is to be started on localhost"),
    ]}))
}

/// A place that a script allows if it says `true`; it fails if it says `throw`.
async fn policy_test(Json(body): Json<Value>) -> Json<Value> {
    let script = body["script"].as_str().unwrap();
    let allowed = script.contains("true");
    let error = script.contains("throw").then_some("it threw something (line 1)");
    Json(json!({ "models": [{
        "error": error,
        "model": body["model"], "priority": body["priority"],
        "places": [{
            "worker_id": null, "hive_id": "gpu-1", "device": "GPU-0", "expected_ms": 0,
            "allowed": allowed, "extra_ms": 250,
        }],
        "with_script": "one is to be started on gpu-1", "without_script": "it waits (room)",
    }]}))
}

/// What the jobs do.
struct Script {
    slow: Arc<Semaphore>,
}

impl Executor for Script {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let slow = Arc::clone(&self.slow);
        Box::pin(async move {
            match operation {
                Operation::Infer(infer) => answer(*infer, &job).await,
                Operation::WorkerList(_) => {
                    Ok(Outcome::new("1 worker", json!({ "workers": [worker()] })))
                }
                Operation::ListAll(list) => {
                    let workers = json!({ "workers": [worker()] });
                    let (models, unheard) = (json!([]), json!([]));
                    let downloads = json!([{
                        "hive_id": "nas", "reference": "hf:o/r", "bytes": 1_000_000, "total": null,
                    }]);
                    Ok(match list.of {
                        Listed::Workers => Outcome::new("1 workers", workers),
                        Listed::Models => {
                            Outcome::new("", json!({ "models": models, "unheard": unheard }))
                        }
                        Listed::Downloads => {
                            let away =
                                json!([{ "hive_id": "attic", "reason": "it does not report" }]);
                            let data =
                                json!({ "garbage": [], "downloads": downloads, "unheard": away });
                            Outcome::new("", data)
                        }
                    })
                }
                Operation::ModelDownloadCancel(cancel) => {
                    let message =
                        format!("{} is cancelled on {}", cancel.reference, cancel.hive_id);
                    Ok(Outcome::new(message, json!({})))
                }
                Operation::WorkerGet(_) => Ok(Outcome::new("Worker w-1a2b3c4d", worker())),
                Operation::WorkerSpawn(_) => {
                    job.say("Starting worker on CPU-0");
                    for done in 0..=100 {
                        let progress =
                            Progress { done, total: Some(100), unit: "percent".to_owned() };
                        job.progress("Loading", progress);
                    }
                    job.warn("The context is small");
                    Ok(Outcome::new("Worker w-1a2b3c4d is ready", worker()))
                }
                Operation::ModelDownload(download) => {
                    if download.reference.to_string() == "hf:o/slow" {
                        job.say("Looking for slow");
                        slow.acquire().await.unwrap().forget();
                    }
                    let bytes =
                        |done| Progress { done, total: Some(100), unit: "bytes".to_owned() };
                    job.progress("Downloading fetched", bytes(50));
                    job.progress("Downloading fetched", bytes(100));
                    let mut model = model();
                    model["alias"] = "fetched".into();
                    Ok(Outcome::new("Model fetched is in the catalog", model))
                }
                Operation::WorkerAttach(attach) => {
                    let knows_token = attach.token.as_deref() == Some("hush");
                    let data = json!({ "server": attach.name, "models": attach.models, "slots": attach.slots, "knows_token": knows_token });
                    Ok(Outcome::new("Server nas is attached", data))
                }
                Operation::ModelList(_) => Ok(Outcome::new("no models", json!({ "models": [] }))),
                Operation::ModelGet(_) => Ok(Outcome::new("smollm2-135m", model())),
                Operation::ModelVerify(_) => {
                    let data = json!({
                        "alias": "smollm2-135m", "pinned": "b".repeat(64),
                        "actual": "c".repeat(64), "matches": false,
                    });
                    Ok(Outcome::new("changed", data))
                }
                Operation::ModelUpdate(update) => Ok(Outcome::new(
                    "looked",
                    json!({
                        "alias": update.model, "source": "hf:o/r:Q8_0", "pinned": "b".repeat(64),
                        "offered": "c".repeat(64), "changed": true, "updated": update.accept.is_some(),
                        "projector": { "pinned": "d".repeat(64), "offered": "e".repeat(64) },
                    }),
                )),
                Operation::ModelProjectorSet(set) => {
                    let message = format!("{} sees with {}", set.model, set.projector);
                    Ok(Outcome::new(message, model()))
                }
                Operation::ModelPin(pin) => {
                    let mut model = model();
                    model["sha256"] = pin.accept.as_hex().into();
                    Ok(Outcome::new("Model smollm2-135m is pinned", model))
                }
                Operation::HiveList {} => Ok(Outcome::new("1 hive", json!({ "hives": [hive()] }))),
                Operation::HiveStatus(_) => Ok(Outcome::new("localhost", hive())),
                Operation::HiveStart(_) => {
                    Ok(Outcome::new("Hive localhost is ready", json!({ "hive_id": "localhost" })))
                }
                other => Err(JobError::new("unscripted", format!("no {} here", other.name()))
                    .hint("ask for something else")),
            }
        })
    }
}

async fn answer(infer: Infer, job: &JobContext) -> Result<Outcome, JobError> {
    let token = |text: &str| job.event("token", text, json!({ "text": text, "tokens": [1] }));
    job.say("Asking smollm2-135m");
    match infer.prompt.as_str() {
        "forever" => {
            token("It was");
            job.cancelled().cancelled().await;
            return Err(JobError::new("cancelled", "cancelled"));
        }
        "flood" => {
            while !job.cancelled().is_cancelled() {
                token(&"a long line\n".repeat(1000));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return Err(JobError::new("cancelled", "cancelled"));
        }
        "nothing" => {
            return Err(JobError::new("model_not_found", "there is no model \"x\"")
                .hint("rbee-keeper model list"));
        }
        prompt => {
            token(prompt);
            token(" – said");
            token(" the bee.\n\n");
        }
    }
    let data = json!({
        "finish_reason": "stop",
        "usage": { "prompt_tokens": 9, "completion_tokens": 42, "cached_tokens": 0 },
        "timings": { "queue_ms": 0.1, "prefill_ms": 30.0, "ttft_ms": 35.4, "decode_ms": 601.0 },
        "worker_id": "w-1a2b3c4d", "model": infer.model,
    });
    Ok(Outcome::new("done", data))
}
