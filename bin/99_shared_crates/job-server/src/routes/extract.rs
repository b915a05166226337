//! What requests name, checked before any route sees it.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use daemon_http::ApiError;
use rbee_operations::{LISTED_JOBS, MAX_LISTED_JOBS};
use serde::Deserialize;
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

/// Which jobs are listed.
pub(super) struct Listed {
    /// How many of those that have ended.
    pub(super) most: usize,
    /// Whether those are listed, too, that only look.
    pub(super) with_looks: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    limit: Option<usize>,
    all: Option<bool>,
}

impl<S: Send + Sync> FromRequestParts<S> for Listed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refused = |reason: String| {
            ApiError::bad_request("invalid_value", reason).hint(format!(
                "there are limit=N, from 0 to {MAX_LISTED_JOBS}, and all=true: looks (lists, logs, …) too"
            ))
        };
        let words = Query::<Words>::from_request_parts(parts, state).await;
        let Query(Words { limit, all }) = words.map_err(|error| refused(error.body_text()))?;
        let most = limit.unwrap_or(LISTED_JOBS);
        if most > MAX_LISTED_JOBS {
            return Err(refused(format!("limit is {most}")));
        }
        Ok(Self { most, with_looks: all.unwrap_or(false) })
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
