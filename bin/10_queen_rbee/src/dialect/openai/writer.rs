//! Streamed answers in OpenAI's words: their chunks.

use bytes::{BufMut as _, BytesMut};
use serde::Serialize;
use worker_contract::{ApiErrorBody, Delta, ErrorDetail, FinishReason};

use super::answer::{CallPieces, Choice, Content, FINGERPRINT, Head, Kind, Piece};
use super::aside::{Aside, Asides, Fields};
use super::logprobs::{Logprobs, characters};
use super::usage::Usage;

/// Writes the chunks of a stream.
#[derive(Debug)]
pub struct Writer {
    kind: Kind,
    /// What every chunk begins with, up to its choices. It is the larger part of a chunk of one token,
    /// and always the same.
    head: Vec<u8>,
    /// Where in it the name is of what makes the answer.
    fingerprint_at: usize,
    include_usage: bool,
    /// For each choice, how many characters the tokens have whose log probabilities were told.
    offsets: Vec<usize>,
    /// What is to be told beside the next chunks: nothing, but for answers of somebody else's server.
    asides: Option<Box<Asides>>,
}

impl Writer {
    /// A writer for one stream with `n` choices.
    #[must_use]
    pub fn new(kind: Kind, head: &Head, include_usage: bool, n: u32) -> Self {
        let mut head = head_of_chunks(kind, head);
        let fingerprint_at = head.len();
        put_fingerprint(FINGERPRINT, &mut head);
        let offsets = vec![0; n as usize];
        Self { kind, head, fingerprint_at, include_usage, offsets, asides: None }
    }

    /// Keeps what is said beside the answer for the chunk that it belongs to, which comes next.
    pub fn aside(&mut self, aside: Aside) {
        let asides = self.asides.get_or_insert_default();
        asides.add(aside);
        if let Some(name) = asides.take_fingerprint() {
            self.head.truncate(self.fingerprint_at);
            put_fingerprint(&name, &mut self.head);
        }
    }

    /// The first chunk of each choice of a chat says who speaks.
    pub fn begin(&mut self, out: &mut BytesMut) {
        if self.kind == Kind::Completion {
            return;
        }
        for index in (0..).take(self.offsets.len()) {
            let role = Some("assistant");
            let content = Content::Delta(Piece { role, content: Some(""), ..Piece::default() });
            self.write(&Choice { index, content, logprobs: None, finish_reason: None }, out);
        }
    }

    /// A part of a choice.
    pub fn delta(&mut self, delta: &Delta, out: &mut BytesMut) {
        let logprobs = if delta.logprobs.is_empty() { None } else { Some(self.logprobs(delta)) };
        let content = match self.kind {
            Kind::Chat => Content::Delta(Piece {
                role: None,
                reasoning_content: unless_empty(&delta.reasoning),
                content: unless_empty(&delta.text),
                tool_calls: CallPieces(&delta.tool_calls),
            }),
            Kind::Completion => Content::Text(&delta.text),
        };
        let index = delta.index;
        self.write(&Choice { index, content, logprobs, finish_reason: None }, out);
    }

    /// One of several choices is complete.
    pub fn choice_done(&mut self, index: u32, reason: FinishReason, out: &mut BytesMut) {
        let content = match self.kind {
            Kind::Chat => Content::Delta(Piece::default()),
            Kind::Completion => Content::Text(""),
        };
        let finish_reason = Some(reason.as_str());
        self.write(&Choice { index, content, logprobs: None, finish_reason }, out);
    }

