//! Answers in OpenAI's words: the chunks of a stream, and whole answers.

use bytes::{BufMut as _, BytesMut};
use serde::Serialize;
use worker_contract::{ApiErrorBody, ErrorDetail, FinishReason};

use super::usage::Usage;

/// Which of the two endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What is the same in all parts of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// When it began: seconds since the Unix epoch.
    pub created: u64,
    /// The model.
    pub model: String,
}

impl Head {
    /// A head with a fresh id.
    #[must_use]
    pub fn new(kind: Kind, model: String, created: u64) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Self { id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()), created, model }
    }
}

/// Same program, same words: what answers with the same seed can be compared by.
const FINGERPRINT: &str = concat!("rbee-", env!("CARGO_PKG_VERSION"));

/// Writes the chunks of a stream.
#[derive(Debug)]
pub struct Writer {
    kind: Kind,
    head: Head,
    include_usage: bool,
}

impl Writer {
    /// A writer for one stream.
    #[must_use]
    pub fn new(kind: Kind, head: Head, include_usage: bool) -> Self {
        Self { kind, head, include_usage }
    }

    /// The first chunk of a chat says who speaks.
    pub fn begin(&self, out: &mut BytesMut) {
        if self.kind == Kind::Chat {
            let delta = Delta { role: Some("assistant"), content: Some("") };
            self.write(Some(Content::Delta(delta)), None, None, out);
        }
    }

    /// A piece of text.
    pub fn text(&self, text: &str, out: &mut BytesMut) {
        let content = match self.kind {
            Kind::Chat => Content::Delta(Delta { role: None, content: Some(text) }),
            Kind::Completion => Content::Text(text),
        };
        self.write(Some(content), None, None, out);
    }

    /// The end: why, how many tokens if that was asked for, `[DONE]`.
    pub fn end(&self, reason: FinishReason, usage: worker_contract::Usage, out: &mut BytesMut) {
        let content = match self.kind {
            Kind::Chat => Content::Delta(Delta { role: None, content: None }),
            Kind::Completion => Content::Text(""),
        };
        self.write(Some(content), Some(reason.as_str()), None, out);
        if self.include_usage {
            self.write(None, None, Some(usage.into()), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// The end by an error: clients raise it. `[DONE]` does not follow, for nothing is done.
    pub fn fail(&self, error: ErrorDetail, out: &mut BytesMut) {
        write_event(&ApiErrorBody { error }, out);
    }

    fn write(
        &self,
        content: Option<Content<'_>>,
        finish_reason: Option<&'static str>,
        usage: Option<Usage>,
        out: &mut BytesMut,
    ) {
        let choice =
            content.map(|content| Choice { index: 0, content, logprobs: (), finish_reason });
        let chunk = Chunk {
            id: &self.head.id,
            object: match self.kind {
                Kind::Chat => "chat.completion.chunk",
                Kind::Completion => "text_completion",
            },
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: FINGERPRINT,
            choices: choice.as_slice(),
            usage: match usage {
                _ if !self.include_usage => ChunkUsage::LeftOut,
                None => ChunkUsage::Null(()),
                Some(usage) => ChunkUsage::Told(usage),
            },
        };
        write_event(&chunk, out);
    }
}

/// A whole answer.
#[must_use]
pub fn whole<'a>(
    kind: Kind,
    head: &'a Head,
    text: &'a str,
    reason: FinishReason,
    usage: worker_contract::Usage,
) -> impl Serialize + use<'a> {
    let message = Message { role: "assistant", content: text, refusal: () };
    let (object, content) = match kind {
        Kind::Chat => ("chat.completion", Content::Message(message)),
        Kind::Completion => ("text_completion", Content::Text(text)),
    };
    let finish_reason = Some(reason.as_str());
    Whole {
        id: &head.id,
        object,
        created: head.created,
        model: &head.model,
        system_fingerprint: FINGERPRINT,
        choices: [Choice { index: 0, content, logprobs: (), finish_reason }],
        usage: usage.into(),
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: [Choice<'a>; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "ChunkUsage::is_left_out")]
    usage: ChunkUsage,
}

/// `usage` of a chunk.
#[derive(Serialize)]
#[serde(untagged)]
enum ChunkUsage {
    /// Nobody asked for it.
    LeftOut,
    /// It comes later.
    Null(()),
    Told(Usage),
}

impl ChunkUsage {
    fn is_left_out(&self) -> bool {
        matches!(self, Self::LeftOut)
    }
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(flatten)]
    content: Content<'a>,
    logprobs: (),
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Content<'a> {
    Delta(Delta<'a>),
    Message(Message<'a>),
    Text(&'a str),
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: (),
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

fn write_event(event: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    // Neither these types nor this writer can fail: they are text and numbers, into memory.
    if let Err(error) = serde_json::to_writer((&mut *out).writer(), event) {
        tracing::error!(%error, "a chunk could not be written");
    }
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_stream_is_as_the_api_reference_shows_it() {
        insta::assert_snapshot!(stream(Kind::Chat, false), @r#"
        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{"content":"Hi \"you\"\n🐝"},"logprobs":null,"finish_reason":null}]}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

        data: [DONE]
        "#);
    }

    #[test]
    fn the_usage_is_null_until_the_last_chunk_which_has_no_choice() {
        insta::assert_snapshot!(stream(Kind::Completion, true), @r#"
        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"text":"Hi \"you\"\n🐝","logprobs":null,"finish_reason":null}],"usage":null}

        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3}}}

