//! Answers of chat completions and completions, whole or in chunks.

use bytes::{BufMut as _, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};
use worker_contract::{ApiErrorBody, ErrorDetail, FinishReason, InferenceEvent, ModelAlias, Usage};

/// Which of the two APIs an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// Writes one answer.
#[derive(Debug)]
pub struct Answer {
    shape: Shape,
    id: String,
    created: u64,
    model: ModelAlias,
    include_usage: bool,
    has_role: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice<'a>],
    /// `Some(None)` is written as null.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageOut>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct UsageOut {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: CachedOut,
}

#[derive(Serialize)]
struct CachedOut {
    cached_tokens: u32,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: CachedOut { cached_tokens: usage.cached_tokens },
        }
    }
}

/// Which build answers: the same for all answers of one version.
const FINGERPRINT: &str = concat!("rbee-", env!("CARGO_PKG_VERSION"));

impl Answer {
    /// An answer that began at `created`, in seconds since the Unix epoch.
    #[must_use]
    pub fn new(shape: Shape, unique: &str, created: u64, model: ModelAlias, include_usage: bool) -> Self {
        let prefix = match shape {
            Shape::Chat => "chatcmpl",
            Shape::Completion => "cmpl",
        };
        let id = format!("{prefix}-{unique}");
        Self { shape, id, created, model, include_usage, has_role: false }
    }

    /// Appends what a streaming client gets for an event.
    pub fn write_chunks(&mut self, event: &InferenceEvent, out: &mut BytesMut) {
        match event {
            InferenceEvent::Started { .. } => self.write_role(out),
            InferenceEvent::Delta { text, .. } if text.is_empty() => {}
            InferenceEvent::Delta { text, .. } => {
                self.write_role(out);
                self.write_choice(Some(text), None, out);
            }
            InferenceEvent::Done { finish_reason, usage, .. } => {
                self.write_role(out);
                self.write_choice(None, Some(*finish_reason), out);
                if self.include_usage {
                    self.write(&[], Some((*usage).into()), out);
                }
                out.put_slice(b"data: [DONE]\n\n");
            }
            InferenceEvent::Error { error } => Self::write_error(error, out),
        }
    }

    /// Appends an error to a stream that has begun. No `[DONE]` follows: the answer is not complete.
    pub fn write_error(error: &ErrorDetail, out: &mut BytesMut) {
        write_event(&ApiErrorBody { error: error.clone() }, out);
    }

    /// The whole answer.
    #[must_use]
    pub fn whole(&self, text: &str, reason: FinishReason, usage: Usage) -> Value {
        let usage = UsageOut::from(usage);
        let (object, choice) = match self.shape {
            Shape::Chat => (
                "chat.completion",
                json!({
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": null,
                    "finish_reason": reason.as_str(),
                }),
            ),
            Shape::Completion => (
                "text_completion",
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason.as_str()}),
            ),
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [choice],
            "usage": usage,
        })
    }

    fn write_role(&mut self, out: &mut BytesMut) {
        if self.shape == Shape::Completion || std::mem::replace(&mut self.has_role, true) {
            return;
        }
        let delta = Some(Delta { role: Some("assistant"), content: Some("") });
        let choice = Choice { index: 0, delta, text: None, logprobs: None, finish_reason: None };
        self.write(&[choice], None, out);
    }

    fn write_choice(&self, text: Option<&str>, reason: Option<FinishReason>, out: &mut BytesMut) {
        let is_chat = self.shape == Shape::Chat;
        let choice = Choice {
            index: 0,
            delta: is_chat.then(|| Delta { role: None, content: text }),
            text: (!is_chat).then(|| text.unwrap_or("")),
            logprobs: None,
            finish_reason: reason.map(FinishReason::as_str),
        };
        self.write(&[choice], None, out);
    }

    fn write(&self, choices: &[Choice<'_>], usage: Option<UsageOut>, out: &mut BytesMut) {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Completion => "text_completion",
        };
        let chunk = Chunk {
            id: &self.id,
            object,
            created: self.created,
            model: self.model.as_str(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        write_event(&chunk, out);
    }
}

fn write_event(value: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    // Text and numbers into memory: neither the types nor the writer can fail.
    if let Err(error) = serde_json::to_writer(out.writer(), value) {
        tracing::error!(%error, "an event could not be written");
    }
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker_contract::{RequestId, Timings};

    fn events() -> Vec<InferenceEvent> {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: 1 };
        vec![
            InferenceEvent::Started {
                request_id: RequestId::random(),
                prompt_tokens: 3,
                cached_tokens: 1,
                seed: 1,
            },
            InferenceEvent::Delta { text: "He\"y".into(), tokens: vec![1] },
            InferenceEvent::Delta { text: String::new(), tokens: vec![2] },
            InferenceEvent::Done {
                finish_reason: FinishReason::Stop,
                usage,
                timings: Timings::default(),
            },
        ]
    }

    fn stream(shape: Shape, include_usage: bool) -> String {
        let mut answer = Answer::new(shape, "x", 7, "m".parse().unwrap(), include_usage);
        let mut out = BytesMut::new();
        events().iter().for_each(|event| answer.write_chunks(event, &mut out));
        let text = String::from_utf8(out.to_vec()).unwrap();
        text.replace("\n\n", "\n").replace(FINGERPRINT, "FP")
    }

    #[test]
    fn a_chat_stream_is_openais() {
        insta::assert_snapshot!(stream(Shape::Chat, true), @r#"
        data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"FP","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}
        data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"FP","choices":[{"index":0,"delta":{"content":"He\"y"},"logprobs":null,"finish_reason":null}],"usage":null}
        data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"FP","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
        data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"FP","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}}
        data: [DONE]
        "#);
    }

    #[test]
    fn a_completion_stream_is_openais() {
        insta::assert_snapshot!(stream(Shape::Completion, false), @r#"
        data: {"id":"cmpl-x","object":"text_completion","created":7,"model":"m","system_fingerprint":"FP","choices":[{"index":0,"text":"He\"y","logprobs":null,"finish_reason":null}]}
        data: {"id":"cmpl-x","object":"text_completion","created":7,"model":"m","system_fingerprint":"FP","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}
        data: [DONE]
        "#);
    }
}
