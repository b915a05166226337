//! The hive's HTTP API: all its routes on one page.

mod files;

use std::sync::Arc;

use access_tokens::Authenticator;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon_http::{ApiError, keeps_workers};
use daemon_lifecycle::BuildInfo;
use job_server::JobRegistry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use self::files::{MODEL_FILE_ROUTE, is_model_file, model_file, model_files};
use crate::Hive;

/// The routes. Who may use them is the business of the HTTP edge around them, and whether somebody still may who reads a
/// stream is asked of the `auth` of that edge.
///
/// `POST /v1/shutdown` cancels `stop`; what ends then is the caller's business. With `?workers=keep`
/// the workers are left to the next hive, as for an upgrade.
pub fn router(
    hive: &Hive,
    jobs: JobRegistry,
    auth: Authenticator,
    build: BuildInfo,
    stop: CancellationToken,
) -> Router {
    let shutdown = async move |State(hive): State<Hive>, RawQuery(query): RawQuery| {
        if keeps_workers(query.as_deref())? {
            hive.leave_workers();
        }
        tracing::info!("asked to shut down");
        stop.cancel();
        Ok::<_, ApiError>((StatusCode::ACCEPTED, Json(json!({ "state": "stopping" }))))
    };
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/build-info", get(async || Json(build)))
        .route("/v1/capabilities", get(capabilities))
        .route("/v1/shutdown", post(shutdown))
        .with_state(hive.clone())
        .merge(job_server::routes(jobs, Arc::new(hive.clone()), auth))
}

async fn health(State(hive): State<Hive>) -> Json<Value> {
    Json(json!({ "status": "ok", "hive_id": hive.alias() }))
}

/// What Prometheus reads.
async fn metrics(State(hive): State<Hive>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], hive.metrics_text())
}

async fn capabilities(State(hive): State<Hive>) -> Json<Value> {
    Json(json!({
        "devices": hive.devices(),
        "catalog": hive.models(),
        "workers": hive.workers(),
    }))
}
