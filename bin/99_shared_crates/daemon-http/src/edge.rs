//! What stands before every route: request id, token, origin, size, panics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use access_tokens::{Authenticator, Caller, Denied};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use tower::{BoxError, Service};
use tracing::Instrument as _;
use worker_contract::{RequestId, cut_visibly};

use crate::ApiError;
use crate::body::{BodyLimit, refuse_too_large};
use crate::check::Check;
use crate::foreign_page;
use crate::pages::Page;

/// How strict the edge is.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Who may come in.
    pub auth: Authenticator,
    /// The largest body, in bytes.
    pub max_body_bytes: u64,
}

/// Who sent a request; an extension of every request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerExt(pub Caller);

/// The caller has shown a secret that is valid, whether one was needed or not; an extension as well.
#[derive(Debug, Clone, Copy)]
struct HasSecret;

/// The header that carries a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest path or method that an error repeats, in bytes.
const MAX_ECHO: usize = 200;

/// Puts the edge before all routes.
///
/// - Every request has a [`RequestId`], given in `x-request-id` or made, as an extension, in each
///   log line of its handler, and in the answer, whatever that is.
/// - Every route but `/health` needs a token where [`Authenticator::is_required`]; who sent the
///   request is a [`CallerExt`]. Where no token is needed, a request without a valid one is refused
///   if a web page of another site could have made it.
/// - A body beyond the limit is a 413, an unknown route a 404, a panic a 500, each with an error
///   object.
pub fn edge(routes: Router, edge: Edge) -> Edged {
    let limit = BodyLimit(edge.max_body_bytes);
    let gate = Gate { auth: edge.auth, limit, for_pages: false };
    Edged { gate: Arc::new(gate), routes: with_fallbacks(routes), guarded: None }
}

/// Routes behind the edge.
///
/// No layer of a router, which is copied and put into boxes for each request.
#[derive(Debug, Clone)]
pub struct Edged {
    gate: Arc<Gate>,
    routes: Router,
    guarded: Option<SelfGuarded>,
}

/// Routes that look themselves at who comes in.
#[derive(Debug, Clone)]
struct SelfGuarded {
    is_theirs: fn(&str) -> bool,
    routes: Router,
}

impl Edged {
    /// The same, where the routes of some paths look themselves at who comes in: they are given all that
    /// the edge does but the look at the token.
    #[must_use]
    pub fn with_self_guarded(self, is_theirs: fn(&str) -> bool, routes: Router) -> Self {
        let routes = with_fallbacks(routes);
        Self { guarded: Some(SelfGuarded { is_theirs, routes }), ..self }
    }

    /// The same, where a web page may read the answers if it is one of this machine or shows a token: browsers
    /// are told so. Not those of routes that look themselves at who comes in.
    #[must_use]
    pub fn open_to_pages(self) -> Self {
        let gate = Gate { for_pages: true, ..Gate::clone(&self.gate) };
        Self { gate: Arc::new(gate), ..self }
    }
}

fn with_fallbacks(routes: Router) -> Router {
    routes.fallback(no_such_route).method_not_allowed_fallback(no_such_method)
}

impl<B> Service<axum::http::Request<B>> for Edged
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routers always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        let is_theirs = |guarded: &&SelfGuarded| (guarded.is_theirs)(request.uri().path());
        let (routes, admits) = match self.guarded.as_ref().filter(is_theirs) {
            Some(guarded) => (guarded.routes.clone(), false),
            None => (self.routes.clone(), true),
        };
        let gate = Arc::clone(&self.gate);
        Box::pin(async move { Ok(gate.serve(request, routes, admits).await) })
    }
}

/// What requests are held against.
#[derive(Debug, Clone)]
struct Gate {
    auth: Authenticator,
    limit: BodyLimit,
    for_pages: bool,
}

fn request_id(headers: &HeaderMap) -> (RequestId, Option<ApiError>) {
    match headers.get(&REQUEST_ID).map(|v| v.to_str().unwrap_or_default().parse()) {
        Some(Ok(id)) => (id, None),
        None => (RequestId::random(), None),
        Some(Err(error)) => {
            let message = format!("x-request-id: {error}");
            (RequestId::random(), Some(ApiError::bad_request("invalid_request_id", message)))
        }
    }
}

