//! What stands before every route: request id, token, origin, size.

use std::net::IpAddr;

use access_tokens::{Authenticator, Caller, Denied};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use worker_contract::RequestId;

use crate::ApiError;

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

/// The header that carries a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the edge before all routes.
///
/// Every request gets a [`RequestId`] and a [`CallerExt`] as extensions. `/health` needs no token.
/// Where no token is needed, requests that a web page of another site could have made are refused:
/// a browser would carry them out for anybody whose page it shows.
pub fn edge(routes: Router, edge: Edge) -> Router {
    let max_body = edge.max_body_bytes;
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(DefaultBodyLimit::max(limit))
        .layer(RequestBodyLimitLayer::new(limit))
        .layer(from_fn_with_state(max_body, too_large_as_object))
        .layer(from_fn_with_state(edge.auth, let_in))
        .layer(from_fn(with_request_id))
}

async fn no_such_route(request: Request) -> ApiError {
    ApiError::not_found("unknown_route", format!("there is no route {}", request.uri().path()))
}

async fn no_such_method(request: Request) -> ApiError {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    ApiError::internal("something went wrong inside rbee; its log says more").into_response()
}

/// A declared body that is too large is refused before it is read; this gives that answer its body.
async fn too_large_as_object(State(max): State<u64>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_object = response
        .headers()
        .get(axum::http::header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if response.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE && !is_object {
        return ApiError::payload_too_large(max).into_response();
    }
    response
}

async fn with_request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).map(|v| v.to_str().unwrap_or("").parse());
    let (id, refusal) = match given {
        Some(Ok(id)) => (id, None),
        None => (RequestId::random(), None),
        Some(Err(error)) => {
            let refused =
                ApiError::bad_request("invalid_request_id", format!("x-request-id: {error}"));
            (RequestId::random(), Some(refused))
        }
    };
    request.extensions_mut().insert(id.clone());
    let mut response = match refusal {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn let_in(State(auth): State<Authenticator>, mut request: Request, next: Next) -> Response {
    let caller = if request.uri().path() == "/health" {
        Caller::Local
    } else {
        match admit(&auth, request.headers()) {
            Ok(caller) => caller,
            Err(refused) => return refused.into_response(),
        }
    };
    request.extensions_mut().insert(CallerExt(caller));
    next.run(request).await
}

fn admit(auth: &Authenticator, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let caller = auth.verify(bearer(headers)).map_err(|denied| {
        let hint = match denied {
            Denied::Missing => {
                "send `Authorization: Bearer TOKEN`; `rbee-keeper token create` makes a token"
            }
            Denied::Wrong => "`rbee-keeper token list` shows which tokens are valid",
        };
        ApiError::unauthorized(denied.to_string()).hint(hint)
    })?;
    if !auth.is_required() && could_be_a_foreign_page(headers) {
        return Err(ApiError::forbidden(
            "foreign_origin",
            "requests from other web sites need an API token",
        )
        .hint(
            "make one with `rbee-keeper token create` and send it as `Authorization: Bearer TOKEN`",
        ));
    }
    Ok(caller)
}

/// The secret of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Whether a page of another site could have made this request: its `Origin` is not this machine,
/// or its `Host` is a name that somebody pointed at this machine (DNS rebinding).
fn could_be_a_foreign_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
    let foreign_host = text(HOST).is_some_and(|host| !names_machine(host, |_| true));
    let foreign_origin = text(ORIGIN).is_some_and(|origin| {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        !names_machine(host, |address| address.is_loopback())
    });
    foreign_host || foreign_origin
}

/// Whether `host[:port]` is `localhost` or an address that is allowed.
fn names_machine(host: &str, allowed: impl Fn(IpAddr) -> bool) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_site_is_told_from_this_machine() {
        let rows = [
            (Some("127.0.0.1:8500"), None, false),
            (Some("localhost:8500"), Some("http://localhost:3000"), false),
            (Some("[::1]:8500"), None, false),
            (None, None, false),
            (Some("evil.example:8500"), None, true),
            (Some("127.0.0.1:8500"), Some("https://evil.example"), true),
            (Some("127.0.0.1:8500"), Some("null"), true),
            (Some("127.0.0.1:8500"), Some("http://203.0.113.9"), true),
        ];
        for (host, origin, foreign) in rows {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(HOST, HeaderValue::from_static(host));
            }
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(could_be_a_foreign_page(&headers), foreign, "{host:?} {origin:?}");
        }
    }
}
