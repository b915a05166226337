//! What a server's error means. Pure.

use serde_json::Value;
use worker_contract::{ErrorDetail, ErrorKind};

/// The longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 1000;

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
    let text = |name: &str| match error.get(name) {
        Some(Value::String(text)) => Some(text.chars().take(MAX_MESSAGE).collect::<String>()),
        // vLLM's code is the status.
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    Some(ErrorDetail {
        message: message_of(error),
        kind: ErrorKind::InvalidRequestError,
        param: text("param"),
        code: text("code"),
        hint: None,
    })
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
                Some("400"),
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