impl Gate {
    /// Answers a request. Whether its sender is admitted is looked at where the routes do not do so
    /// themselves.
    async fn serve(&self, mut request: Request, routes: Router, admits: bool) -> Response {
        let (id, refusal) = request_id(request.headers());
        let value = HeaderValue::from_str(id.as_str());
        let span = tracing::info_span!("request", %id);
        request.extensions_mut().insert(id);
        let page = if admits { self.page(request.headers()) } else { None };
        let preflight = page.as_ref().and_then(|page| page.preflight(&request));
        let mut response = match preflight.or_else(|| Some(refusal?.into_response())) {
            Some(at_once) => at_once,
            None => self.pass(request, routes, admits).instrument(span).await,
        };
        if let Some(page) = page {
            page.mark(&mut response);
        }
        if let Ok(value) = value {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    fn page(&self, headers: &HeaderMap) -> Option<Page> {
        if self.for_pages { Page::of(&self.auth, headers) } else { None }
    }

    async fn pass(&self, mut request: Request, mut routes: Router, admits: bool) -> Response {
        if admits {
            let admitted = if request.uri().path() == "/health" {
                Ok((Caller::Local, None))
            } else {
                admit(&self.auth, request.headers())
            };
            match admitted {
                Ok((caller, has_secret)) => {
                    request.extensions_mut().insert(CallerExt(caller));
                    has_secret.map(|has_secret| request.extensions_mut().insert(has_secret));
                }
                Err(refused) => return refused.into_response(),
            }
        }
        let declared = request.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > self.limit.0) {
            return refuse_too_large(request, self.limit).await.into_response();
        }
        request.extensions_mut().insert(self.limit);
        // For bodies that are read otherwise than as `ApiJson`.
        DefaultBodyLimit::max(usize::try_from(self.limit.0).unwrap_or(usize::MAX))
            .apply(&mut request);
        let answering = AssertUnwindSafe(async move { routes.call(request).await });
        let Ok(Ok(response)) = answering.catch_unwind().await else {
            tracing::error!("a request handler panicked");
            let message = "something went wrong inside rbee; its log says more";
            return ApiError::internal(message).into_response();
        };
        let kind = response.headers().get(CONTENT_TYPE);
        let is_object = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE && !is_object {
            return ApiError::payload_too_large(self.limit.0).into_response();
        }
        response
    }
}

fn admit(
    auth: &Authenticator,
    headers: &HeaderMap,
) -> Result<(Caller, Option<HasSecret>), ApiError> {
    let bearer = bearer(headers);
    // A page that can show a token was given it.
    if let Some(caller) = auth.holder(bearer) {
        return Ok((caller, Some(HasSecret)));
    }
    let caller = auth.verify(bearer).map_err(|denied| {
        let hint = match denied {
            Denied::Missing => {
                "send `Authorization: Bearer TOKEN`; `rbee-keeper token create` makes a token"
            }
            Denied::Wrong => "`rbee-keeper token list` shows which tokens are valid",
            Denied::SecretMissing | Denied::SecretWrong => {
                "no API token will do; docs/observing.md#metrics says where the secret is"
            }
        };
        ApiError::unauthorized(denied.to_string()).hint(hint)
    })?;
    if foreign_page::could_have_sent(headers) {
        let message = "without an API token, only programs and pages of this machine may ask, by \
                       its address or as localhost";
        return Err(ApiError::forbidden("foreign_origin", message).hint(
            "make a token with `rbee-keeper token create` and send it as `Authorization: Bearer TOKEN`",
        ));
    }
    Ok((caller, None))
}

/// Lets in only rbee's own processes, also where the edge needs no token: for routes whose callers'
/// word sends requests and secrets somewhere. A client's token is none of theirs.
///
/// Behind [`edge`], which has looked at the secret.
pub fn demand_secret<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.route_layer(Check(|request: &Request| {
        let extensions = request.extensions();
        let is_ours = matches!(
            extensions.get::<CallerExt>(),
            Some(CallerExt(Caller::Local | Caller::Hive(_)))
        );
        if is_ours && extensions.get::<HasSecret>().is_some() {
            return Ok(());
        }
        Err(ApiError::unauthorized("only rbee's own processes may report here")
            .hint("add a hive first, on the queen's side: rbee-keeper hive add NAME. A worker is started by its hive, or with --token-file and its hive's secret: on the queen's machine data/secrets/hives/localhost.token"))
    }))
}

/// Keeps hives of other machines out: their secrets are for their reports.
pub fn refuse_hives<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.route_layer(Check(|request: &Request| match request.extensions().get::<CallerExt>() {
        Some(CallerExt(Caller::Hive(hive))) => {
            let message = format!("the secret of hive {hive} is for its reports only");
            Err(ApiError::forbidden("hive_secret", message)
                .hint("use an API token: `rbee-keeper token create` makes one"))
        }
        _ => Ok(()),
    }))
}

/// The secret of `Authorization: Bearer …`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

async fn no_such_route(request: Request) -> ApiError {
    let path = cut_visibly(request.uri().path().to_owned(), MAX_ECHO);
    ApiError::not_found("unknown_route", format!("there is no route {path}"))
}

async fn no_such_method(request: Request) -> ApiError {
    let path = cut_visibly(request.uri().path().to_owned(), MAX_ECHO);
    let method = cut_visibly(request.method().to_string(), MAX_ECHO);
    let message = format!("{path} does not take {method}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
