//! Errors as they leave: OpenAI's error object, with a status.

use std::fmt;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind};

/// An error for the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body's `error`.
    pub detail: ErrorDetail,
    /// When it is worth trying again, in seconds.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error with any status; the kind follows from it.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 | 403 => ErrorKind::AuthenticationError,
            429 => ErrorKind::RateLimitError,
            503 => ErrorKind::ServiceUnavailableError,
            400..500 => ErrorKind::InvalidRequestError,
            _ => ErrorKind::ServerError,
        };
        let code = Some(code.to_owned());
        let detail = ErrorDetail { message: message.into(), kind, param: None, code, hint: None };
        Self { status, detail, retry_after_s: None }
    }

    /// 400: the request is at fault.
    #[must_use]
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404: what was asked for does not exist.
    #[must_use]
    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 409: it contradicts what is there.
    #[must_use]
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 401: no token, or a wrong one.
    #[must_use]
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    /// 403: not for this caller.
    #[must_use]
    pub fn forbidden(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 413: the body is too large.
    #[must_use]
    pub fn payload_too_large(max_bytes: u64) -> Self {
        let message = format!("the body is larger than {max_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// 429: too many for the moment.
    #[must_use]
    pub fn too_many_requests(code: &str, message: impl Into<String>, retry_after_s: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, message).retry_after(retry_after_s)
    }

    /// 503: nothing can serve it at present.
    #[must_use]
    pub fn unavailable(code: &str, message: impl Into<String>, retry_after_s: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(retry_after_s)
    }

    /// 500: rbee is at fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Says when it is worth trying again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.try_into().unwrap_or(u32::MAX));
        self
    }

    /// Names the request field that is at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.detail.param = Some(param.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ApiErrorBody { error: self.detail })).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
