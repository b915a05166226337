//! `POST /v1/inference`: the answer as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use daemon_http::{ApiError, ApiJson};
use futures::stream::{self, Stream};
use worker_contract::{InferenceEvent, InferenceRequest, WorkerState};

use super::vectors;
use crate::batch::{EventReceiver, SubmitError, answer_channel};
use crate::engine::llama::EncodeError;
use crate::images::ImageError;
use crate::preparations::NotPrepared;
use crate::prepare::{PrepareError, effort};
use crate::text::ChatError;
use crate::worker::Worker;

/// How many events go into one piece of the body when the reader is behind.
const EVENTS_A_PIECE: usize = 32;

pub(super) async fn inference(
    State(worker): State<Arc<Worker>>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<InferenceRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    refuse_unless_ready(&worker)?;
    if worker.embedding_preparer().is_some() {
        return vectors::inference(worker, request, arrived).await;
    }
    let submitter = worker.submitter().ok_or_else(not_ready)?;
    let (answer, events) = answer_channel();
    let prepare = {
        let worker = Arc::clone(&worker);
        move |request| {
            let preparer = worker.preparer().ok_or_else(not_ready)?;
            preparer.prepare(request, answer, arrived).map_err(|e| refused(&e))
        }
    };
    let effort = effort(&request, body_bytes(&headers));
    let run = worker.preparations().run(effort, move || prepare(request));
    let (prepared, place) = run.await.map_err(|error| not_prepared(&error))?;
    submitter.submit(prepared?).map_err(not_taken)?;
    drop(place);
    Ok(stream(events))
}

/// The length of the body; as long as can be where nobody says.
fn body_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(u64::MAX)
}

pub(super) fn not_prepared(error: &NotPrepared) -> ApiError {
    match error {
        NotPrepared::QueueFull(full) => not_taken(*full),
        NotPrepared::Failed(_) => ApiError::internal(error.to_string()),
    }
}

pub(super) fn not_taken(error: SubmitError) -> ApiError {
    match error {
        SubmitError::QueueFull(_) => {
            ApiError::too_many_requests("queue_full", error.to_string(), 1)
        }
        SubmitError::Stopped => not_ready(),
    }
}

/// The answer, as its events come.
pub(super) fn stream(events: EventReceiver) -> Response {
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(body(events))).into_response()
}

/// The events as the body's pieces; dropping the body ends the request.
fn body(events: EventReceiver) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((events, Vec::new()), |(mut events, mut ready)| async move {
        if events.recv_many(&mut ready, EVENTS_A_PIECE).await == 0 {
            return None;
        }
        let mut piece = BytesMut::with_capacity(256 * ready.len());
        for event in ready.drain(..) {
            write_event(&mut piece, &event);
        }
        Some((Ok(piece.freeze()), (events, ready)))
    })
}

fn write_event(piece: &mut BytesMut, event: &InferenceEvent) {
    piece.put_slice(b"data: ");
    // Neither the event's types nor this writer can fail: they are text and numbers, into memory.
    if let Err(error) = serde_json::to_writer((&mut *piece).writer(), event) {
        tracing::error!(%error, "an event could not be written");
    }
    piece.put_slice(b"\n\n");
}

fn refuse_unless_ready(worker: &Worker) -> Result<(), ApiError> {
    match worker.health().state {
        WorkerState::Ready => Ok(()),
        WorkerState::Loading { .. } => Err(not_ready()),
        WorkerState::Draining => Err(ApiError::unavailable("draining", "this worker is ending", 1)),
        WorkerState::Failed { reason } => Err(ApiError::unavailable("failed", reason, 1)),
    }
}

pub(super) fn not_ready() -> ApiError {
    ApiError::unavailable("loading", "the model is being loaded", 1)
}

/// Whoever waits still is told why; the others have gone.
pub(super) fn given_up(message: String) -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
}

fn refused(error: &PrepareError) -> ApiError {
    let message = error.to_string();
    match error {
        PrepareError::WrongModel { .. } => {
            ApiError::not_found("model_not_found", message).param("model")
        }
        PrepareError::Sampling(invalid) => {
            ApiError::bad_request("invalid_value", message).param(invalid.field)
        }
        PrepareError::Format(invalid) => {
            ApiError::bad_request("invalid_format", message).param(invalid.field)
        }
        PrepareError::NoVocabulary(_) => {
            ApiError::bad_request("unsupported_format", message).param("format")
        }
        PrepareError::Empty(field) => ApiError::bad_request("empty", message).param(*field),
        PrepareError::NoTemplate(_) => {
            ApiError::bad_request("no_chat_template", message).param("messages")
        }
        PrepareError::FormatAndCall => {
            ApiError::bad_request("invalid_format", message).param("tool_choice")
        }
        PrepareError::NotDeterministic => {
            ApiError::bad_request("not_deterministic", message).param("deterministic")
        }
        PrepareError::MakesNoVectors(_) => {
            ApiError::bad_request("unsupported_task", message).param("task")
        }
        PrepareError::NoEyes(_) => {
            ApiError::bad_request("unsupported_image", message).param("messages")
        }
        PrepareError::GivenUp => given_up(message),
        PrepareError::Images(ImageError::GivenUp) => given_up(PrepareError::GivenUp.to_string()),
        PrepareError::Images(ImageError::Encode(EncodeError::Failed(_))) => {
            tracing::error!(%message, "an image failed");
            ApiError::internal(message)
        }
        PrepareError::Images(_) => {
            ApiError::bad_request("invalid_image", message).param("messages")
        }
        PrepareError::Chat(ChatError::Invalid(invalid)) => {
            ApiError::bad_request("invalid_value", message).param(invalid.param.clone())
        }
        PrepareError::Chat(ChatError::Template(_)) => {
            ApiError::bad_request("chat_template_error", message).param("messages")
        }
        PrepareError::NoInfillTokens(_) => {
            ApiError::bad_request("no_infill_tokens", message).param("task")
        }
        PrepareError::UnknownToken { .. } => {
            ApiError::bad_request("invalid_token", message).param("prompt")
        }
        PrepareError::TooLong { .. } => {
            ApiError::bad_request("context_length_exceeded", message).param("messages")
        }
    }
}
