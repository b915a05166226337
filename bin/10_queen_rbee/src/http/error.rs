//! Failures of an answer as HTTP errors.

use std::time::Instant;

use axum::http::StatusCode;
use daemon_http::ApiError;

use crate::dialect::openai::unknown_model;
use crate::dispatch::NoPlace;
use crate::registry::Registry;
use crate::relay::Failure;

/// What a client is told about a failure. The registry knows the models that there are instead of an
/// unknown one.
pub(crate) fn describe(failure: Failure, registry: &Registry) -> ApiError {
    let message = failure.to_string();
    match failure {
        Failure::Refused { status, detail } => ApiError { status, detail, retry_after_s: None },
        Failure::WorkerFailed { .. } => {
            ApiError::new(StatusCode::BAD_GATEWAY, "worker_failed", message)
                .hint("send the request again: another worker will take it")
        }
        Failure::Quarantined { .. } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "request_quarantined", message)
                .hint("the workers' logs say how they ended: rbee-keeper worker logs ID; the same request is taken again after ten minutes")
        }
        Failure::Deadline { .. } => timeout(message),
        Failure::NoPlace(no_place) => not_placed(no_place, message, registry),
    }
}

fn not_placed(no_place: NoPlace, message: String, registry: &Registry) -> ApiError {
    match no_place {
        NoPlace::QueueFull { retry_after_s, .. } => {
            ApiError::too_many_requests("queue_full", message, retry_after_s)
        }
        NoPlace::Deadline { .. } => timeout(message),
        NoPlace::UnknownModel { model } => {
            unknown_model(model.as_str(), registry.models(Instant::now()).keys())
        }
        NoPlace::HiveGone { hive, retry_after_s, .. } => {
            ApiError::unavailable("hive_gone", message, retry_after_s)
                .hint(format!("start it: rbee-keeper hive start {hive}"))
        }
        NoPlace::NoWorkerLeft { retry_after_s, .. } => {
            ApiError::unavailable("no_worker", message, retry_after_s)
        }
        NoPlace::Unable { .. } => ApiError::bad_request("unsupported_by_model", message).hint(
            "its workers are servers of others, which promise neither grammars nor answers that can be repeated; leave 'deterministic' and grammars out, or run the model on a hive",
        ),
        NoPlace::Rules { retry_after_s, .. } => {
            ApiError::unavailable("refused_by_rules", message, retry_after_s).hint(
                "scheduler.rhai beside the queen's configuration has them: rbee-keeper policy test FILE",
            )
        }
        NoPlace::Stopping => ApiError::unavailable("stopping", message, 5),
        NoPlace::SpawnFailed { source, retry_after_s, .. } => {
            // The log of a worker that follows is for who operates it: the hint says where it is.
            let first = message.lines().next().unwrap_or_default();
            let first = first.trim_end_matches("; its last log lines:");
            let error = ApiError::unavailable(&source.code, first, retry_after_s);
            match source.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
    }
}

fn timeout(message: String) -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
        .hint("allow more time: [queen] request_timeout_s, or the header x-rbee-deadline-ms")
}
