//! One exchange with one worker: the request out, its events in. A worker of rbee speaks the worker's
//! contract; a server of somebody else OpenAI's API, which is translated.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{HeaderName, Request, StatusCode, response};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind, InferenceEvent, InferenceRequest};

use super::connection::{Broken, Exchange, Pool};
use super::failure::Trouble;
use super::prefill::Prefill;
use super::speech::{SERVER_BEGINS, Speech};
use super::sse::EventCutter;
use crate::attached::{Engine, Original, detail_of};
use crate::keyring::Keyring;
use crate::registry::{Server, Target};

/// How long a worker may take to begin its answer, which it does before it reads the prompt.
const BEGIN: Duration = Duration::from_secs(30);
/// How long a worker may take to do so on a connection that was idle: what is between the two may have
/// forgotten the connection.
const STALE: Duration = Duration::from_secs(5);
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How long the text of an error may take.
const ERROR_TEXT: Duration = Duration::from_secs(3);
/// How long a worker rests that is busy and does not say for how long.
const REST: Duration = Duration::from_secs(1);
/// How long the end of a complete answer is waited for, so that its connection can be used again.
const LAST_BYTES: Duration = Duration::from_millis(20);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The time that another queen may take, in milliseconds.
const DEADLINE: HeaderName = HeaderName::from_static("x-rbee-deadline-ms");
/// The queens that a request has come through, so that it does not go round among them.
const VIA: HeaderName = HeaderName::from_static("x-rbee-via");

/// Sends requests to workers over connections that are kept.
#[derive(Debug, Clone)]
pub(super) struct WorkerClient {
    pool: Pool,
    keyring: Keyring,
    /// The queen's own name in `x-rbee-via`.
    own_id: Arc<str>,
}

/// The events of an answer as they come. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct WorkerEvents {
    exchange: Exchange,
    cutter: EventCutter,
    target: Arc<Target>,
    speech: Speech,
}

/// What a worker is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg<'a> {
    /// What is wanted.
    pub(super) request: &'a InferenceRequest,
    /// The same in the client's words, as far as it is wanted from the start.
    pub(super) original: &'a Original,
    /// What the client has, where the worker is to go on after it as text.
    pub(super) prefill: Option<&'a Prefill>,
    /// How long its prompt is.
    pub(super) prompt_bytes: u32,
    /// The queens that it has come through.
    pub(super) via: &'a str,
}

impl WorkerClient {
    /// A client that proves itself to each worker with the secret of its hive.
    pub(super) fn new(keyring: Keyring) -> Self {
        let own_id = uuid::Uuid::new_v4().simple().to_string().into();
        Self { pool: Pool::default(), keyring, own_id }
    }

    /// Whether a request that came through these queens was here before.
    pub(super) fn was_here(&self, via: &str) -> bool {
        via.split(',').any(|id| id.trim() == &*self.own_id)
    }

    /// Sends a request; gives its events once the worker has accepted it.
    pub(super) async fn send(
        &self,
        target: Arc<Target>,
        leg: &Leg<'_>,
        deadline: Instant,
    ) -> Result<WorkerEvents, Trouble> {
        let body = match body(leg, target.server.as_ref()) {
            Ok(body) => Bytes::from(body),
            Err(error) => return Err(Trouble::garbage(format!("it cannot be asked: {error}"))),
        };
        let patience = if target.server.is_some() { SERVER_BEGINS } else { BEGIN };
        // A server may compute the prompt before it says anything.
        let stale = if target.server.is_some() { patience } else { STALE };
        let sent_at = Instant::now();
        let build = || self.http_request(&target, leg, body.clone());
        let sent = tokio::select! {
            biased;
            () = target.gone.cancelled() => return Err(gone()),
            sent = timeout(patience, self.pool.send(&target.address, stale, build)) => sent,
            () = sleep_until(deadline) => return Err(Trouble::Deadline),
        };
        match sent {
            Ok(Ok((head, exchange))) if head.status == StatusCode::OK => {
                let speech = Speech::of(&head, leg, &target, sent_at)?;
                Ok(WorkerEvents { exchange, cutter: EventCutter::default(), target, speech })
            }
            Ok(Ok((head, exchange))) => {
                Err(refusal(&head, exchange, target.server.is_some()).await)
            }
            Ok(Err(broken)) => Err(Trouble::connection(broken.to_string())),
            Err(_) => Err(Trouble::connection(silent(patience))),
        }
    }

