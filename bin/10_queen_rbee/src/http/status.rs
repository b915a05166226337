//! `GET /v1/status`: all that the queen knows, on one page.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use job_server::JobRegistry;
use rbee_operations::AttachedServer;
use serde::Serialize;
use worker_contract::ModelAlias;

use super::health::records_trouble;
use super::router::Facts;
use crate::attached::Servers;
use crate::decisions::Decisions;
use crate::hive_client::HiveClients;
use crate::registry::{HiveReport, ModelReport, Registry, WorkerReport};
use crate::relay::Relay;

#[derive(Serialize)]
pub(super) struct Status {
    version: String,
    features: Vec<String>,
    uptime_s: u64,
    address: String,
    hives: Vec<HiveReport>,
    workers: Vec<WorkerReport>,
    models: Vec<Model>,
    /// Those that have no model, so that no worker tells of them; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attached_servers: Vec<AttachedServer>,
    /// Requests that wait for a worker.
    waiting: usize,
    jobs_running: usize,
    /// Why jobs or decisions are in memory only at present; left out where they are recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    records_trouble: Option<String>,
}

#[derive(Serialize)]
struct Model {
    id: ModelAlias,
    #[serde(flatten)]
    report: ModelReport,
}

pub(super) async fn status(
    State(facts): State<Arc<Facts>>,
    State(registry): State<Registry>,
    State(relay): State<Relay>,
    State(jobs): State<JobRegistry>,
    State(decisions): State<Decisions>,
    State(hives): State<HiveClients>,
    State(servers): State<Servers>,
) -> Json<Status> {
    let now = Instant::now();
    let models = registry.models(now).into_iter().map(|(id, report)| Model { id, report });
    Json(Status {
        version: facts.build.version.clone(),
        features: facts.build.features.clone(),
        uptime_s: now.saturating_duration_since(facts.began).as_secs(),
        address: facts.address.clone(),
        hives: hives.all(now),
        workers: registry.workers(now),
        models: models.collect(),
        attached_servers: servers.without_models(),
        waiting: relay.waiting(),
        jobs_running: jobs.running(),
        records_trouble: records_trouble(&jobs, &decisions),
    })
}
