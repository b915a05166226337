//! The one shape of an error over HTTP: OpenAI's error object, with a hint.

use serde::{Deserialize, Serialize};

/// The body of an HTTP error: `{"error": {…}}`.
///
/// The shape is that of OpenAI's API reference, "Error object"; `hint` is rbee's addition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What happened, what it concerns, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For a person.
    pub message: String,
    /// The broad kind.
    #[serde(rename = "type")]
    pub kind: ErrorKind,
    /// The request field that is at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// A stable machine name, such as `model_not_found` or `context_length_exceeded`.
    #[serde(default)]
    pub code: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The broad kind of an error, as OpenAI names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is at fault (400, 404, 409, 413, 422).
    InvalidRequestError,
    /// No token, or a wrong one (401, 403).
    AuthenticationError,
    /// Too many requests for the moment (429).
    RateLimitError,
    /// Nothing can serve the request at present (503).
    ServiceUnavailableError,
    /// rbee is at fault (500, 502).
    ServerError,
    /// Any other kind that a peer sent.
    #[serde(other)]
    ApiError,
}
