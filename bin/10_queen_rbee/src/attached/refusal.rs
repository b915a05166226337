//! What a server's error means. Pure.

use axum::http::StatusCode;
use rbee_operations::without_user;
use serde_json::Value;
use worker_contract::{ErrorDetail, ErrorKind, HiveAlias};

use crate::registry::Server;

/// The longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 1000;
/// How much is passed on of a text that is no message, in characters.
const MAX_LINE: usize = 200;

/// The type by which llama-server says that a prompt does not fit its context.
const TOO_LONG: &str = "exceed_context_size_error";
/// The words by which vLLM does.
const LONGER_THAN: &str = "maximum context length";

/// The hint where a server lacks an endpoint.
pub const HIVES_SERVE: &str = "a hive that has the model serves every endpoint that suits it";

/// What is said of a body that cannot be read.
const NOT_UNDERSTOOD: &str = " in words that are not understood";

/// The words of an error: an object with a message, or a text.
pub(super) fn message_of(error: &Value) -> String {
    let text = error.get("message").unwrap_or(error).as_str();
    text.unwrap_or("it failed without a reason").chars().take(MAX_MESSAGE).collect()
}

/// The error in a body, if it is one in OpenAI's words, close to them, or in those of `FastAPI`.
#[must_use]
pub fn detail_of(body: &[u8]) -> Option<ErrorDetail> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Older servers put the object's fields right into the body.
    let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(&body);
    if is_worded(error) {
        return Some(detail(error));
    }
    let error = body.get("detail")?;
    match error.get(0) {
        Some(first) => unfit_field(first).as_ref().map(detail),
        None => is_worded(error).then(|| detail(error)),
    }
}

fn is_worded(error: &Value) -> bool {
    error.is_string() || error.get("message").is_some()
}

/// What `FastAPI` says of a field that it does not take: where it is, and why.
fn unfit_field(told: &Value) -> Option<Value> {
    let why = told.get("msg")?.as_str()?;
    let path = told.get("loc").and_then(Value::as_array).into_iter().flatten();
    let path: Vec<_> =
        path.map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
    Some(if path.is_empty() { why.into() } else { format!("{}: {why}", path.join(".")).into() })
}

/// What there is to say of a body in which no error is understood, behind its status: the first line of a
/// text that is neither JSON nor a page.
#[must_use]
pub fn said_otherwise(status: StatusCode, body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else { return NOT_UNDERSTOOD.to_owned() };
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default().trim_end();
    let is_repeated = status.canonical_reason().is_some_and(|name| name.eq_ignore_ascii_case(text));
    if text.is_empty() || is_repeated {
        return " without a reason".to_owned();
    }
    if line.starts_with(['<', '{', '[']) || line.contains(char::is_control) {
        return NOT_UNDERSTOOD.to_owned();
    }
    let line: String = line.chars().take(MAX_LINE).collect();
    format!(": {line}")
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

/// An error that is nothing but a message.
#[must_use]
pub fn wordless(message: String) -> ErrorDetail {
    let kind = ErrorKind::InvalidRequestError;
    ErrorDetail { message, kind, param: None, code: None, hint: None }
}

/// A request that a server has not met.
#[derive(Debug)]
pub struct Unmet<'a> {
    /// What the server is called here.
    pub name: &'a HiveAlias,
    /// The model at the server.
    pub server: &'a Server,
    /// What it was asked at.
    pub path: &'a str,
    /// Its status.
    pub status: StatusCode,
    /// Its error, if it has told one.
    pub words: Option<&'a ErrorDetail>,
    /// Where else it sends whoever asks, if it says so.
    pub location: Option<&'a str>,
}

/// What a server means that does not meet a request, where neither of the two is at fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// It has not got what is asked for, or does not give it to this queen.
    Lacking {
        /// The status for the client.
        told: StatusCode,
        /// What the client is told.
        detail: ErrorDetail,
        /// The same without the server's words, which may repeat the request.
        wordless: String,
    },
    /// It does not take this queen's token, or wants one.
    LockedOut(String),
}

