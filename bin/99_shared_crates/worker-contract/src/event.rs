//! The events of an answer to `POST /v1/inference`, in the order `started`, any number of the others, then exactly one `done` or
//! `error`.

use serde::{Deserialize, Serialize};

use crate::inference::is_zero;
use crate::{ErrorDetail, RequestId, TokenId};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its text, or a stop text came.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The model called functions.
    ToolCalls,
}

impl FinishReason {
    /// The reason as OpenAI's API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// How many tokens a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// Tokens of the answer, its end token included.
    pub completion_tokens: u32,
    /// Tokens of the prompt whose KV cache entries were reused.
    pub cached_tokens: u32,
}

/// How long the parts of a request took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From arrival to a slot.
    pub queue_ms: f64,
    /// From the slot to the end of the prompt.
    pub prefill_ms: f64,
    /// From arrival to the first token (TTFT).
    pub ttft_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// Tokens that were guessed ahead and verified in one step.
    #[serde(default)]
    pub drafted_tokens: u32,
    /// Those of them that were right.
    #[serde(default)]
    pub accepted_tokens: u32,
}

/// A part of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Which of several answers it belongs to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: u32,
    /// Text: whole characters only. It can be empty while a stop text or a character is pending.
    pub text: String,
    /// The tokens that this part stands for, whether as text, as reasoning or as tool calls.
    pub tokens: Vec<TokenId>,
    /// Text of the model's reasoning.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Parts of calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
    /// One entry for each of `tokens`, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprobs>,
}

/// A part of a call: the first one of each call has id and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which of the answer's calls it belongs to.
    pub index: u32,
    /// The call's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next part of the arguments.
    pub arguments: String,
}

/// How likely a token was, and which others were likely in its place.
///
/// The probabilities are the model's own, before penalties, filters and temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// How likely a token was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its text; not always whole characters.
    pub bytes: Vec<u8>,
}

/// One event of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InferenceEvent {
    /// The request has a slot.
    Started {
        /// The request's id.
        request_id: RequestId,
        /// Tokens of the prompt, template included.
        prompt_tokens: u32,
        /// Tokens of the prompt whose KV cache entries were reused.
        cached_tokens: u32,
        /// The seed in use.
        seed: u64,
    },
    /// A part of an answer.
    Delta(Delta),
    /// One of several answers is complete. Where there is only one, `done` tells it.
    ChoiceDone {
        /// Which one.
        index: u32,
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// The vector of one text, of length 1.
    Embedding {
        /// Which text.
        index: u32,
        /// The vector.
        vector: Vec<f32>,
    },
    /// How well one document answers the query; more is better.
    Score {
        /// Which document.
        index: u32,
        /// How well.
        score: f32,
    },
    /// Everything is answered.
    Done {
        /// Why the answer ended, or the first of several.
        finish_reason: FinishReason,
        /// How many tokens it took.
        usage: Usage,
        /// How long it took.
        timings: Timings,
    },
    /// The answer ended by an error.
    Error {
        /// What went wrong.
        error: ErrorDetail,
    },
}

impl InferenceEvent {
    /// Reads an event.
    ///
    /// What each answer has is read as it stands, where its type comes first, as this crate writes it; to
    /// find out which of the events it has, the derived way would first make a tree of all values.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let begins = |name: &[u8]| {
            let rest = json.strip_prefix(b"{\"type\":\"");
            rest.and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(b"\","))
        };
        // Each text is looked at for its own where the whole is not known to be one.
        let Ok(text) = std::str::from_utf8(json) else { return serde_json::from_slice(json) };
        if begins(b"delta") {
            serde_json::from_str(text).map(Self::Delta)
        } else if begins(b"started") {
            serde_json::from_str::<Started>(text).map(Self::from)
        } else if begins(b"done") {
            serde_json::from_str::<Done>(text).map(Self::from)
        } else {
            serde_json::from_str(text)
        }
    }
}

/// The fields of [`InferenceEvent::Started`].
#[derive(Deserialize)]
struct Started {
    request_id: RequestId,
    prompt_tokens: u32,
    cached_tokens: u32,
    seed: u64,
}

impl From<Started> for InferenceEvent {
    fn from(started: Started) -> Self {
        let Started { request_id, prompt_tokens, cached_tokens, seed } = started;
        Self::Started { request_id, prompt_tokens, cached_tokens, seed }
    }
}

/// The fields of [`InferenceEvent::Done`].
#[derive(Deserialize)]
struct Done {
    finish_reason: FinishReason,
    usage: Usage,
    timings: Timings,
}

impl From<Done> for InferenceEvent {
    fn from(done: Done) -> Self {
        let Done { finish_reason, usage, timings } = done;
        Self::Done { finish_reason, usage, timings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_the_derived_way_reads_it() {
        for json in [
            r#"{"type":"delta","text":"Hi \"you\" \u00e9","tokens":[1,2]}"#,
            r#"{"type":"delta","index":3,"text":"","tokens":[],"reasoning":"Hm","later":{"a":1}}"#,
            r#"{"type":"delta","text":"","tokens":[7],"tool_calls":[{"index":0,"arguments":"{"}],"logprobs":[]}"#,
            r#"{"text":"a","type":"delta","tokens":[1]}"#,
            r#"{ "type": "delta", "text": "a", "tokens": [1] }"#,
            r#"{"type":"choice_done","index":1,"finish_reason":"stop"}"#,
            r#"{"type":"score","index":1,"score":0.5}"#,
            r#"{"type":"started","request_id":"r-1","prompt_tokens":3,"cached_tokens":1,"seed":18446744073709551615,"later":[]}"#,
            r#"{"type":"done","finish_reason":"length","usage":{"prompt_tokens":3,"completion_tokens":2,"cached_tokens":1},"timings":{"queue_ms":0.5,"prefill_ms":1,"ttft_ms":2,"decode_ms":3}}"#,
        ] {
            let derived: InferenceEvent = serde_json::from_str(json).unwrap();
            assert_eq!(InferenceEvent::from_json(json.as_bytes()).unwrap(), derived, "{json}");
        }
        for wrong in [
            "",
            "{}",
            r#"{"type":"delta","text":"a"}"#,
            r#"{"type":"delta","text":"#,
            r#"{"type":"started","request_id":"","prompt_tokens":3,"cached_tokens":1,"seed":1}"#,
            r#"{"type":"done","finish_reason":"length"}"#,
            r#"{"type":"done","#,
        ] {
            assert!(serde_json::from_str::<InferenceEvent>(wrong).is_err(), "{wrong}");
            assert!(InferenceEvent::from_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(InferenceEvent::from_json(b"{\"type\":\"delta\",\"text\":\"\xff\"}").is_err());
    }
}