    /// The end: why, if that was not said of each of several choices; how many tokens, if that was
    /// asked for; `[DONE]`.
    pub fn end(&mut self, reason: FinishReason, usage: worker_contract::Usage, out: &mut BytesMut) {
        if self.offsets.len() == 1 {
            self.choice_done(0, reason, out);
        }
        if self.include_usage {
            self.write_usage(&usage.into(), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// The end by an error: clients raise it. `[DONE]` does not follow, for nothing is done.
    pub fn fail(&self, error: ErrorDetail, out: &mut BytesMut) {
        write_event(&ApiErrorBody { error }, out);
    }

    fn logprobs<'a>(&mut self, delta: &'a Delta) -> Logprobs<'a> {
        match (self.kind, self.offsets.get_mut(delta.index as usize)) {
            (Kind::Completion, Some(offset)) => {
                let begin = *offset;
                *offset += characters(&delta.logprobs);
                Logprobs::legacy(&delta.logprobs, begin)
            }
            _ => Logprobs::chat(&delta.logprobs),
        }
    }

    fn write(&mut self, choice: &Choice<'_>, out: &mut BytesMut) {
        out.put_slice(&self.head);
        let asides = self.asides.as_mut().filter(|asides| !asides.is_empty_for(choice.index));
        let Some(asides) = asides else {
            write_json(choice, out);
            out.put_slice(if self.include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" });
            return;
        };
        write_json(&asides.with_choice(choice.index, choice), out);
        out.put_slice(if self.include_usage { b"],\"usage\":null" } else { b"]" });
        write_fields(asides.take_answer(), out);
        out.put_slice(b"}\n\n");
    }

    fn write_usage(&mut self, usage: &Usage, out: &mut BytesMut) {
        out.put_slice(&self.head);
        out.put_slice(b"],\"usage\":");
        match &mut self.asides {
            None => write_json(usage, out),
            Some(asides) => {
                write_json(&asides.with_usage(usage), out);
                write_fields(asides.take_answer(), out);
            }
        }
        out.put_slice(b"}\n\n");
    }
}

/// Further fields of an object that is not closed.
fn write_fields(fields: Fields, out: &mut BytesMut) {
    for (name, value) in fields {
        out.put_u8(b',');
        write_json(&name, out);
        out.put_u8(b':');
        write_json(&value, out);
    }
}

/// A chunk up to the name of what makes the answer.
fn head_of_chunks(kind: Kind, head: &Head) -> Vec<u8> {
    let chunk = Chunk {
        id: &head.id,
        object: match kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        },
        created: head.created,
        model: &head.model,
    };
    let mut out = BytesMut::new();
    out.put_slice(b"data: ");
    write_json(&chunk, &mut out);
    out.truncate(out.len() - b"}".len());
    out.put_slice(b",\"system_fingerprint\":");
    out.into()
}

/// The name of what makes the answer, and the rest up to the bracket that the choices come after.
fn put_fingerprint(name: &str, head: &mut Vec<u8>) {
    let mut out = BytesMut::new();
    write_json(&name, &mut out);
    out.put_slice(b",\"choices\":[");
    head.extend_from_slice(&out);
}

fn unless_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What each chunk of a stream begins with.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
}

fn write_event(event: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    write_json(event, out);
    out.put_slice(b"\n\n");
}