    fn http_request(&self, target: &Target, leg: &Leg<'_>, body: Bytes) -> Request<Full<Bytes>> {
        let (path, authorization) = match &target.server {
            None => {
                let authorization = self.keyring.authorization(&target.hive_id);
                (Cow::Borrowed("/v1/inference"), Some(authorization))
            }
            Some(server) => {
                let path = server.url.path(leg.original.endpoint().path());
                (Cow::Owned(path), self.keyring.server_authorization(&target.hive_id))
            }
        };
        let mut request = Request::post(path.as_ref())
            .header(HOST, &target.address.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(REQUEST_ID, leg.request.request_id.as_str());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(server) = &target.server {
            let left = leg.request.deadline_ms.filter(|_| server.engine == Engine::Rbee);
            if let Some(left) = left {
                request = request.header(DEADLINE, left);
            }
            let via = match leg.via {
                "" => self.own_id.to_string(),
                via => format!("{via},{}", self.own_id),
            };
            request = request.header(VIA, via);
        }
        request
            .body(Full::new(body))
            // The authority came out of a URL, and a request id is of plain letters.
            .expect("every header was checked where it entered")
    }
}

impl WorkerEvents {
    /// The next event. Dropping the returned future loses nothing.
    pub(super) async fn next(&mut self) -> Result<InferenceEvent, Trouble> {
        loop {
            if let Some(event) = self.speech.take(&mut self.cutter)? {
                return Ok(event);
            }
            let due = self.speech.due();
            let chunk = tokio::select! {
                biased;
                chunk = within(due, self.exchange.chunk()) => chunk?,
                () = self.target.gone.cancelled() => return Err(gone()),
            };
            match chunk {
                Ok(Some(bytes)) => self.speech.feed(&mut self.cutter, &bytes)?,
                Ok(None) if self.speech.closed()? => {}
                Err(Broken::Http(_)) if self.speech.is_over() => {}
                Ok(None) | Err(Broken::Http(_)) => {
                    return Err(Trouble::connection("it ended in the middle of the answer"));
                }
                Err(broken) => return Err(Trouble::connection(broken.to_string())),
            }
        }
    }

    /// Reads the end of a complete answer, so that the connection can be used again.
    pub(super) async fn finish(mut self) {
        let rest = async { while let Ok(Some(_)) = self.exchange.chunk().await {} };
        if timeout(LAST_BYTES, rest).await.is_ok() {
            self.exchange.keep();
        }
    }
}

/// The body of a request.
fn body(leg: &Leg<'_>, server: Option<&Server>) -> serde_json::Result<Vec<u8>> {
    match (server, leg.prefill) {
        (Some(server), prefill) => {
            serde_json::to_vec(&leg.original.body_for(server, leg.request, prefill))
        }
        (None, Some(prefill)) => serde_json::to_vec(&prefill.continued(leg.request)),
        (None, None) => serde_json::to_vec(leg.request),
    }
}

/// Waits for something until a time, if there is one.
async fn within<T>(due: Option<Instant>, awaited: impl Future<Output = T>) -> Result<T, Trouble> {
    match due {
        None => Ok(awaited.await),
        Some(due) => {
            let late = |_| Trouble::connection(silent(SERVER_BEGINS));
            timeout_at(due, awaited).await.map_err(late)
        }
    }
}

/// What an answer that is not 200 means.
async fn refusal(head: &response::Parts, mut exchange: Exchange, is_server: bool) -> Trouble {
    let status = head.status;
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let rest = retry_after.map_or(REST, |seconds: u64| Duration::from_secs(seconds.min(10)));
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = exchange.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR {
                return false;
            }
        }
        true
    };
    if timeout(ERROR_TEXT, read).await == Ok(true) {
        exchange.keep();
    }
    let detail = match serde_json::from_slice::<ApiErrorBody>(&body) {
        Ok(body) => Some(body.error),
        Err(_) if is_server => detail_of(&body),
        Err(_) => None,
    };
    let detail = match detail {
        Some(detail) => detail,
        None if is_server && matches!(status.as_u16(), 429 | 503) => {
            return Trouble::Busy { reason: format!("it answered HTTP {status}"), rest };
        }
        None => return Trouble::garbage(format!("it answered HTTP {status} without a reason")),
    };
    match status.as_u16() {
        429 | 503 => Trouble::Busy { reason: detail.message, rest },
        // The model of a worker is known to the queen, so this is a mistake between the two.
        401 | 403 | 404 | 405 => {
            Trouble::garbage(format!("it refused the queen: {}", detail.message))
        }
        400..500 => Trouble::Refused { status, detail: at_fault(detail) },
        // What was left of the request's time was all that it had.
        504 if detail.code.as_deref() == Some("deadline_exceeded") => Trouble::Deadline,
        _ => Trouble::garbage(detail.message),
    }
}

fn at_fault(detail: ErrorDetail) -> ErrorDetail {
    ErrorDetail { kind: ErrorKind::InvalidRequestError, ..detail }
}

fn silent(patience: Duration) -> String {
    format!("it was silent for {} s", patience.as_secs())
}

fn gone() -> Trouble {
    Trouble::connection("its process has ended, or is silent")
}