impl Unmet<'_> {
    /// What it means; `None` where it says something else.
    #[must_use]
    pub fn meaning(&self) -> Option<Meaning> {
        let Self { name, server, path, status, words, .. } = self;
        if status.is_redirection() {
            return Some(self.redirects());
        }
        let (what, told) = match status.as_u16() {
            401 => {
                return Some(Meaning::LockedOut(format!(
                    "it refuses the token, or demands one (HTTP {status}); attach it again with \
                     --secret-file FILE"
                )));
            }
            403 => ("does not let this queen use", StatusCode::FORBIDDEN),
            404 | 405 | 501 => ("does not serve", StatusCode::NOT_FOUND),
            _ => return None,
        };
        let model = &server.model;
        let wordless = format!("the server {name} {what} {path} of {model} (HTTP {status})");
        let message = match words {
            Some(detail) => format!("{wordless}: {}", detail.message),
            None => wordless.clone(),
        };
        let detail = ErrorDetail {
            code: Some("unsupported_by_server".to_owned()),
            hint: Some(HIVES_SERVE.to_owned()),
            ..self::wordless(message)
        };
        Some(Meaning::Lacking { told, detail, wordless })
    }

    /// What is sent elsewhere is not followed there: nobody has attached that.
    fn redirects(&self) -> Meaning {
        let Self { name, server, path, status, location, .. } = self;
        let model = &server.model;
        let wordless = format!("the server {name} redirects {path} of {model} (HTTP {status})");
        let message = match location.map(shown) {
            Some(to) if !to.is_empty() => format!("{wordless} to {to}"),
            _ => format!("{wordless}, and does not say where to"),
        };
        let detail = ErrorDetail {
            kind: ErrorKind::ServerError,
            code: Some("unsupported_by_server".to_owned()),
            hint: Some("attach the server by the URL that it redirects to".to_owned()),
            ..self::wordless(message)
        };
        Meaning::Lacking { told: StatusCode::BAD_GATEWAY, detail, wordless }
    }
}

/// A place as it may be told: without a user, and without what may be a token or the prompt.
fn shown(location: &str) -> String {
    let place = location.split(['?', '#']).next().unwrap_or_default();
    let place = match place.strip_prefix("//") {
        Some(host) => without_user(&format!("http://{host}")).replacen("http:", "", 1),
        None => without_user(place),
    };
    place.chars().take(MAX_LINE).collect()
}

/// The error in an event of a stream, if it says that the request is at fault.
pub(super) fn refused_of(error: &Value) -> Option<ErrorDetail> {
    let status = error.get("code").and_then(Value::as_u64);
    let kind = error.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_at_fault = status.is_some_and(|status| matches!(status, 400 | 413 | 422))
        || matches!(kind, "BadRequestError" | "invalid_request_error");
    is_at_fault.then(|| detail(error))
}

