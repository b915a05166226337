//! `POST /v1/chat/completions` and `/v1/completions`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use daemon_http::{ApiError, ApiJson, CallerExt};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, timeout};
use worker_contract::{InferenceRequest, ModelAlias, RequestId, WorkerId};

use super::describe;
use super::router::Facts;
use super::stream_body::stream_body;
use crate::dialect::openai::{
    Assembly, Body, Head, Kind, Understood, Writer, read_chat, read_completion, unknown_model,
};
use crate::registry::Registry;
use crate::relay::{Answer, Failure, Part, Relay};

/// The parts of an answer as they come.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<Part, Failure>> + Send>>;

/// How long a stream waits for its first part before it begins without one: until then an error has
/// a status of its own, and afterwards comments keep the connection alive.
const BEGIN_AFTER: Duration = Duration::from_secs(10);

/// The header with the time that the client gives, in milliseconds.
const DEADLINE: &str = "x-rbee-deadline-ms";
/// The header that names the worker.
const WORKER: HeaderName = HeaderName::from_static("x-rbee-worker");

pub(super) async fn chat(
    State(endpoint): State<Endpoint>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let understood = read_chat(body, request_id)?;
    endpoint.text(Kind::Chat, understood, &headers, &caller).await
}

pub(super) async fn completion(
    State(endpoint): State<Endpoint>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let understood = read_completion(body, request_id)?;
    endpoint.text(Kind::Completion, understood, &headers, &caller).await
}

/// What both endpoints use.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) relay: Relay,
    pub(super) registry: Registry,
    pub(super) facts: Arc<Facts>,
}

impl Endpoint {
    async fn text(
        self,
        kind: Kind,
        understood: Understood,
        headers: &HeaderMap,
        caller: &CallerExt,
    ) -> Result<Response, ApiError> {
        let Understood { model, request, fields, stream, include_usage } = understood;
        let n = request.n;
        let answer = self.begin(&model, request, headers, caller)?;
        let head = Head::new(kind, model, now());
        let parts = stream::unfold(answer, |mut answer| async move {
            answer.next().await.map(|part| (part, answer))
        });
        let answer = if stream {
            self.streamed(Writer::new(kind, head, include_usage, n), Box::pin(parts)).await
        } else {
            self.whole(kind, &head, n, Box::pin(parts)).await
        };
        answer.map_err(|error| fields.reword(error))
    }

    /// The answer to a request, of which nothing has come yet.
    pub(super) fn begin(
        &self,
        model: &str,
        request: InferenceRequest,
        headers: &HeaderMap,
        caller: &CallerExt,
    ) -> Result<Answer, ApiError> {
        let deadline = Instant::now() + self.time_allowed(headers)?;
        // What cannot be an alias cannot be the name of a model that exists.
        let Ok(alias) = model.parse::<ModelAlias>() else {
            let models = self.registry.models(std::time::Instant::now());
            return Err(unknown_model(model, models.keys()));
        };
        Ok(self.relay.answer(alias, request, deadline, &caller.0.to_string()))
    }

    /// The time that a request may take: the server's, or the client's if that is less.
    fn time_allowed(&self, headers: &HeaderMap) -> Result<Duration, ApiError> {
        let most = self.facts.request_timeout;
        let Some(value) = headers.get(DEADLINE) else { return Ok(most) };
        let asked = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        match asked {
            Some(millis) if millis > 0 => Ok(most.min(Duration::from_millis(millis))),
            _ => {
                let message =
                    format!("Invalid header '{DEADLINE}': expected milliseconds, from 1.");
                Err(ApiError::bad_request("invalid_value", message).param(DEADLINE))
            }
        }
    }

    async fn streamed(self, writer: Writer, mut parts: Parts) -> Result<Response, ApiError> {
        let (first, worker) = match timeout(BEGIN_AFTER, parts.next()).await {
            Ok(Some(Ok(Part::Started { worker_id }))) => {
                let worker = worker_id.clone();
                (Some(Part::Started { worker_id }), Some(worker))
            }
            Ok(Some(Ok(other))) => (Some(other), None),
            Ok(Some(Err(failure))) => return Err(describe(failure, &self.registry)),
            Ok(None) => return Err(unfinished()),
            Err(_) => (None, None),
        };
        let body = HttpBody::from_stream(stream_body(writer, first, parts, self.registry));
        let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
        Ok(with_worker((head, body).into_response(), worker))
    }

    async fn whole(
        self,
        kind: Kind,
        head: &Head,
        n: u32,
        mut parts: Parts,
    ) -> Result<Response, ApiError> {
        let (mut assembly, mut worker, mut end) = (Assembly::new(n), None, None);
        while let Some(part) = parts.next().await {
            match part.map_err(|failure| describe(failure, &self.registry))? {
                Part::Started { worker_id } => worker = Some(worker_id),
                Part::Delta(delta) => assembly.add(delta),
                Part::ChoiceDone { index, finish_reason } => assembly.end(index, finish_reason),
                Part::Done { finish_reason, usage, .. } => end = Some((finish_reason, usage)),
                // The relay gives these to who asks for them only.
                Part::Embedding { .. } | Part::Score { .. } => {}
            }
        }
        let (reason, usage) = end.ok_or_else(unfinished)?;
        let answer = Json(assembly.answer(kind, head, reason, usage)).into_response();
        Ok(with_worker(answer, worker))
    }
}

/// An answer ended without an end, which the relay does not let happen.
pub(super) fn unfinished() -> ApiError {
    ApiError::internal("the answer ended before it was done")
}

/// The response with the name of the worker in its head.
pub(super) fn with_worker(mut response: Response, worker: Option<WorkerId>) -> Response {
    let value = worker.and_then(|worker| HeaderValue::from_str(worker.as_str()).ok());
    if let Some(value) = value {
        response.headers_mut().insert(WORKER, value);
    }
    response
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
