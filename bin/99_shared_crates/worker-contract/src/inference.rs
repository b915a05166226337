//! `POST /v1/inference` on a worker: what is asked, and the events of the answer.
//!
//! The answer is `text/event-stream`; each event is one `data:` line with one [`InferenceEvent`]
//! as JSON. The order is `started`, any number of `delta`, then exactly one `done` or `error`.

use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, ModelAlias, RequestId};

/// The number of a token in the model's vocabulary.
pub type TokenId = i32;

/// One inference request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceRequest {
    /// The id that this request has in every log line, event and error.
    #[serde(default = "RequestId::random")]
    pub request_id: RequestId,
    /// The model that is meant; a worker that runs another one refuses. `None` means any.
    #[serde(default)]
    pub model: Option<ModelAlias>,
    /// What is to be done.
    pub task: Task,
    /// How tokens are chosen, and when to end.
    #[serde(default)]
    pub sampling: Sampling,
    /// The time that is left for the whole answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Tokens of the answer that the client already has: the worker goes on after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resume: Vec<TokenId>,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// The next message of a conversation, by the model's own chat template.
    Chat {
        /// The conversation so far.
        messages: Vec<ChatMessage>,
    },
    /// The continuation of a text, without any template.
    Completion {
        /// The text.
        prompt: Prompt,
    },
}

/// The text of a completion: as characters or as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text, tokenized by the worker.
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<TokenId>),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The speaker's name, for templates that show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions that stand above the user's.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// How tokens are chosen, and when to end. A field that is `None` takes the default that it names.
///
/// The defaults are llama.cpp's (`common/common.h`, `common_params_sampling`), except that no
/// repetition penalty is applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 is greedy; at most 2. Default 0.8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus sampling: the smallest set with this probability, 0 to 1. Default 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only the k likeliest tokens; 0 means all. Default 40.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens with at least this part of the likeliest one's probability, 0 to 1. Default 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens seen in the last 64; 1 is off. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// Taken from a token's logit if it was seen in the answer, -2 to 2. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Taken from a token's logit for each time it was seen in the answer, -2 to 2. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// The seed of the randomness; by default a random one, told in `started`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The answer ends before the first of these texts. At most 16, each 1 to 256 bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// The most tokens of the answer, from 1; by default until the context is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Whether to go on after the model's end-of-text token.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_eos: bool,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its text, or a stop text came.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

impl FinishReason {
    /// The reason as OpenAI's API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
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
    /// A part of the answer.
    Delta {
        /// Text: whole characters only. It can be empty while a stop text or a character is pending.
        text: String,
        /// The tokens that this part stands for.
        tokens: Vec<TokenId>,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
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
