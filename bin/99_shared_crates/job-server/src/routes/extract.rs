//! What requests name, checked before any route sees it.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use daemon_http::ApiError;
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

/// Whether a list has the jobs that only look, too: `?all=true`.
pub(super) struct WithLooks(pub(super) bool);

impl<S: Send + Sync> FromRequestParts<S> for WithLooks {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.uri.query() {
            None | Some("" | "all=false") => Ok(Self(false)),
            Some("all=true") => Ok(Self(true)),
            Some(other) => {
                let message = format!("{other:?} is not understood in the address");
                Err(ApiError::bad_request("invalid_value", message)
                    .hint("the only parameter is all=true: looks (lists, logs, …) too"))
            }
        }
    }
}