fn write_json(value: &impl Serialize, out: &mut BytesMut) {
    // Neither these types nor this writer can fail: they are text and numbers, into memory.
    if let Err(error) = serde_json::to_writer(out.writer(), value) {
        tracing::error!(%error, "a chunk could not be written");
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::{TokenLogprob, TokenLogprobs, ToolCallDelta};

    use super::*;

    #[test]
    fn a_chat_stream_is_as_the_api_reference_shows_it() {
        let deltas = [text(0, "Hi \"you\"\n🐝")];
        insta::assert_snapshot!(stream(Kind::Chat, false, &deltas), @r#"
        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{"content":"Hi \"you\"\n🐝"},"logprobs":null,"finish_reason":null}]}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

        data: [DONE]
        "#);
    }

    #[test]
    fn the_usage_is_null_until_the_last_chunk_which_has_no_choice() {
        let deltas = [text(0, "Hi \"you\"\n🐝")];
        insta::assert_snapshot!(stream(Kind::Completion, true, &deltas), @r#"
        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"text":"Hi \"you\"\n🐝","logprobs":null,"finish_reason":null}],"usage":null}

        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

        data: {"id":"x-1","object":"text_completion","created":5,"model":"m","system_fingerprint":"rbee-0.1.0","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3}}}

        data: [DONE]
        "#);
    }

    #[test]
    fn reasoning_and_calls_come_piece_by_piece() {
        let reasoning = Delta { reasoning: "Hm. ".into(), ..Delta::default() };
        let call = |id: Option<&str>, arguments: &str| Delta {
            tool_calls: vec![ToolCallDelta {
                index: 0,
                id: id.map(str::to_owned),
                name: id.map(|_| "add".to_owned()),
                arguments: arguments.into(),
            }],
            ..Delta::default()
        };
        let deltas = [reasoning, call(Some("call_1"), ""), call(None, "{\"a\":1}")];
        insta::assert_snapshot!(deltas_of(&stream(Kind::Chat, false, &deltas)), @r#"
        {"role":"assistant","content":""}
        {"reasoning_content":"Hm. "}
        {"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"add","arguments":""}}]}
        {"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}
        {}
        "#);
    }

    #[test]
    fn a_chat_tells_log_probabilities_with_the_text_that_they_are_of() {
        let deltas = [likely(0, "é"), text(0, "b")];
        insta::assert_snapshot!(choices_of(&stream(Kind::Chat, false, &deltas)), @r#"
        {"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}
        {"index":0,"delta":{"content":"é"},"logprobs":{"content":[{"token":"é","logprob":-0.5,"bytes":[195,169],"top_logprobs":[{"token":"é","logprob":-0.5,"bytes":[195,169]}]}],"refusal":null},"finish_reason":null}
        {"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}
        {"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}
        "#);
    }

    #[test]
    fn a_completion_tells_where_in_the_text_of_its_choice_each_token_begins() {
        let deltas = [likely(0, "é"), likely(0, "abc"), likely(0, "d")];
        insta::assert_snapshot!(choices_of(&stream(Kind::Completion, false, &deltas)), @r#"
        {"index":0,"text":"é","logprobs":{"tokens":["é"],"token_logprobs":[-0.5],"top_logprobs":[{"é":-0.5}],"text_offset":[0]},"finish_reason":null}
        {"index":0,"text":"abc","logprobs":{"tokens":["abc"],"token_logprobs":[-0.5],"top_logprobs":[{"abc":-0.5}],"text_offset":[1]},"finish_reason":null}
        {"index":0,"text":"d","logprobs":{"tokens":["d"],"token_logprobs":[-0.5],"top_logprobs":[{"d":-0.5}],"text_offset":[4]},"finish_reason":null}
        {"index":0,"text":"","logprobs":null,"finish_reason":"stop"}
        "#);
    }

    #[test]
    fn several_choices_come_mixed_and_each_has_its_own_begin_and_end() {
        let (mut writer, mut out) = (Writer::new(Kind::Chat, &head(), false, 2), BytesMut::new());
        writer.begin(&mut out);
        writer.delta(&text(1, "b"), &mut out);
        writer.delta(&text(0, "a"), &mut out);
        writer.choice_done(1, FinishReason::Length, &mut out);
        writer.choice_done(0, FinishReason::ToolCalls, &mut out);
        writer.end(FinishReason::ToolCalls, usage(), &mut out);
        insta::assert_snapshot!(choices_of(&written(&out)), @r#"
        {"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}
        {"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}
        {"index":1,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}
        {"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}
        {"index":1,"delta":{},"logprobs":null,"finish_reason":"length"}
        {"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}
        "#);
        assert!(written(&out).ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn what_a_server_says_beside_a_chunk_goes_out_with_it() {
        let (mut writer, mut out) = (Writer::new(Kind::Chat, &head(), true, 1), BytesMut::new());
        let fields = |value: serde_json::Value| value.as_object().unwrap().clone();
        writer.begin(&mut out);
        out.clear();
        let service = serde_json::json!({"system_fingerprint": "b42", "service_tier": "flex"});
        writer.aside(Aside::Answer(fields(service)));
        let message = fields(serde_json::json!({"thought": "Hm"}));
        writer.aside(Aside::Choice { index: 0, choice: Fields::new(), message });
        writer.delta(&text(0, "a"), &mut out);
        writer.delta(&text(0, "b"), &mut out);
        let choice = fields(serde_json::json!({"stop_reason": 2}));
        writer.aside(Aside::Choice { index: 0, choice, message: Fields::new() });
        writer.aside(Aside::Usage(fields(serde_json::json!({"cost": 1}))));
        writer.end(FinishReason::Stop, usage(), &mut out);
        insta::assert_snapshot!(written(&out), @r#"
        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"b42","choices":[{"index":0,"delta":{"content":"a","thought":"Hm"},"logprobs":null,"finish_reason":null}],"usage":null,"service_tier":"flex"}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"b42","choices":[{"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}],"usage":null}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"b42","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":2}],"usage":null}

        data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"b42","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3},"cost":1}}

        data: [DONE]
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
        Writer::new(Kind::Chat, &head(), false, 1).fail(error, &mut out);
        insta::assert_snapshot!(written(&out), @r#"data: {"error":{"message":"worker w-1 failed","type":"server_error","param":null,"code":"worker_failed"}}"#);
    }

    fn stream(kind: Kind, include_usage: bool, deltas: &[Delta]) -> String {
        let (mut writer, mut out) = (Writer::new(kind, &head(), include_usage, 1), BytesMut::new());
        writer.begin(&mut out);
        for delta in deltas {
            writer.delta(delta, &mut out);
        }
        writer.end(FinishReason::Stop, usage(), &mut out);
        written(&out)
    }

    fn text(index: u32, text: &str) -> Delta {
        Delta { index, text: text.into(), tokens: vec![1], ..Delta::default() }
    }

    /// Text of one token with its log probability.
    fn likely(index: u32, word: &str) -> Delta {
        let chosen = TokenLogprob { token: 7, logprob: -0.5, bytes: word.into() };
        let logprobs = vec![TokenLogprobs { chosen: chosen.clone(), top: vec![chosen] }];
        Delta { logprobs, ..text(index, word) }
    }

    /// The only choice of each chunk, one a line.
    fn choices_of(stream: &str) -> String {
        let chunks = stream.lines().filter_map(|line| line.strip_prefix("data: {"));
        let choice = |chunk: &str| {
            let chunk: serde_json::Value = serde_json::from_str(&format!("{{{chunk}")).unwrap();
            chunk["choices"][0].to_string()
        };
        chunks.map(choice).collect::<Vec<_>>().join("\n")
    }

    fn deltas_of(stream: &str) -> String {
        let deltas = choices_of(stream);
        let delta = |choice: &str| {
            serde_json::from_str::<serde_json::Value>(choice).unwrap()["delta"].to_string()
        };
        deltas.lines().map(delta).collect::<Vec<_>>().join("\n")
    }

    fn head() -> Head {
        Head { id: "x-1".into(), created: 5, model: "m".into() }
    }

    fn usage() -> worker_contract::Usage {
        worker_contract::Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 3 }
    }

    fn written(out: &[u8]) -> String {
        String::from_utf8(out.to_vec()).unwrap()
    }
}
