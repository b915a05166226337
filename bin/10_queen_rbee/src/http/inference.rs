//! `POST /v1/chat/completions` and `/v1/completions`.

use std::num::IntErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use daemon_http::{AnswerEnds, ApiError, ApiJson, CallerExt};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use worker_contract::{InferenceRequest, ModelAlias, RequestId, Task, WorkerId};

use super::describe;
use super::router::Handlers;
use super::several::{Room, at_its_end, each_prompt, together};
use super::stream_body::stream_body;
use crate::admission::Priority;
use crate::attached::{Endpoint, Original, VIA};
use crate::clock::unix_seconds;
use crate::decisions::{self, Decided};
use crate::dialect::openai::{
    Assembly, Body, Completion, Head, Kind, Understood, Writer, read_chat, read_completion, shown,
    unknown_model,
};
use crate::registry::SessionKey;
use crate::relay::{Answer, Asking, Failure, Part};
use crate::scheduler::Reason;

/// The parts of an answer as they come.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<Part, Failure>> + Send>>;

/// How long a stream waits for its first part before it begins without one: until then an error has
/// a status of its own, and afterwards comments keep the connection alive.
const BEGIN_AFTER: Duration = Duration::from_secs(10);

/// The header with the time that the client gives, in milliseconds.
const DEADLINE: &str = "x-rbee-deadline-ms";
/// The header with how urgent the request is.
const PRIORITY: &str = "x-rbee-priority";
/// The header that names a session, whose requests go to one worker where that is possible.
const SESSION: &str = "x-rbee-session";
/// The longest name of a session.
const MAX_SESSION: usize = 256;
/// What most whole answers have room in, in bytes.
const SMALL_ANSWER: usize = 1024;
/// The longest value of [`VIA`], in bytes: more queens than a house has.
const MAX_VIA: usize = 512;
/// The header that names the worker.
pub(super) const WORKER: HeaderName = HeaderName::from_static("x-rbee-worker");
/// The header that says what decided for that worker.
pub(super) const ROUTE: HeaderName = HeaderName::from_static("x-rbee-route");

/// How an answer is given.
struct Form {
    kind: Kind,
    stream: bool,
    include_usage: bool,
    choices: u32,
    deadline: Instant,
}

/// The worker, and what decided for it.
pub(super) type Route = (WorkerId, Reason);

pub(super) async fn chat(
    State(handlers): State<Handlers>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let original = handlers.original(Endpoint::Chat, &body);
    let model = model_of(&body);
    let understood = handlers.counted(model.as_deref(), read_chat(body, request_id))?;
    handlers.text(Kind::Chat, understood, original, &headers, &caller).await
}

pub(super) async fn completion(
    State(handlers): State<Handlers>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let original = handlers.original(Endpoint::Completion, &body);
    let model = model_of(&body);
    let understood = handlers.counted(model.as_deref(), read_completion(body, request_id));
    let Completion { first, others } = understood?;
    if others.is_empty() {
        return handlers.text(Kind::Completion, first, original, &headers, &caller).await;
    }
    let asking = handlers.asking(&headers, &caller);
    let asking = handlers.counted(Some(&first.model), asking)?;
    let asking = Asking { is_whole: !first.stream, ..asking };
    handlers.texts(first, others, original, asking).await
}

/// What the endpoints for answers have in common.
impl Handlers {
    /// What came, where a server of somebody else could be given it.
    pub(super) fn original(&self, sent_to: Endpoint, body: &Body) -> Original {
        if self.registry.has_servers() {
            Original::new(sent_to, body.clone())
        } else {
            Original::of_no_server(sent_to)
        }
    }

    async fn text(
        self,
        kind: Kind,
        understood: Understood,
        original: Original,
        headers: &HeaderMap,
        caller: &CallerExt,
    ) -> Result<Response, ApiError> {
        let Understood { model, request, fields, stream, include_usage } = understood;
        let asking = self.counted(Some(&model), self.asking(headers, caller))?;
        let asking = Asking { is_whole: !stream, ..asking };
        let (choices, deadline) = (request.n, asking.deadline);
        let form = Form { kind, stream, include_usage, choices, deadline };
        let answer = self.begin(&model, request, original, asking)?;
        let given = self.give(model, form, Box::pin(parts_of(answer))).await;
        given.map_err(|error| fields.reword(error))
    }

