//! The connection to a worker for one request. Dropping it cancels the request there.

use std::pin::Pin;
use std::time::Duration;

use access_tokens::Secret;
use axum::http::StatusCode;
use eventsource_stream::Eventsource as _;
use futures::{Stream, StreamExt as _};
use worker_contract::{ApiErrorBody, ErrorDetail, InferenceEvent, InferenceRequest};

use crate::registry::Target;

/// How long a worker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest error body that is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Opens connections to workers; idle ones are kept for the next request.
#[derive(Debug, Clone)]
pub struct WorkerClient {
    http: reqwest::Client,
    secret: Secret,
}

/// The events of one request.
pub struct Connection {
    events: Pin<Box<dyn Stream<Item = Result<InferenceEvent, String>> + Send>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// A worker did not take a request.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenError {
    /// The request itself is at fault; no other worker would take it.
    Refused {
        /// The status that the client gets.
        status: StatusCode,
        /// What is wrong.
        detail: ErrorDetail,
    },
    /// The worker is busy, loading or ending: another one may take it.
    Busy(String),
    /// The worker cannot be reached or does not make sense.
    Broken(String),
}

impl WorkerClient {
    /// A client that shows `secret` to workers.
    pub fn new(secret: Secret) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self { http, secret })
    }

    /// Sends a request to a worker.
    pub async fn open(
        &self,
        target: &Target,
        request: &InferenceRequest,
    ) -> Result<Connection, OpenError> {
        let url = format!("{}/v1/inference", target.address);
        let sent = self.http.post(url).bearer_auth(self.secret.expose()).json(request).send();
        let response = sent.await.map_err(|error| OpenError::Broken(with_causes(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(status, response).await);
        }
        let events = response.bytes_stream().eventsource().map(|message| {
            let message = message.map_err(|error| error.to_string())?;
            serde_json::from_str(&message.data).map_err(|error| format!("unreadable event: {error}"))
        });
        Ok(Connection { events: Box::pin(events) })
    }
}

impl Connection {
    /// The next event; an error when the worker ends the answer without its end.
    pub async fn next(&mut self) -> Result<InferenceEvent, String> {
        let ended = || Err("the worker ended the connection in the middle of the answer".to_owned());
        self.events.next().await.unwrap_or_else(ended)
    }
}

async fn refusal(status: reqwest::StatusCode, response: reqwest::Response) -> OpenError {
    let body = bounded(response).await;
    let detail = serde_json::from_slice::<ApiErrorBody>(&body).ok().map(|body| body.error);
    let told = detail.as_ref().map_or_else(|| status.to_string(), |d| d.message.clone());
    match (status.as_u16(), detail) {
        (400 | 413 | 422, Some(detail)) => {
            OpenError::Refused { status: StatusCode::BAD_REQUEST, detail }
        }
        (429 | 503, _) => OpenError::Busy(told),
        _ => OpenError::Broken(told),
    }
}

/// The body, cut where it becomes unreasonable.
async fn bounded(response: reqwest::Response) -> Vec<u8> {
    let mut pieces = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ERROR_BYTES {
            break;
        }
    }
    body
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
