//! A plain HTTP client, and answers that can be looked at.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;
use worker_contract::{ApiErrorBody, ErrorDetail};

use crate::{ChatStream, SseStream};

/// The longest that any answer, a stream included, may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// The HTTP API of one daemon.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

/// The answer to a request, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The response headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Api {
    /// The API at a base URL such as `http://127.0.0.1:8500`.
    pub fn new(base: &str, token: Option<&str>) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build()?;
        Ok(Self { base: base.to_owned(), token: token.map(str::to_owned), http })
    }

    /// The base URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.request(Method::GET, path)).await
    }

    /// Sends `GET` with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.request(Method::GET, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    }

    /// Sends `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Sends `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Sends `POST` with a JSON body and headers.
    pub async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Result<Answer> {
        let mut request = self.request(Method::POST, path).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    }

    /// Sends `POST` with these bytes, said to be JSON.
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Result<Answer> {
        let request = self.request(Method::POST, path).header(CONTENT_TYPE, "application/json");
        answer(request.body(body)).await
    }

    /// Opens an event stream with `GET`, from after the event `last_event_id` if that is given.
    pub async fn events(&self, path: &str, last_event_id: Option<u64>) -> Result<SseStream> {
        let mut request = self.request(Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        SseStream::open(request).await
    }

    /// Opens an event stream with `POST`.
    pub async fn post_events(&self, path: &str, body: &Value) -> Result<SseStream> {
        SseStream::open(self.request(Method::POST, path).json(body)).await
    }

    /// Asks for a streamed chat completion; `body` needs no `stream`.
    pub async fn chat_stream(&self, body: &Value) -> Result<ChatStream> {
        let mut body = body.clone();
        body["stream"] = Value::Bool(true);
        Ok(ChatStream::new(self.post_events("/v1/chat/completions", &body).await?))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        self.parse()
    }

    /// The body as a type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.text).with_context(|| format!("unexpected answer: {self}"))
    }

    /// The body as an error object.
    pub fn error(&self) -> Result<ErrorDetail> {
        Ok(self.parse::<ApiErrorBody>()?.error)
    }

    /// This answer, if its status is the expected one.
    pub fn expect_status(self, status: u16) -> Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        Err(anyhow!("expected status {status}: {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.text.chars().take(600).collect();
        write!(f, "HTTP {} {shown}", self.status)
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await?;
    Ok(Answer { status, headers, text })
}
