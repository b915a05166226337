//! `GET /v1/events`: everything that changes, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use access_tokens::Authenticator;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use daemon_http::{ApiError, Right};
use futures::{Stream, stream};
use tokio::time::timeout;

use crate::events::{Feed, Reader};

/// How long the stream may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The header with the id of the last event that the reader has.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn follow(
    State(feed): State<Feed>,
    State(auth): State<Authenticator>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last_id = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let reader = feed
        .read(last_id)
        .map_err(|full| ApiError::too_many_requests("too_many_readers", full.to_string(), 10))?;
    let head = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // Tells a proxy in front not to collect events before it passes them on.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let right = Right::new(auth, &headers);
    Ok((head, Body::from_stream(body(reader, right))).into_response())
}

fn body(reader: Reader, right: Right) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold((reader, right), |(mut reader, mut right)| async move {
        let piece = match timeout(KEEP_ALIVE, reader.next()).await {
            Ok(piece) => piece?,
            Err(_) => Bytes::from_static(b": keep-alive\n\n"),
        };
        let piece = if right.still_counts() { piece } else { reader.revoke() };
        Some((Ok(piece), (reader, right)))
    })
}
