//! What requests name, checked before any route sees it.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use daemon_http::ApiError;
use rbee_operations::{LISTED_JOBS, MAX_LISTED_JOBS};
use worker_contract::{InvalidName, JobId};

/// The job that the path names.
pub(super) struct JobPath(pub(super) JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refused = |reason| ApiError::bad_request("invalid_job_id", reason).param("job_id");
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| refused(error.body_text()))?;
        text.parse().map(Self).map_err(|error: InvalidName| refused(error.to_string()))
    }
}

/// How many ended jobs are listed.
pub(super) struct Most(pub(super) usize);

impl<S: Send + Sync> FromRequestParts<S> for Most {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let words = query.map(|Query(words)| words).unwrap_or_default();
        let Some((_, limit)) = words.iter().find(|(name, _)| name == "limit") else {
            return Ok(Self(LISTED_JOBS));
        };
        let limit = limit.parse::<usize>().ok().filter(|limit| *limit <= MAX_LISTED_JOBS);
        limit.map(Self).ok_or_else(|| {
            let message = format!("`limit` is a whole number from 0 to {MAX_LISTED_JOBS}");
            ApiError::bad_request("invalid_value", message).param("limit")
        })
    }
}

/// The id of the last event that the reader has seen; 0 where it has seen none.
pub(super) struct LastEventId(pub(super) u64);

impl LastEventId {
    /// The refusal of an id for a reason.
    pub(super) fn refused(reason: impl Into<String>) -> ApiError {
        ApiError::bad_request("invalid_last_event_id", reason)
            .param("Last-Event-ID")
            .hint("send the `id:` of the last event that arrived, or leave the header out")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(Self(0)) };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        id.map(Self).ok_or_else(|| Self::refused("the Last-Event-ID is not a whole number"))
    }
}
