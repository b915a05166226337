//! Whether the queen is there, how she was built, and her end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use daemon_http::{ApiError, keeps_workers};
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

/// With `?workers=keep` the workers of a hive that is part of the queen go on without her. Those of other hives
/// always do.
pub(super) async fn shutdown(
    State(facts): State<Arc<Facts>>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Stopping>), ApiError> {
    let keeps_workers = keeps_workers(query.as_deref())?;
    tracing::info!(keeps_workers, "asked to shut down");
    if keeps_workers {
        facts.keeps_workers.store(true, Ordering::Relaxed);
    }
    facts.stop.cancel();
    Ok((StatusCode::ACCEPTED, Json(Stopping { state: "stopping" })))
}
