//! Whether the queen is there, how she was built, and her end.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use daemon_lifecycle::BuildInfo;
use job_server::JobRegistry;
use serde::Serialize;

use super::router::Facts;
use crate::decisions::Decisions;

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    /// Left out where they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<&'static str>,
}

/// Needs no token and touches nothing; why records are not kept is told to those who have one.
pub(super) async fn health(
    State(jobs): State<JobRegistry>,
    State(decisions): State<Decisions>,
) -> Json<Health> {
    let records = records_trouble(&jobs, &decisions).map(|_| "not kept");
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION"), records })
}

/// Why jobs or decisions cannot be recorded at present.
pub(super) fn records_trouble(jobs: &JobRegistry, decisions: &Decisions) -> Option<String> {
    jobs.records_trouble().or_else(|| decisions.trouble())
}

pub(super) async fn build_info(State(facts): State<Arc<Facts>>) -> Json<BuildInfo> {
    Json(facts.build.clone())
}

#[derive(Serialize)]
pub(super) struct Stopping {
    state: &'static str,
}

pub(super) async fn shutdown(State(facts): State<Arc<Facts>>) -> (StatusCode, Json<Stopping>) {
    tracing::info!("asked to shut down");
    facts.stop.cancel();
    (StatusCode::ACCEPTED, Json(Stopping { state: "stopping" }))
}
