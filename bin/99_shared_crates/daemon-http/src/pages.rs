//! What the browser of a web page is told (CORS): whether the page may send a request, and read the answer.
//!
//! Who comes in is decided elsewhere, and for a page as for everybody: nothing here lets a request in.
//! - A page of this machine (`localhost` or a loopback address, any port) may ask and read: where no token is
//!   needed, every program of this machine may.
//! - Any other page may ask where tokens are needed, since its request is a 401 without one. Browsers add no token
//!   by themselves, as they do cookies, so a page that shows one was given it; it reads the answer. Of an answer to
//!   a request without a valid token it reads the 401 alone, so that it can tell its user; not `/health`, say.
//! - Where no token is needed, the browser of any other page is told nothing, and the request is refused; so is
//!   every page, whatever its origin, that reaches the daemon by a name (DNS rebinding).
//!
//! What browsers add by themselves is never allowed (`Access-Control-Allow-Credentials`). A browser that
//! remembers an answer from a time when tokens were needed sends a request that is then refused.

use access_tokens::Authenticator;
use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};

use crate::edge::bearer;
use crate::foreign_page;

/// What routes take.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";

/// For how many seconds a browser need not ask again.
const MAX_AGE: &str = "3600";

/// All of them: `retry-after`, `x-request-id`, where a request went.
const EXPOSED: &str = "*";

/// A page that a request says it is from.
pub(crate) struct Page {
    origin: HeaderValue,
    /// It may read every answer to this request.
    may_read: bool,
    needs_token: bool,
}

impl Page {
    /// `None` where no page is named: almost always, so that costs a look at the headers.
    pub(crate) fn of(auth: &Authenticator, headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(ORIGIN)?.clone();
        let has_secret = || auth.holder(bearer(headers)).is_some();
        let may_read = !foreign_page::could_have_sent(headers) || has_secret();
        Some(Self { origin, may_read, needs_token: auth.is_required() })
    }

    /// The answer to the question that a browser asks before the request itself, and without its token, if this is
    /// one and the page may ask.
    pub(crate) fn preflight(&self, request: &Request<Body>) -> Option<Response> {
        let asked = request.headers();
        let is_question = request.method() == Method::OPTIONS
            && asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_question || !(self.may_read || self.needs_token) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        // Programs send any header that they like; a wildcard would leave out `authorization`.
        if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        Some(response)
    }

    /// Says in an answer whether the page may read it.
    pub(crate) fn mark(self, response: &mut Response) {
        let is_refused = self.needs_token && response.status() == StatusCode::UNAUTHORIZED;
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.may_read || is_refused {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        }
    }
}
