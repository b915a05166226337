//! The hive's HTTP API: all its routes on one page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon_lifecycle::BuildInfo;
use job_server::JobRegistry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Hive;

/// The routes. Who may use them is the business of the HTTP edge around them.
///
/// `POST /v1/shutdown` cancels `stop`; what ends then is the caller's business.
pub fn router(hive: &Hive, jobs: JobRegistry, build: BuildInfo, stop: CancellationToken) -> Router {
    let shutdown = move || {
        tracing::info!("asked to shut down");
        stop.cancel();
        std::future::ready((StatusCode::ACCEPTED, Json(json!({ "state": "stopping" }))))
    };
    Router::new()
        .route("/health", get(health))
        .route("/v1/build-info", get(async || Json(build)))
        .route("/v1/capabilities", get(capabilities))
        .route("/v1/shutdown", post(shutdown))
        .with_state(hive.clone())
        .merge(job_server::routes(jobs, Arc::new(hive.clone())))
}

async fn health(State(hive): State<Hive>) -> Json<Value> {
    Json(json!({ "status": "ok", "hive_id": hive.alias() }))
}

async fn capabilities(State(hive): State<Hive>) -> Json<Value> {
    Json(json!({
        "devices": hive.devices(),
        "catalog": hive.models(),
        "workers": hive.workers(),
    }))
}