/// The error in place of an answer, if it says in words what is wrong.
pub(super) fn worded(error: &Value) -> Option<ErrorDetail> {
    let words = error.get("message").unwrap_or(error).as_str()?;
    (!words.is_empty()).then(|| detail(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attached::Engine;

    #[test]
    fn a_server_that_lacks_something_or_locks_the_queen_out_is_told_from_one_that_fails() {
        let (name, url) = ("nas".parse().unwrap(), "http://nas:1".parse().unwrap());
        let server = Server {
            url,
            model: "org/m".into(),
            engine: Engine::Unknown,
            most_answers: None,
            names_its_model: false,
        };
        let said = wordless("no such thing".into());
        for (status, words, expected) in [
            (
                404,
                None,
                Some((
                    404,
                    "the server nas does not serve /v1/rerank of org/m (HTTP 404 Not Found)",
                )),
            ),
            (404, Some(&said), Some((404, "(HTTP 404 Not Found): no such thing"))),
            (405, None, Some((404, "does not serve"))),
            (501, Some(&said), Some((404, "does not serve"))),
            (403, Some(&said), Some((403, "does not let this queen use"))),
            (
                401,
                Some(&said),
                Some((
                    0,
                    "it refuses the token, or demands one (HTTP 401 Unauthorized); attach it again",
                )),
            ),
            (400, Some(&said), None),
            (429, None, None),
            (500, Some(&said), None),
            (502, None, None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let path = "/v1/rerank";
            let unmet = Unmet { name: &name, server: &server, path, status, words, location: None };
            let meaning = unmet.meaning().map(|meaning| match meaning {
                Meaning::Lacking { told, detail, wordless } => {
                    assert!(!wordless.contains("no such thing"), "{wordless}");
                    (told.as_u16(), detail.message)
                }
                Meaning::LockedOut(reason) => (0, reason),
            });
            let is_it = match (&meaning, expected) {
                (Some((told, message)), Some((code, part))) => {
                    *told == code && message.contains(part)
                }
                (None, None) => true,
                _ => false,
            };
            assert!(is_it, "{status}: {meaning:?}");
        }
    }

    #[test]
    fn where_a_server_redirects_to_is_told_without_what_nobody_else_is_to_see() {
        let (name, url) = ("nas".parse().unwrap(), "http://nas:1".parse().unwrap());
        let (model, engine) = ("m".into(), Engine::Unknown);
        let server = Server { url, model, engine, most_answers: None, names_its_model: false };
        let long = format!("/{}", "x".repeat(300));
        let cut = format!(" to /{}", "x".repeat(MAX_LINE - 1));
        for (location, expected) in [
            (
                Some("https://u:hush@llm.example/v1/chat?key=hush#x"),
                " to https://llm.example/v1/chat",
            ),
            (Some("//u:hush@llm.example/v1"), " to //llm.example/v1"),
            (Some("/login?next=hush"), " to /login"),
            (Some(long.as_str()), cut.as_str()),
            (Some("?hush"), ", and does not say where to"),
            (None, ", and does not say where to"),
        ] {
            let (path, status) = ("/v1/rerank", StatusCode::TEMPORARY_REDIRECT);
            let unmet = Unmet { name: &name, server: &server, path, status, words: None, location };
            let Some(Meaning::Lacking { told, detail, wordless }) = unmet.meaning() else {
                panic!("{location:?}")
            };
            let head = "the server nas redirects /v1/rerank of m (HTTP 307 Temporary Redirect)";
            assert_eq!((told.as_u16(), wordless.as_str()), (502, head));
            assert_eq!(detail.message, format!("{head}{expected}"));
        }
    }

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
            (r#"{"detail":"no such adapter"}"#, "no such adapter", None),
            (r#"{"error":null,"detail":{"message":"full","code":"oom"}}"#, "full", Some("oom")),
            (
                r#"{"detail":[{"type":"less_than","loc":["body","messages",0],"msg":"too many"},{"msg":"b"}]}"#,
                "body.messages.0: too many",
                None,
            ),
            (r#"{"detail":[{"msg":"too many"}]}"#, "too many", None),
        ] {
            let detail = detail_of(body.as_bytes()).unwrap();
            assert_eq!((detail.message.as_str(), detail.code.as_deref()), (message, code));
        }
        for body in [
            "<html>Bad Gateway</html>",
            "",
            "[]",
            "{}",
            r#"{"error":5}"#,
            r#"{"detail":5}"#,
            r#"{"detail":[]}"#,
            r#"{"detail":["x"]}"#,
        ] {
            assert_eq!(detail_of(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn of_a_body_without_an_error_that_is_understood_the_first_line_of_a_text_is_told() {
        let (nothing, foreign) = (" without a reason", NOT_UNDERSTOOD);
        let long = "x".repeat(300);
        let cut = format!(": {}", "x".repeat(MAX_LINE));
        for (body, expected) in [
            ("", nothing),
            (" \r\n", nothing),
            ("bad gateway\n", nothing),
            ("upstream is away\r\nsince noon", ": upstream is away"),
            (long.as_str(), cut.as_str()),
            ("<html>Bad Gateway</html>", foreign),
            (r#"{"reason": 5}"#, foreign),
            ("[]", foreign),
            ("\u{1f}\u{8b}", foreign),
        ] {
            let told = said_otherwise(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(told, expected, "{body}");
        }
        assert_eq!(said_otherwise(StatusCode::BAD_GATEWAY, &[0x1f, 0x8b]), foreign);
    }
}