    /// The answers to several prompts as one.
    async fn texts(
        self,
        first: Understood,
        others: Vec<Task>,
        original: Original,
        asking: Asking,
    ) -> Result<Response, ApiError> {
        let Understood { model, request, fields, stream, include_usage } = first;
        let alias = self.alias(&model, &request.request_id, &asking)?;
        let (prompts, n) = (others.len() + 1, request.n);
        let choices = n.saturating_mul(u32::try_from(prompts).unwrap_or(u32::MAX));
        let (kind, deadline) = (Kind::Completion, asking.deadline);
        let form = Form { kind, stream, include_usage, choices, deadline };
        let relay = self.relay.clone();
        let answers = each_prompt(request, others, original)
            .map(move |(request, original)| relay.answer(&alias, request, original, asking.clone()))
            .map(parts_of);
        let parts: Parts = if stream {
            Box::pin(together(answers, prompts, n))
        } else {
            let room = Arc::<Room>::default();
            let answers = answers.map(move |parts| at_its_end(parts, Arc::clone(&room)));
            Box::pin(together(answers, prompts, n))
        };
        let given = self.give(model, form, parts).await;
        given.map_err(|error| fields.reword(error))
    }

    /// The answer whose parts these are, streamed or whole.
    async fn give(self, model: String, form: Form, parts: Parts) -> Result<Response, ApiError> {
        let Form { kind, stream, include_usage, choices, deadline } = form;
        let head = Head::new(kind, model, unix_seconds());
        if stream {
            let writer = Writer::new(kind, &head, include_usage, choices);
            self.streamed(writer, parts, deadline).await
        } else {
            self.whole(kind, &head, choices, parts).await
        }
    }

    /// The answer to a request, of which nothing has come yet.
    pub(super) fn begin(
        &self,
        model: &str,
        request: InferenceRequest,
        original: Original,
        asking: Asking,
    ) -> Result<Box<Answer>, ApiError> {
        let alias = self.alias(model, &request.request_id, &asking)?;
        Ok(self.relay.answer(&alias, request, original, asking))
    }

    /// The model that a client calls so.
    fn alias(
        &self,
        model: &str,
        request_id: &RequestId,
        asking: &Asking,
    ) -> Result<ModelAlias, ApiError> {
        let alias = self.known_as(model).ok_or_else(|| {
            let why = format!("the model '{}' does not exist", shown(model));
            let refused = Decided::told(decisions::Kind::Reject, "unknown_model", why);
            let decisions = self.relay.dispatcher().decisions();
            decisions.record(refused.asked(request_id, &asking.caller));
            let models = self.registry.models(std::time::Instant::now());
            unknown_model(model, models.keys())
        });
        self.counted(Some(model), alias)
    }

    fn known_as(&self, model: &str) -> Option<ModelAlias> {
        // What cannot be an alias is the name of no model but at a server of somebody else.
        model.parse::<ModelAlias>().ok().or_else(|| self.registry.alias_of(model))
    }

    /// What is understood of a request for a model. A request that is refused for what it says is counted
    /// here: no answer is begun that would count it.
    pub(super) fn counted<T>(
        &self,
        model: Option<&str>,
        understood: Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if understood.is_err() {
            let metrics = self.relay.metrics();
            let alias = model.and_then(|model| self.known_as(model));
            let figures = alias.map_or_else(
                || metrics.other(),
                |alias| {
                    let alias = self.registry.meant(&alias);
                    metrics.of_unplaced(&alias, self.registry.knows_model(&alias))
                },
            );
            figures.ended("refused");
        }
        understood
    }

    /// What the headers say of how the request is to be treated.
    pub(super) fn asking(
        &self,
        headers: &HeaderMap,
        caller: &CallerExt,
    ) -> Result<Asking, ApiError> {
        let deadline = Instant::now() + self.time_allowed(headers)?;
        let caller = caller.0.to_string();
        let priority = match text(headers, PRIORITY)? {
            None | Some("interactive") => Priority::Interactive,
            Some("batch") => Priority::Batch,
            Some(_) => return Err(invalid(PRIORITY, "interactive or batch")),
        };
        let session = match text(headers, SESSION)? {
            None => None,
            Some(name) if (1..=MAX_SESSION).contains(&name.len()) => {
                Some(SessionKey { caller: caller.clone(), name: name.to_owned() })
            }
            Some(_) => return Err(invalid(SESSION, "1 to 256 characters")),
        };
        let via = match text(headers, VIA)? {
            Some(via) if via.len() > MAX_VIA => return Err(invalid(VIA, "fewer queens")),
            Some(via) if via.contains('\t') => return Err(invalid(VIA, "names and commas")),
            via => via.unwrap_or_default().to_owned(),
        };
        Ok(Asking { caller, deadline, priority, session, via, is_whole: false })
    }

