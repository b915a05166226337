//! One request from its first decision to its last event.
//!
//! ```text
//! placing ──lease──▶ opening ──200──▶ streaming ──done──▶ ended
//!    ▲                  │                 │
//!    └── busy, broken ──┴── broken before the first token (twice at most)
//! ```
//! The tokens that the client has are kept, so that an answer could be continued elsewhere.

use std::time::Duration;

use axum::http::StatusCode;
use daemon_http::ApiError;
use tokio::time::Instant;
use worker_contract::{ErrorDetail, InferenceEvent, InferenceRequest, ModelAlias, WorkerId};

use super::connection::{Connection, OpenError, WorkerClient};
use crate::dispatch::{Dispatcher, PlaceError};
use crate::registry::{Lease, Workers};
use crate::scheduler::{Demand, Reason};

/// How often a request is sent to another worker before its first token.
const RETRIES: u32 = 2;

/// How long a request rests when a worker that looked free was not.
const BUSY_REST: Duration = Duration::from_millis(50);

/// Runs requests.
#[derive(Debug, Clone)]
pub struct Relay {
    dispatcher: Dispatcher,
    workers: Workers,
    client: WorkerClient,
}

/// A request that runs. Dropping it cancels the request at its worker.
#[derive(Debug)]
pub struct Run {
    relay: Relay,
    request: InferenceRequest,
    demand: Demand,
    deadline: Instant,
    retries_left: u32,
    current: Option<(Lease, Connection)>,
    has_tokens: bool,
    has_started: bool,
    has_ended: bool,
}

/// A request failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// It got no worker.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The worker refused it.
    #[error("{}", detail.message)]
    Refused {
        /// The status that the client gets.
        status: StatusCode,
        /// What is wrong.
        detail: ErrorDetail,
    },
    /// Its worker failed, and so did those that were tried instead.
    #[error("worker {worker} failed: {reason}")]
    WorkerFailed {
        /// The last worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Its worker ended the answer with an error.
    #[error("{}", .0.message)]
    Answered(ErrorDetail),
    /// Its time is over.
    #[error("the request's deadline has passed")]
    DeadlineExceeded,
}

impl Relay {
    /// A relay that places requests with `dispatcher`.
    #[must_use]
    pub fn new(dispatcher: Dispatcher, workers: Workers, client: WorkerClient) -> Self {
        Self { dispatcher, workers, client }
    }

    /// Begins a request; nothing happens until its first event is asked for.
    #[must_use]
    pub fn run(&self, model: ModelAlias, request: InferenceRequest, timeout: Duration) -> Run {
        Run {
            relay: self.clone(),
            request,
            demand: Demand { model, excluded: Vec::new() },
            deadline: Instant::now() + timeout,
            retries_left: RETRIES,
            current: None,
            has_tokens: false,
            has_started: false,
            has_ended: false,
        }
    }
}

impl Run {
    /// The next event; `None` after `done`.
    ///
    /// May be dropped before it is done: what it waited for goes on with the next call.
    pub async fn next(&mut self) -> Option<Result<InferenceEvent, RunError>> {
        if self.has_ended {
            return None;
        }
        let deadline = self.deadline;
        let event = tokio::time::timeout_at(deadline, self.advance()).await;
        let event = event.unwrap_or(Err(RunError::DeadlineExceeded));
        if matches!(event, Ok(InferenceEvent::Done { .. }) | Err(_)) {
            self.has_ended = true;
            self.current = None;
        }
        Some(event)
    }

    /// The worker that has the request.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerId> {
        self.current.as_ref().map(|(lease, _)| &lease.target().worker)
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> &worker_contract::RequestId {
        &self.request.request_id
    }

    async fn advance(&mut self) -> Result<InferenceEvent, RunError> {
        loop {
            let Some((lease, connection)) = &mut self.current else {
                self.connect().await?;
                continue;
            };
            match connection.next().await {
                Ok(InferenceEvent::Started { .. }) if self.has_started => {}
                Ok(InferenceEvent::Error { error }) => return Err(RunError::Answered(error)),
                Ok(event) => {
                    if let InferenceEvent::Delta { tokens, .. } = &event {
                        self.has_tokens = true;
                        self.request.resume.extend_from_slice(tokens);
                    }
                    self.has_started = true;
                    return Ok(event);
                }
                Err(reason) => {
                    let worker = lease.target().worker.clone();
                    self.worker_failed(worker, reason)?;
                }
            }
        }
    }

    /// Finds a worker and sends it the request.
    async fn connect(&mut self) -> Result<(), RunError> {
        let lease = self.relay.dispatcher.place(&self.demand).await?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.request.deadline_ms = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        match self.relay.client.open(lease.target(), &self.request).await {
            Ok(connection) => {
                self.current = Some((lease, connection));
                Ok(())
            }
            Err(OpenError::Refused { status, detail }) => Err(RunError::Refused { status, detail }),
            Err(OpenError::Busy(reason)) => {
                tracing::debug!(worker_id = %lease.target().worker, reason, "a worker was not free");
                drop(lease);
                tokio::time::sleep(BUSY_REST).await;
                Ok(())
            }
            Err(OpenError::Broken(reason)) => {
                self.worker_failed(lease.target().worker.clone(), reason)
            }
        }
    }

    /// Goes on with another worker, while no token has been given and retries are left.
    fn worker_failed(&mut self, worker: WorkerId, reason: String) -> Result<(), RunError> {
        tracing::warn!(worker_id = %worker, request_id = %self.request.request_id, reason, "a worker failed");
        self.relay.workers.connection_failed(&worker);
        self.current = None;
        if self.has_tokens || self.retries_left == 0 {
            return Err(RunError::WorkerFailed { worker, reason });
        }
        self.retries_left -= 1;
        self.demand.excluded.push(worker);
        Ok(())
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        let message = error.to_string();
        match error {
            RunError::Place(PlaceError::Rejected(Reason::UnknownModel { .. })) => {
                Self::not_found("model_not_found", message)
                    .param("model")
                    .hint("GET /v1/models lists the models")
            }
            RunError::Place(PlaceError::Rejected(Reason::Unreachable { .. })) => {
                Self::unavailable("model_unavailable", message, 5)
                    .hint("`rbee-keeper hive list` shows which hives can be reached")
            }
            RunError::Place(PlaceError::QueueFull(_)) => {
                Self::too_many_requests("queue_full", message, 2)
            }
            RunError::Place(PlaceError::SpawnFailed { failure, .. }) => {
                let error = Self::unavailable("worker_spawn_failed", message, 5);
                match failure.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            RunError::Refused { status, detail } => Self { status, detail, retry_after_s: None },
            RunError::WorkerFailed { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "worker_failed", message)
                    .hint("send the request again")
            }
            RunError::Answered(detail) if detail.code.as_deref() == Some("deadline_exceeded") => {
                RunError::DeadlineExceeded.into()
            }
            RunError::Answered(detail) => {
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, detail, retry_after_s: None }
            }
            RunError::DeadlineExceeded => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
            }
        }
    }
}
