//! Chat completions as a client of OpenAI's API sees them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use worker_contract::{ApiErrorBody, ErrorDetail};

use crate::SseStream;

/// The name under which the demo model is imported.
pub const DEMO_ALIAS: &str = "smollm2-135m";

/// A short greedy chat request to the demo model.
#[must_use]
pub fn ask(prompt: &str) -> Value {
    json!({
        "model": DEMO_ALIAS,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 32,
    })
}

/// A streamed chat completion.
#[derive(Debug)]
pub struct ChatStream {
    events: SseStream,
}

/// What a stream gives next.
#[derive(Debug, Clone)]
pub enum Part {
    /// A `chat.completion.chunk`, and when it came, counted from the request.
    Chunk(Value, Duration),
    /// An error object in the stream.
    Error(ErrorDetail),
    /// `[DONE]`.
    Done,
    /// The end of the stream.
    End,
}

/// A stream that was read to its end.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// All text of the answer.
    pub text: String,
    /// The pieces of text that were not empty, and when they came, counted from the request.
    pub pieces: Vec<(String, Duration)>,
    /// Every chunk.
    pub chunks: Vec<Value>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// The usage, if a chunk carried it.
    pub usage: Option<Value>,
    /// The error, if one ended the answer.
    pub error: Option<ErrorDetail>,
    /// Whether `[DONE]` ended the stream.
    pub done: bool,
}

impl ChatStream {
    pub(crate) fn new(events: SseStream) -> Self {
        Self { events }
    }

    /// The next part.
    pub async fn next(&mut self) -> Result<Part> {
        let Some(event) = self.events.next().await? else { return Ok(Part::End) };
        if event.data == "[DONE]" {
            return Ok(Part::Done);
        }
        let value: Value = serde_json::from_str(&event.data)
            .with_context(|| format!("the stream holds something else: {:?}", event.data))?;
        if value.get("error").is_some() {
            return Ok(Part::Error(serde_json::from_value::<ApiErrorBody>(value)?.error));
        }
        Ok(Part::Chunk(value, event.after))
    }

    /// Reads into `transcript` until it holds `pieces` pieces of text, or the stream ends.
    pub async fn read_pieces(&mut self, pieces: usize, transcript: &mut Transcript) -> Result<()> {
        while transcript.pieces.len() < pieces && transcript.take(self.next().await?) {}
        Ok(())
    }

    /// Reads into `transcript` up to the end of the stream.
    pub async fn read_rest(&mut self, transcript: &mut Transcript) -> Result<()> {
        while transcript.take(self.next().await?) {}
        Ok(())
    }
}

impl Transcript {
    /// Adds a part; false at the end of the stream.
    fn take(&mut self, part: Part) -> bool {
        match part {
            Part::Chunk(chunk, after) => self.take_chunk(chunk, after),
            Part::Error(error) => self.error = Some(error),
            Part::Done => self.done = true,
            Part::End => return false,
        }
        true
    }

    fn take_chunk(&mut self, chunk: Value, after: Duration) {
        let choice = &chunk["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap_or_default();
        if !text.is_empty() {
            self.text.push_str(text);
            self.pieces.push((text.to_owned(), after));
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        if chunk["usage"].is_object() {
            self.usage = Some(chunk["usage"].clone());
        }
        self.chunks.push(chunk);
    }
}