    /// The time that a request may take: the server's, or the client's if that is less.
    fn time_allowed(&self, headers: &HeaderMap) -> Result<Duration, ApiError> {
        let most = self.facts.request_timeout;
        let Some(asked) = text(headers, DEADLINE)? else { return Ok(most) };
        match asked.parse::<u64>() {
            Ok(millis) if millis > 0 => Ok(most.min(Duration::from_millis(millis))),
            // What is too much to be counted is more than a request can have, too.
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => Ok(most),
            _ => Err(invalid(DEADLINE, "milliseconds, from 1")),
        }
    }

    async fn streamed(
        self,
        writer: Writer,
        mut parts: Parts,
        deadline: Instant,
    ) -> Result<Response, ApiError> {
        let (first, route) = match timeout(BEGIN_AFTER, parts.next()).await {
            Ok(Some(Ok(Part::Started { worker_id, why }))) => {
                let route = (worker_id.clone(), why.reason);
                (Some(Part::Started { worker_id, why }), Some(route))
            }
            Ok(Some(Ok(other))) => (Some(other), None),
            Ok(Some(Err(failure))) => return Err(describe(failure, &self.registry)),
            Ok(None) => return Err(unfinished()),
            Err(_) => (None, None),
        };
        let open = self.relay.metrics().open_stream();
        // Also where nobody reads it, and so nobody asks it for its next part.
        let (ends, unfinished) = AnswerEnds::at(deadline);
        let pieces = stream_body(writer, first, parts, self.registry.clone()).map(move |piece| {
            let _held = (&open, &unfinished);
            piece
        });
        let body = HttpBody::from_stream(pieces);
        let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
        Ok(with_route((head, Extension(ends), body).into_response(), route))
    }

    async fn whole(
        self,
        kind: Kind,
        head: &Head,
        n: u32,
        mut parts: Parts,
    ) -> Result<Response, ApiError> {
        let (mut assembly, mut route, mut end) = (Assembly::new(n), None, None);
        while let Some(part) = parts.next().await {
            match part.map_err(|failure| describe(failure, &self.registry))? {
                Part::Started { worker_id, why } => {
                    route = Some((worker_id, why.reason));
                    assembly = Assembly::new(n);
                }
                // Who completes it is named.
                Part::GoesOn { worker_id, why } => route = Some((worker_id, why.reason)),
                Part::Delta(delta) => assembly.add(delta),
                Part::Aside(aside) => assembly.aside(aside),
                Part::ChoiceDone { index, finish_reason } => assembly.end(index, finish_reason),
                Part::Done { finish_reason, usage, .. } => end = Some((finish_reason, usage)),
                // The relay gives these to who asks for them only.
                Part::Embedding { .. } | Part::Score { .. } => {}
            }
        }
        let (reason, usage) = end.ok_or_else(unfinished)?;
        let answer = json(&assembly.answer(kind, head, reason, usage))?;
        Ok(with_route(answer, route))
    }
}

/// A response with a value as JSON, with room at once for a small answer.
fn json(value: &impl Serialize) -> Result<Response, ApiError> {
    let mut body = Vec::with_capacity(SMALL_ANSWER);
    serde_json::to_writer(&mut body, value)
        .map_err(|error| ApiError::internal(format!("the answer cannot be written: {error}")))?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// The model that a body asks for, if it names one.
pub(super) fn model_of(body: &Body) -> Option<String> {
    body.get("model")?.as_str().map(str::to_owned)
}

/// The parts of an answer, which is in a box, since their stream moves it with each.
fn parts_of(answer: Box<Answer>) -> impl Stream<Item = Result<Part, Failure>> + Send {
    stream::unfold(
        answer,
        |mut answer| async move { answer.next().await.map(|part| (part, answer)) },
    )
}

/// An answer ended without an end, which the relay does not let happen.
pub(super) fn unfinished() -> ApiError {
    ApiError::internal("the answer ended before it was done")
}

/// The response with the name of the worker in its head, and what decided for it.
pub(super) fn with_route(mut response: Response, route: Option<Route>) -> Response {
    let Some((worker, reason)) = route else { return response };
    let headers = response.headers_mut();
    headers.insert(ROUTE, HeaderValue::from_static(reason.as_str()));
    if let Ok(worker) = HeaderValue::from_str(worker.as_str()) {
        headers.insert(WORKER, worker);
    }
    response
}

/// The text of a header, without the space around it.
fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(invalid(name, "plain text")),
    }
}

fn invalid(header: &'static str, expected: &str) -> ApiError {
    let message = format!("Invalid header '{header}': expected {expected}.");
    ApiError::bad_request("invalid_value", message).param(header)
}