        data: [DONE]
        "#);
    }

    #[test]
    fn a_whole_chat_answer_is_as_the_api_reference_shows_it() {
        let head = head();
        let answer = whole(Kind::Chat, &head, "Hi", FinishReason::Length, usage());
        insta::assert_json_snapshot!(answer, @r#"
        {
          "id": "x-1",
          "object": "chat.completion",
          "created": 5,
          "model": "m",
          "system_fingerprint": "rbee-0.1.0",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "Hi",
                "refusal": null
              },
              "logprobs": null,
              "finish_reason": "length"
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {
              "cached_tokens": 3
            }
          }
        }
        "#);
    }

    #[test]
    fn a_whole_completion_is_as_the_api_reference_shows_it() {
        let head = head();
        let answer = whole(Kind::Completion, &head, "Hi", FinishReason::Stop, usage());
        insta::assert_json_snapshot!(answer, @r#"
        {
          "id": "x-1",
          "object": "text_completion",
          "created": 5,
          "model": "m",
          "system_fingerprint": "rbee-0.1.0",
          "choices": [
            {
              "index": 0,
              "text": "Hi",
              "logprobs": null,
              "finish_reason": "stop"
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {
              "cached_tokens": 3
            }
          }
        }
        "#);
    }

    #[test]
    fn an_error_in_a_stream_is_an_error_object_without_done() {
        let mut out = BytesMut::new();
        let error = ErrorDetail {
            message: "worker w-1 failed".into(),
            kind: worker_contract::ErrorKind::ServerError,
            param: None,
            code: Some("worker_failed".into()),
            hint: None,
        };
        Writer::new(Kind::Chat, head(), false).fail(error, &mut out);
        insta::assert_snapshot!(text(&out), @r#"data: {"error":{"message":"worker w-1 failed","type":"server_error","param":null,"code":"worker_failed"}}"#);
    }

    #[test]
    fn ids_tell_the_endpoint_and_are_fresh() {
        let id = |kind| Head::new(kind, "m".into(), 5).id;
        assert!(
            id(Kind::Chat).starts_with("chatcmpl-") && id(Kind::Completion).starts_with("cmpl-")
        );
        assert_ne!(id(Kind::Chat), id(Kind::Chat));
    }

    fn stream(kind: Kind, include_usage: bool) -> String {
        let (writer, mut out) = (Writer::new(kind, head(), include_usage), BytesMut::new());
        writer.begin(&mut out);
        writer.text("Hi \"you\"\n🐝", &mut out);
        writer.end(FinishReason::Stop, usage(), &mut out);
        text(&out)
    }

    fn head() -> Head {
        Head { id: "x-1".into(), created: 5, model: "m".into() }
    }

    fn usage() -> worker_contract::Usage {
        worker_contract::Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 3 }
    }

    fn text(out: &[u8]) -> String {
        String::from_utf8(out.to_vec()).unwrap()
    }
}
