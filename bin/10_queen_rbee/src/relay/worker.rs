//! One exchange with one worker: the request out, its events in.

use std::sync::Arc;
use std::time::Duration;

use access_tokens::Secret;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, sleep_until, timeout};
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind, InferenceEvent, InferenceRequest};

use super::failure::Trouble;
use super::sse::EventCutter;
use crate::registry::Target;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a worker may take to begin its answer, which it does before it reads the prompt.
const BEGIN: Duration = Duration::from_secs(30);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How long a worker rests that is busy and does not say for how long.
const REST: Duration = Duration::from_secs(1);
/// How long the end of a complete answer is waited for, so that its connection can be used again.
const LAST_BYTES: Duration = Duration::from_millis(20);

/// Sends requests to workers over connections that are kept.
#[derive(Debug, Clone)]
pub(super) struct WorkerClient {
    http: Client,
    secret: Secret,
}

/// The events of an answer as they come. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct WorkerEvents {
    response: Response,
    cutter: EventCutter,
    target: Arc<Target>,
}

impl WorkerClient {
    pub(super) fn new(secret: Secret) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Self { http, secret })
    }

    /// Sends a request; gives its events once the worker has accepted it.
    pub(super) async fn send(
        &self,
        target: Arc<Target>,
        request: &InferenceRequest,
        deadline: Instant,
    ) -> Result<WorkerEvents, Trouble> {
        let call = self
            .http
            .post(target.inference.clone())
            .bearer_auth(self.secret.expose())
            .header("x-request-id", request.request_id.as_str())
            .json(request)
            .send();
        let response = tokio::select! {
            biased;
            () = target.gone.cancelled() => return Err(gone()),
            () = sleep_until(deadline) => return Err(Trouble::Deadline),
            response = timeout(BEGIN, call) => response,
        };
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Trouble::connection(reason(&error))),
            Err(_) => {
                return Err(Trouble::connection(format!(
                    "it was silent for {} s",
                    BEGIN.as_secs()
                )));
            }
        };
        if response.status() == StatusCode::OK {
            return understood(response, target);
        }
        Err(refusal(response).await)
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
                chunk = self.response.chunk() => chunk,
                () = self.target.gone.cancelled() => return Err(gone()),
            };
            match chunk {
                Ok(Some(bytes)) => self.cutter.feed(&bytes),
                Ok(None) => {
                    return Err(Trouble::connection("it ended in the middle of the answer"));
                }
                Err(error) => {
                    let reason = reason(&error);
                    return Err(Trouble::connection(format!("its connection broke: {reason}")));
                }
            }
        }
    }

    /// Reads the end of a complete answer, so that the connection can be used again.
    pub(super) async fn finish(mut self) {
        let rest = async { while let Ok(Some(_)) = self.response.chunk().await {} };
        let _ = timeout(LAST_BYTES, rest).await;
    }
}

fn understood(response: Response, target: Arc<Target>) -> Result<WorkerEvents, Trouble> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return Ok(WorkerEvents { response, cutter: EventCutter::default(), target });
    }
    Err(Trouble::garbage("its answer is not text/event-stream"))
}

/// What an answer that is not 200 means.
async fn refusal(mut response: Response) -> Trouble {
    let status = response.status();
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let rest = retry_after.map_or(REST, |seconds: u64| Duration::from_secs(seconds.min(10)));
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout(CONNECT, response.chunk()).await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR {
            break;
        }
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
    Trouble::connection("it is gone")
}

/// The cause at the end of the chain: `Connection refused` instead of `error sending request`.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
