//! What is asked, in any of the dialects.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use worker_contract::{InferenceRequest, Prompt, Task};

use super::answer::Answer;
use super::dialect::Dialect;
use crate::order::Order;

type Body = Either<Answer, Full<Bytes>>;

/// Answers one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    model: &'static str,
) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let dialect = match (method, path.as_str()) {
        (Method::POST, "/v1/inference") => Dialect::Worker,
        (Method::POST, "/v1/chat/completions") => Dialect::Chat,
        (Method::POST, "/v1/completions") => Dialect::Completion,
        (Method::GET, path) => return Ok(look_up(path, model)),
        _ => return Ok(refused(StatusCode::NOT_FOUND, "there is no such route")),
    };
    let Ok(body) = request.into_body().collect().await else {
        return Ok(refused(StatusCode::BAD_REQUEST, "the body did not arrive"));
    };
    Ok(match Asked::read(dialect, &body.to_bytes()) {
        Ok(asked) if asked.is_stream => {
            let answer = Either::Left(Answer::new(dialect, asked.order, asked.given));
            with_type(answer, "text/event-stream")
        }
        Ok(asked) => whole(dialect.whole(asked.order)),
        Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
    })
}

struct Asked {
    order: Order,
    is_stream: bool,
    /// How many tokens the client has already.
    given: u32,
}

#[derive(Deserialize)]
struct OpenAi {
    #[serde(default)]
    messages: Vec<Message>,
    prompt: Option<String>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

impl Asked {
    fn read(dialect: Dialect, body: &[u8]) -> anyhow::Result<Self> {
        if dialect == Dialect::Worker {
            let request: InferenceRequest = serde_json::from_slice(body)?;
            let text = match &request.task {
                Task::Chat(chat) => chat.messages.last().map(|message| message.content.as_str()),
                Task::Completion { prompt: Prompt::Text(text) } => Some(text.as_str()),
                _ => None,
            };
            let order = text.unwrap_or_default().parse()?;
            let given = u32::try_from(request.resume.len())?;
            return Ok(Self { order, is_stream: true, given });
        }
        let request: OpenAi = serde_json::from_slice(body)?;
        let message = request.messages.last().map(|message| message.content.as_str());
        let order = message.or(request.prompt.as_deref()).unwrap_or_default().parse()?;
        Ok(Self { order, is_stream: request.stream, given: 0 })
    }
}

fn look_up(path: &str, model: &str) -> Response<Body> {
    match path {
        "/health" => whole(json!({"status": "ok"}).to_string()),
        "/v1/models" => {
            let model = json!({"id": model, "object": "model", "created": 0, "owned_by": "rbee"});
            whole(json!({"object": "list", "data": [model]}).to_string())
        }
        _ => refused(StatusCode::NOT_FOUND, "there is no such route"),
    }
}

fn refused(status: StatusCode, message: &str) -> Response<Body> {
    let error = json!({"message": message, "type": "invalid_request_error"});
    let mut response = whole(json!({"error": error}).to_string());
    *response.status_mut() = status;
    response
}

fn whole(text: String) -> Response<Body> {
    with_type(Either::Right(Full::from(text)), "application/json")
}

fn with_type(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
