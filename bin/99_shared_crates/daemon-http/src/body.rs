//! JSON bodies: bounded in size and time, and refused with the field that is at fault.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::EXPECT;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use worker_contract::cut_visibly;

use crate::{ApiError, apart};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// From which length a body, in bytes, is read apart from the threads that carry streams, which would
/// stand still meanwhile: images make bodies of megabytes.
const LONG: usize = 256 * 1024;

/// How much of a refused body is taken in and thrown away, in bytes, and for how long. A client
/// that still sends when the connection closes would see a broken connection and not the answer.
const DISCARD_BYTES: u64 = 256 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// The longest message about a body: serde quotes values, which can be long.
const MAX_MESSAGE: usize = 500;

/// The largest body, in bytes; the edge puts it into each request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit(pub(crate) u64);

impl BodyLimit {
    const WITHOUT_EDGE: Self = Self(10 * 1024 * 1024);

    fn of(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or(Self::WITHOUT_EDGE)
    }
}

/// A body that was JSON of the right shape.
///
/// The content type is not looked at: `curl -d` sends another one. What is wrong is a 400 that
/// names the field, or the line and column; too much is a 413, too slow a 408.
#[derive(Debug, Clone)]
pub struct ApiJson<T>(pub T);

/// The same of at most `MOST` bytes, also where the edge allows more.
#[derive(Debug, Clone)]
pub struct SmallJson<T, const MOST: u64>(pub T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limit = BodyLimit::of(&request);
        take(request, limit).await.map(Self)
    }
}

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync, const MOST: u64> FromRequest<S>
    for SmallJson<T, MOST>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limit = BodyLimit(BodyLimit::of(&request).0.min(MOST));
        take(request, limit).await.map(Self)
    }
}

async fn take<T: DeserializeOwned + Send + 'static>(
    request: Request,
    limit: BodyLimit,
) -> Result<T, ApiError> {
    let bytes = timeout(PATIENCE, read(request, limit)).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", PATIENCE.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
    })?;
    if bytes.len() < LONG {
        return parse(&bytes);
    }
    apart(move || parse(&bytes)).await?
}

/// Reads the whole body. Refusals are in boxes: every request would be moved with the room that they need.
async fn read(request: Request, limit: BodyLimit) -> Result<Bytes, ApiError> {
    if request.body().size_hint().lower() > limit.0 {
        return Err(Box::pin(refuse_too_large(request, limit)).await);
    }
    // A small body comes in one piece, which is kept as it is.
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        let incomplete =
            |_| ApiError::bad_request("incomplete_body", "the body did not arrive whole");
        let Ok(data) = frame.map_err(incomplete)?.into_data() else { continue };
        if (first.len() + whole.len() + data.len()) as u64 > limit.0 {
            let request = Request::from_parts(head, body);
            return Err(Box::pin(refuse_too_large(request, limit)).await);
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The refusal of a body that is too large, after what the client still sends was thrown away.
pub(crate) async fn refuse_too_large(request: Request, limit: BodyLimit) -> ApiError {
    // Who waits for a "100 Continue" sends nothing, and reading would ask for it.
    if !request.headers().contains_key(EXPECT) {
        let _ = timeout(DISCARD_TIME, discard(request.into_body())).await;
    }
    ApiError::payload_too_large(limit.0)
}

async fn discard(mut body: Body) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, |data| data.len() as u64);
        if seen > DISCARD_BYTES {
            return;
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // To follow the path to each value takes as long again, so it is followed only to what is wrong. And
    // as one text it is looked at once, not value by value.
    let parsed = std::str::from_utf8(bytes).ok().map(serde_json::from_str);
    match parsed {
        Some(Ok(parsed)) => Ok(parsed),
        _ => parse_with_path(bytes),
    }
}

fn parse_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if !cause.is_data() {
            return not_json(&cause);
        }
        let is_root = path == ".";
        let message = if is_root { cause.to_string() } else { format!("{path}: {cause}") };
        let refused = ApiError::bad_request("invalid_type", cut_visibly(message, MAX_MESSAGE));
        if is_root { refused } else { refused.param(cut_visibly(path, MAX_MESSAGE)) }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(parsed)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let message = format!("the body is not valid JSON: {error}");
    ApiError::bad_request("invalid_json", cut_visibly(message, MAX_MESSAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Body {
        sampling: Sampling,
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Sampling {
        max_tokens: u32,
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, code, param) in [
            ("{", "invalid_json", None),
            ("", "invalid_json", None),
            (r#"{"sampling":{"max_tokens":1}} x"#, "invalid_json", None),
            (r#"{"sampling":{"max_tokens":-1}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"sampling":{"max_tokens":"1"}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"samplign":1}"#, "invalid_type", Some("samplign")),
            ("{}", "invalid_type", None),
            ("[]", "invalid_type", None),
        ] {
            let error = parse::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error.detail.code.as_deref(), Some(code), "{body}: {error}");
            assert_eq!(error.detail.param.as_deref(), param, "{body}: {error}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        let error = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_long_wrong_value_is_not_sent_back_whole() {
        let long = format!(r#"{{"sampling":{{"max_tokens":"{}"}}}}"#, "ä".repeat(10_000));
        let error = parse::<Body>(long.as_bytes()).unwrap_err();
        assert!(error.detail.message.len() < 2 * MAX_MESSAGE, "{}", error.detail.message.len());
    }

    #[tokio::test]
    async fn a_long_body_is_understood_or_refused_as_a_short_one_is() {
        let long = "x".repeat(LONG);
        for (text, param) in [
            (format!(r#"{{"sampling":{{"max_tokens":1}}}}{}"#, " ".repeat(LONG)), None),
            (format!(r#"{{"sampling":{{"max_tokens":"{long}"}}}}"#), Some("sampling.max_tokens")),
        ] {
            let read = ApiJson::<Body>::from_request(Request::new(text.into()), &()).await;
            assert_eq!(
                read.as_ref().err().map(|error| error.detail.param.as_deref()),
                param.map(Some)
            );
        }
    }

    #[tokio::test]
    async fn a_small_body_has_a_limit_of_its_own_whether_its_length_is_told_or_not() {
        for (length, is_taken) in [(30, true), (31, false), (64, false)] {
            let text = format!("{:length$}", r#"{"sampling":{"max_tokens":1}}"#);
            let pieces: Vec<_> =
                text.bytes().map(|byte| Ok::<_, std::io::Error>(Bytes::from(vec![byte]))).collect();
            let untold = axum::body::Body::from_stream(futures::stream::iter(pieces));
            for body in [text.into(), untold] {
                let read = SmallJson::<Body, 30>::from_request(Request::new(body), &()).await;
                let status = read.as_ref().err().map(|error| error.status);
                let refused = (!is_taken).then_some(StatusCode::PAYLOAD_TOO_LARGE);
                assert_eq!(status, refused, "{length}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let stuck = axum::body::Body::from_stream(futures::stream::pending::<
            Result<Bytes, std::io::Error>,
        >());
        let refused = ApiJson::<serde_json::Value>::from_request(Request::new(stuck), &()).await;
        assert_eq!(refused.unwrap_err().status, StatusCode::REQUEST_TIMEOUT);
    }
}
