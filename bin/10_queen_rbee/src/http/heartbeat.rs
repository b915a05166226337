//! Reports of workers and hives.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use daemon_http::{ApiError, ApiJson};
use worker_contract::{HiveHeartbeat, WorkerHeartbeat};

use crate::registry::{Registry, ReportError};

pub(super) async fn worker(
    State(registry): State<Registry>,
    ApiJson(beat): ApiJson<WorkerHeartbeat>,
) -> Result<StatusCode, ApiError> {
    registry.worker_beat(beat, Instant::now()).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn hive(
    State(registry): State<Registry>,
    ApiJson(beat): ApiJson<HiveHeartbeat>,
) -> Result<StatusCode, ApiError> {
    registry.hive_beat(beat, Instant::now()).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

#[expect(clippy::needless_pass_by_value, reason = "it is the end of the error")]
fn refused(error: ReportError) -> ApiError {
    let message = error.to_string();
    match error {
        ReportError::Address { .. } => {
            ApiError::bad_request("invalid_value", message).param("address")
        }
        ReportError::TooMany { .. } => ApiError::unavailable("too_many", message, 60),
    }
}
