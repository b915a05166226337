//! `GET /health`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use worker_contract::{HealthReport, WorkerState};

use crate::worker::Worker;

/// 200 when requests are served, 503 when not (yet); the body says which.
pub(super) async fn health(State(worker): State<Arc<Worker>>) -> (StatusCode, Json<HealthReport>) {
    let report = worker.health();
    let status = match report.state {
        WorkerState::Ready | WorkerState::Draining => StatusCode::OK,
        WorkerState::Loading { .. } | WorkerState::Failed { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report))
}
