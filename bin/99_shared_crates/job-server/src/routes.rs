//! Jobs over HTTP. Checks and converts; the registry decides.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use daemon_http::{ApiError, ApiJson, CallerExt};
use rbee_operations::{JobCreated, JobSummary, SubmitJob};
use serde_json::json;
use worker_contract::JobId;

use crate::stream_body::{KEEP_ALIVE, stream_body};
use crate::{Executor, JobRegistry, SubmitError, UnknownJob};

const LAST_EVENT_ID: &str = "last-event-id";

/// All routes of jobs: `POST` and `GET /v1/jobs`, `GET` and `DELETE /v1/jobs/{id}`,
/// `GET /v1/jobs/{id}/stream`.
pub fn routes(registry: JobRegistry, executor: Arc<dyn Executor>) -> Router {
    Router::new()
        .route("/v1/jobs", post(submit).get(list))
        .route("/v1/jobs/{job_id}", get(show).delete(cancel))
        .route("/v1/jobs/{job_id}/stream", get(follow))
        .with_state(Jobs { registry, executor })
}

#[derive(Clone)]
struct Jobs {
    registry: JobRegistry,
    executor: Arc<dyn Executor>,
}

/// Answers when the job is recorded, so that an id that a client holds survives a restart.
async fn submit(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    ApiJson(SubmitJob { operation }): ApiJson<SubmitJob>,
) -> Result<(StatusCode, Json<JobCreated>), ApiError> {
    let caller = caller.map_or_else(|| "local".to_owned(), |Extension(CallerExt(c))| c.to_string());
    let job_id =
        jobs.registry.submit(&operation, &caller, &jobs.executor).map_err(|e| refusal(&e))?;
    jobs.registry.recorded().await;
    Ok((StatusCode::ACCEPTED, Json(JobCreated { job_id })))
}

async fn list(State(jobs): State<Jobs>) -> Json<serde_json::Value> {
    Json(json!({"jobs": jobs.registry.list()}))
}

async fn show(
    State(jobs): State<Jobs>,
    Path(job_id): Path<String>,
) -> Result<Json<JobSummary>, ApiError> {
    let id = parse_id(&job_id)?;
    jobs.registry.get(&id).map(Json).ok_or_else(|| unknown(&UnknownJob(id)))
}

/// 202 while the job still has to end, 200 if it has ended.
async fn cancel(
    State(jobs): State<Jobs>,
    Path(job_id): Path<String>,
) -> Result<(StatusCode, Json<JobSummary>), ApiError> {
    let summary = jobs.registry.cancel(&parse_id(&job_id)?).map_err(|e| unknown(&e))?;
    let status = if summary.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(summary)))
}

async fn follow(
    State(jobs): State<Jobs>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = parse_id(&job_id)?;
    let latest = jobs.registry.last_event_id(&id).map_err(|e| unknown(&e))?;
    let after = last_event_id(&headers, latest)?;
    let cursor = jobs.registry.cursor(&id, after).map_err(|e| unknown(&e))?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Tells a proxy in front not to collect events before it passes them on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(stream_body(cursor, KEEP_ALIVE))).into_response())
}

fn parse_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|error: worker_contract::InvalidName| {
        ApiError::bad_request("invalid_job_id", error.to_string()).param("job_id")
    })
}

/// The id that the reader has seen last. One that the job has not given yet is refused: a reader that
/// waits behind it would lose events.
fn last_event_id(headers: &HeaderMap, latest: u64) -> Result<u64, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(0) };
    let refuse = |reason: String| {
        ApiError::bad_request("invalid_last_event_id", reason)
            .param("Last-Event-ID")
            .hint("send the `id:` of the last event that arrived, or leave the header out")
    };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| refuse("the Last-Event-ID is not a whole number".to_owned()))?;
    if id > latest {
        let reason = format!("the Last-Event-ID {id} is not of this job, whose latest is {latest}");
        return Err(refuse(reason));
    }
    Ok(id)
}

fn refusal(error: &SubmitError) -> ApiError {
    match error {
        SubmitError::TooManyRunning { .. } => {
            ApiError::too_many_requests("too_many_jobs", error.to_string(), 5)
                .hint("wait for one to end, or cancel one: `rbee-keeper job list`")
        }
        SubmitError::StoreBusy => {
            ApiError::too_many_requests("job_store_busy", error.to_string(), 1)
        }
        SubmitError::ShuttingDown => ApiError::unavailable("shutting_down", error.to_string(), 5),
    }
}

fn unknown(error: &UnknownJob) -> ApiError {
    ApiError::not_found("job_not_found", error.to_string())
        .param("job_id")
        .hint("`rbee-keeper job list` shows the jobs that are kept")
}
