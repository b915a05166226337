//! What a client of OpenAI's API sends and sees.

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

/// A chat request to the model `m`.
pub(crate) fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
}

/// A completion request to the model `m`.
pub(crate) fn completion() -> Value {
    json!({"model": "m", "prompt": "Once"})
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) async fn read(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, text: answer.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The answer, if it is an error of this status and code.
    pub(crate) fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{self:?}");
        error
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A streamed answer.
pub(crate) struct Stream {
    response: Response,
    buffer: String,
}

/// All that came of a stream.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) chunks: Vec<Value>,
    pub(crate) error: Option<Value>,
    pub(crate) is_done: bool,
}

impl Stream {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self { response, buffer: String::new() }
    }

    /// The stream, if it is one.
    pub(crate) async fn begun(self) -> Self {
        if self.response.status() == 200 {
            return self;
        }
        panic!("no stream: {:?}", self.refused().await);
    }

    /// The answer to a request whose stream did not begin.
    pub(crate) async fn refused(self) -> Reply {
        let (status, headers) = (self.response.status().as_u16(), self.response.headers().clone());
        Reply { status, headers, text: self.response.text().await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The data of the next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                match event.strip_prefix("data: ") {
                    Some(data) => return Some(data.to_owned()),
                    None => continue,
                }
            }
            let bytes = self.response.chunk().await.unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// Reads until some text has come.
    pub(crate) async fn until_text(&mut self) {
        loop {
            let event = self.next().await.expect("the stream ended without text");
            if !text_of(&serde_json::from_str(&event).unwrap()).is_empty() {
                return;
            }
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(mut self) -> Transcript {
        let mut transcript = Transcript::default();
        while let Some(data) = self.next().await {
            assert!(!transcript.is_done, "after [DONE] came {data}");
            if data == "[DONE]" {
                transcript.is_done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(&data).unwrap();
            match chunk.get("error") {
                Some(error) => transcript.error = Some(error.clone()),
                None => transcript.chunks.push(chunk),
            }
        }
        transcript
    }
}

impl Transcript {
    pub(crate) fn text(&self) -> String {
        self.chunks.iter().map(text_of).collect()
    }
}

fn text_of(chunk: &Value) -> &str {
    let choice = &chunk["choices"][0];
    choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default()
}
