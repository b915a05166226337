//! What a server's error means. Pure.

use serde_json::Value;
use worker_contract::{ErrorDetail, ErrorKind};

/// The longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 1000;

/// The type by which llama-server says that a prompt does not fit its context.
const TOO_LONG: &str = "exceed_context_size_error";
/// The words by which vLLM does.
const LONGER_THAN: &str = "maximum context length";

/// The words of an error: an object with a message, or a text.
pub(super) fn message_of(error: &Value) -> String {
    let text = error.get("message").unwrap_or(error).as_str();
    text.unwrap_or("it failed without a reason").chars().take(MAX_MESSAGE).collect()
}

/// The error in a body, if it is one in OpenAI's words or close to them.
#[must_use]
pub fn detail_of(body: &[u8]) -> Option<ErrorDetail> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Older servers put the object's fields right into the body.
    let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(&body);
    if !error.is_string() && error.get("message").is_none() {
        return None;
    }
    Some(detail(error))
}

fn detail(error: &Value) -> ErrorDetail {
    // A number as a code is the status once more (llama-server, vLLM).
    let text = |name: &str| {
        error.get(name)?.as_str().map(|text| text.chars().take(MAX_MESSAGE).collect::<String>())
    };
    let message = message_of(error);
    let is_too_long =
        text("type").is_some_and(|kind| kind == TOO_LONG) || message.contains(LONGER_THAN);
    ErrorDetail {
        kind: ErrorKind::InvalidRequestError,
        param: text("param"),
        code: text("code").or_else(|| is_too_long.then(|| "context_length_exceeded".to_owned())),
        hint: None,
        message,
    }
}

/// The error in an event of a stream, if it says that the request is at fault.
pub(super) fn refused_of(error: &Value) -> Option<ErrorDetail> {
    let status = error.get("code").and_then(Value::as_u64);
    let kind = error.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_at_fault = status.is_some_and(|status| matches!(status, 400 | 413 | 422))
        || matches!(kind, "BadRequestError" | "invalid_request_error");
    is_at_fault.then(|| detail(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_known_servers_are_understood_and_pages_are_none() {
        for (body, message, code) in [
            (
                r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
                "too long",
                Some("context_length_exceeded"),
            ),
            (
                r#"{"object":"error","message":"bad","type":"BadRequestError","param":null,"code":400}"#,
                "bad",
                None,
            ),
            (
                r#"{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size (8 tokens)","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#,
                "request (9 tokens) exceeds the available context size (8 tokens)",
                Some("context_length_exceeded"),
            ),
            (
                r#"{"error":{"message":"This model's maximum context length is 8 tokens.","type":"BadRequestError","param":null,"code":400}}"#,
                "This model's maximum context length is 8 tokens.",
                Some("context_length_exceeded"),
            ),
            (r#"{"error":"model 'x' not found"}"#, "model 'x' not found", None),
        ] {
            let detail = detail_of(body.as_bytes()).unwrap();
            assert_eq!((detail.message.as_str(), detail.code.as_deref()), (message, code));
        }
        for body in ["<html>Bad Gateway</html>", "", "[]", "{}", r#"{"error":5}"#] {
            assert_eq!(detail_of(body.as_bytes()), None, "{body}");
        }
    }
}
