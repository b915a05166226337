//! Answers that are no streams: read up to a limit, then understood.

use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind};

use crate::{ClientError, JobClient};

/// The longest answer, in bytes: a list of all jobs that a daemon keeps is far shorter.
const MAX_ANSWER: usize = 32 << 20;
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How much of an error that is no error object is shown, in characters.
const MAX_EXCERPT: usize = 200;

/// The answer's JSON.
pub(crate) async fn parse<T: DeserializeOwned>(
    client: &JobClient,
    response: Response,
) -> Result<T, ClientError> {
    let body = read(client, response, MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| client.protocol(error.to_string()))
}

/// The error that an HTTP error is.
pub(crate) async fn refused(client: &JobClient, response: Response) -> ClientError {
    let status = response.status();
    match read(client, response, MAX_ERROR).await {
        Ok(body) => ClientError::Api { status, detail: error_detail(status, &body) },
        Err(error) => error,
    }
}

async fn read(
    client: &JobClient,
    mut response: Response,
    max: usize,
) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| client.failed(error))? {
        if body.len() + chunk.len() > max {
            return Err(client.protocol(format!("an answer of more than {max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What an error's body says. One that is no error object is from something in between: a proxy, or
/// another server on the same port.
fn error_detail(status: StatusCode, body: &[u8]) -> ErrorDetail {
    if let Ok(body) = serde_json::from_slice::<ApiErrorBody>(body) {
        return body.error;
    }
    let text = String::from_utf8_lossy(body);
    let printable = text.chars().filter(|c| !c.is_control()).take(MAX_EXCERPT).collect::<String>();
    let message = match printable.trim() {
        "" => format!("HTTP {status}"),
        text => format!("HTTP {status}: {text}"),
    };
    ErrorDetail { message, kind: ErrorKind::ApiError, param: None, code: None, hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_an_error_object_shows_its_status_and_some_of_its_text() {
        let check = |body: &[u8], expected: &str| {
            assert_eq!(error_detail(StatusCode::BAD_GATEWAY, body).message, expected);
        };
        check(b"", "HTTP 502 Bad Gateway");
        check(b"\xff\x1b[31m", "HTTP 502 Bad Gateway: \u{fffd}[31m");
        check(b"<html>\nnginx", "HTTP 502 Bad Gateway: <html>nginx");
        check(br#"{"error":"text"}"#, r#"HTTP 502 Bad Gateway: {"error":"text"}"#);
        let long = error_detail(StatusCode::BAD_GATEWAY, &[b'x'; 10_000]).message;
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn an_error_object_is_taken_as_it_is() {
        let body = br#"{"error":{"message":"no job","type":"invalid_request_error","param":null,
            "code":"job_not_found","hint":"list them"}}"#;
        let detail = error_detail(StatusCode::NOT_FOUND, body);
        assert_eq!(detail.message, "no job");
        assert_eq!(detail.hint.as_deref(), Some("list them"));
    }
}
