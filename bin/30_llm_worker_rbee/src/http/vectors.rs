//! `POST /v1/inference` on a worker whose model makes vectors or scores.

use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use daemon_http::ApiError;
use worker_contract::{InferenceRequest, Prompt, Task};

use super::inference::{given_up, not_prepared, not_ready, not_taken, stream};
use crate::batch::answer_channel;
use crate::embedding::RefusedEmbedding;
use crate::preparations::Effort;
use crate::worker::Worker;

/// Up to so many bytes, texts take less time than the change to another thread.
const SHORT: usize = 16 * 1024;

/// What a text takes beside its bytes, in bytes.
const A_TEXT: usize = 32;

pub(super) async fn inference(
    worker: Arc<Worker>,
    request: InferenceRequest,
    arrived: Instant,
) -> Result<Response, ApiError> {
    let submitter = worker.embedding_submitter().ok_or_else(not_ready)?;
    let (answer, events) = answer_channel();
    let effort = if size(&request.task) > SHORT { Effort::Long } else { Effort::Little };
    let prepare = {
        let worker = Arc::clone(&worker);
        move || {
            let preparer = worker.embedding_preparer().ok_or_else(not_ready)?;
            preparer.prepare(request, answer, arrived).map_err(|error| refused(&error))
        }
    };
    let run = worker.preparations().run(effort, prepare);
    let (prepared, place) = run.await.map_err(|error| not_prepared(&error))?;
    submitter.submit(prepared?).map_err(not_taken)?;
    drop(place);
    Ok(stream(events))
}

/// About how many bytes the texts have, with something for each of them.
fn size(task: &Task) -> usize {
    let prompt = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => A_TEXT + text.len(),
        Prompt::Tokens(tokens) => A_TEXT + tokens.len(),
    };
    match task {
        Task::Embed { inputs } => inputs.iter().map(prompt).sum(),
        // The query is tokenized with each document.
        Task::Rerank { query, documents } => {
            documents.iter().map(|document| A_TEXT + document.len() + query.len()).sum()
        }
        Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => 0,
    }
}

fn refused(error: &RefusedEmbedding) -> ApiError {
    let message = error.to_string();
    match error {
        RefusedEmbedding::WrongModel { .. } => {
            ApiError::not_found("model_not_found", message).param("model")
        }
        RefusedEmbedding::MakesNoText(_) | RefusedEmbedding::OnlyRanks(_) => {
            ApiError::bad_request("unsupported_task", message).param("task")
        }
        RefusedEmbedding::Meaningless(field) => {
            ApiError::bad_request("invalid_value", message).param(*field)
        }
        RefusedEmbedding::NotDeterministic => {
            ApiError::bad_request("not_deterministic", message).param("deterministic")
        }
        RefusedEmbedding::Empty(field) => {
            ApiError::bad_request("empty", message).param(field.clone())
        }
        RefusedEmbedding::TooMany { field, .. } => {
            ApiError::bad_request("too_many_texts", message).param(*field)
        }
        RefusedEmbedding::LongQuery { .. } => {
            ApiError::bad_request("query_too_long", message).param("query")
        }
        RefusedEmbedding::UnknownToken { field, .. } => {
            ApiError::bad_request("invalid_token", message).param(field.clone())
        }
        RefusedEmbedding::GivenUp => given_up(message),
        RefusedEmbedding::TooLong { field, .. } => {
            ApiError::bad_request("context_length_exceeded", message).param(field.clone())
        }
    }
}
