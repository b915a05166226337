//! JSON bodies.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// A body that was JSON of the right shape.
///
/// The content type is not looked at: `curl -d` sends another one. What is wrong is a 400 that
/// names the field, or the line and column; too much is a 413.
#[derive(Debug, Clone)]
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| unread(&e))?;
        parse(&bytes).map(Self)
    }
}

fn unread(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body is larger than this server accepts",
        );
    }
    ApiError::bad_request("incomplete_body", "the body did not arrive whole")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if !cause.is_data() {
            let message = format!("the body is not valid JSON: {cause}");
            return ApiError::bad_request("invalid_json", message);
        }
        let is_root = path == ".";
        let message = if is_root { cause.to_string() } else { format!("{path}: {cause}") };
        let refused = ApiError::bad_request("invalid_type", message);
        if is_root { refused } else { refused.param(path) }
    })?;
    json.end().map_err(|error| {
        ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {error}"))
    })?;
    Ok(parsed)
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
        let rows = [
            ("{", "invalid_json", None),
            ("", "invalid_json", None),
            (r#"{"sampling":{"max_tokens":1}} x"#, "invalid_json", None),
            (r#"{"sampling":{"max_tokens":-1}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"sampling":{"max_tokens":"1"}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"samplign":1}"#, "invalid_type", Some("samplign")),
            ("[]", "invalid_type", None),
        ];
        for (body, code, param) in rows {
            let error = parse::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error.detail.code.as_deref(), Some(code), "{body}: {error}");
            if param.is_some() {
                assert_eq!(error.detail.param.as_deref(), param, "{body}: {error}");
            }
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        let error = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }
}
