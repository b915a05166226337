//! One exchange with one worker: the request out, its events in.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, Request, StatusCode, response};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::{Instant, sleep_until, timeout};
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind, InferenceEvent, InferenceRequest};

use super::connection::{Broken, Exchange, Pool};
use super::failure::Trouble;
use super::sse::EventCutter;
use crate::keyring::Keyring;
use crate::registry::Target;

/// How long a worker may take to begin its answer, which it does before it reads the prompt.
const BEGIN: Duration = Duration::from_secs(30);
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How long the text of an error may take.
const ERROR_TEXT: Duration = Duration::from_secs(3);
/// How long a worker rests that is busy and does not say for how long.
const REST: Duration = Duration::from_secs(1);
/// How long the end of a complete answer is waited for, so that its connection can be used again.
const LAST_BYTES: Duration = Duration::from_millis(20);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Sends requests to workers over connections that are kept.
#[derive(Debug, Clone)]
pub(super) struct WorkerClient {
    pool: Pool,
    keyring: Keyring,
}

/// The events of an answer as they come. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct WorkerEvents {
    exchange: Exchange,
    cutter: EventCutter,
    target: Arc<Target>,
}

impl WorkerClient {
    /// A client that proves itself to each worker with the secret of its hive.
    pub(super) fn new(keyring: Keyring) -> Self {
        Self { pool: Pool::default(), keyring }
    }

    /// Sends a request; gives its events once the worker has accepted it.
    pub(super) async fn send(
        &self,
        target: Arc<Target>,
        request: &InferenceRequest,
        deadline: Instant,
    ) -> Result<WorkerEvents, Trouble> {
        let body = match serde_json::to_vec(request) {
            Ok(body) => Bytes::from(body),
            Err(error) => return Err(Trouble::garbage(format!("it cannot be asked: {error}"))),
        };
        let build = || self.http_request(&target, request, body.clone());
        let sent = tokio::select! {
            biased;
            () = target.gone.cancelled() => return Err(gone()),
            sent = timeout(BEGIN, self.pool.send(&target.address, build)) => sent,
            () = sleep_until(deadline) => return Err(Trouble::Deadline),
        };
        match sent {
            Ok(Ok((head, exchange))) if head.status == StatusCode::OK => {
                understood(&head.headers, exchange, target)
            }
            Ok(Ok((head, exchange))) => Err(refusal(&head, exchange).await),
            Ok(Err(broken)) => Err(Trouble::connection(broken.to_string())),
            Err(_) => Err(Trouble::connection(format!("it was silent for {} s", BEGIN.as_secs()))),
        }
    }

    fn http_request(
        &self,
        target: &Target,
        request: &InferenceRequest,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        Request::post("/v1/inference")
            .header(HOST, &target.address.authority)
            .header(AUTHORIZATION, self.keyring.authorization(&target.hive_id))
            .header(CONTENT_TYPE, "application/json")
            .header(REQUEST_ID, request.request_id.as_str())
            .body(Full::new(body))
            // The authority came out of a URL, and a request id is of plain letters.
            .expect("every header was checked where it entered")
    }
}

impl WorkerEvents {
    /// The next event. Dropping the returned future loses nothing.
    pub(super) async fn next(&mut self) -> Result<InferenceEvent, Trouble> {
        loop {
            let parsed = self.cutter.next(|data| serde_json::from_slice::<InferenceEvent>(data));
            match parsed.map_err(|too_long| Trouble::garbage(too_long.to_string()))? {
                Some(Ok(event)) => return Ok(event),
                // What it sent is not told: it could be text of the answer.
                Some(Err(_)) => return Err(Trouble::garbage("it sent what is no inference event")),
                None => {}
            }
            let chunk = tokio::select! {
                biased;
                chunk = self.exchange.chunk() => chunk,
                () = self.target.gone.cancelled() => return Err(gone()),
            };
            match chunk {
                Ok(Some(bytes)) => self.cutter.feed(&bytes),
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

fn understood(
    headers: &HeaderMap,
    exchange: Exchange,
    target: Arc<Target>,
) -> Result<WorkerEvents, Trouble> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return Ok(WorkerEvents { exchange, cutter: EventCutter::default(), target });
    }
    Err(Trouble::garbage("its answer is not text/event-stream"))
}

/// What an answer that is not 200 means.
async fn refusal(head: &response::Parts, mut exchange: Exchange) -> Trouble {
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
        Ok(body) => body.error,
        Err(_) => return Trouble::garbage(format!("it answered HTTP {status} without a reason")),
    };
    match status.as_u16() {
        429 | 503 => Trouble::Busy { reason: detail.message, rest },
        // The model of a worker is known to the queen, so this is a mistake between the two.
        401 | 403 | 404 => Trouble::garbage(format!("it refused the queen: {}", detail.message)),
        400..500 => Trouble::Refused { status, detail: at_fault(detail) },
        _ => Trouble::garbage(detail.message),
    }
}

fn at_fault(detail: ErrorDetail) -> ErrorDetail {
    ErrorDetail { kind: ErrorKind::InvalidRequestError, ..detail }
}

fn gone() -> Trouble {
    Trouble::connection("its process has ended, or is silent")
}
