//! `POST /v1/inference` on a worker: what is asked.
//!
//! The answer is `text/event-stream`; each event is one `data:` line with one
//! [`InferenceEvent`](crate::InferenceEvent) as JSON.

use serde::{Deserialize, Serialize};

use crate::{ModelAlias, RequestId};

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
    /// The form that the answer's text must have.
    #[serde(default, skip_serializing_if = "OutputFormat::is_text")]
    pub format: OutputFormat,
    /// How many answers are made from the one prompt, 1 to 16.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub n: u32,
    /// The number of the first of these answers, from 0. Answer `i` of a request has its own
    /// randomness, so one of several can be made, or resumed, by itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_choice: u32,
    /// Whether the answer must depend on nothing but request, seed, model and build. Only a worker in
    /// batch-invariant mode can promise that; any other refuses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deterministic: bool,
    /// The time that is left for the whole answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Tokens of the answer that the client already has: the worker goes on after them. Only where
    /// `n` is 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resume: Vec<TokenId>,
}

impl InferenceRequest {
    /// A request with nothing but a task.
    #[must_use]
    pub fn new(request_id: RequestId, task: Task) -> Self {
        Self {
            request_id,
            model: None,
            task,
            sampling: Sampling::default(),
            format: OutputFormat::Text,
            n: 1,
            first_choice: 0,
            deterministic: false,
            deadline_ms: None,
            resume: Vec::new(),
        }
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(crate) fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// The next message of a conversation, by the model's own chat template.
    Chat(Chat),
    /// The continuation of a text, without any template.
    Completion {
        /// The text.
        prompt: Prompt,
    },
    /// The text between two others (fill-in-the-middle), by the model's own infill tokens.
    Infill {
        /// What stands before it.
        prefix: String,
        /// What stands after it.
        suffix: String,
    },
    /// Vectors of texts, by an embedding model.
    Embed {
        /// The texts, each of them alone.
        inputs: Vec<Prompt>,
    },
    /// How well documents answer a query, by a reranking model, or by the cosine of their vectors.
    Rerank {
        /// The query.
        query: String,
        /// The documents.
        documents: Vec<String>,
    },
}

/// A conversation, and what the model may do in its next message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// The functions that the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Whether it must call one.
    #[serde(default, skip_serializing_if = "ToolChoice::is_auto")]
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub parallel_tool_calls: bool,
    /// Whether the last message, the assistant's, is the beginning of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continue_last: bool,
    /// Variables of the model's chat template, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub template_variables: serde_json::Map<String, serde_json::Value>,
}

impl From<Vec<ChatMessage>> for Chat {
    fn from(messages: Vec<ChatMessage>) -> Self {
        Self {
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            continue_last: false,
            template_variables: serde_json::Map::new(),
        }
    }
}

fn yes() -> bool {
    true
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
    /// What the assistant thought before it spoke, for templates that show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The calls that the assistant made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that this message is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Images that are shown, in the order of their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
}

/// An image in a message, for models that see.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where in the message's content it stands, as an offset in bytes of UTF-8.
    #[serde(default)]
    pub at: u64,
    /// The bytes of a PNG, JPEG, WebP, GIF or BMP file, in base64.
    pub data: String,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("at", &self.at).finish_non_exhaustive()
    }
}

impl ChatMessage {
    /// A message of nothing but text.
    #[must_use]
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            name: None,
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            images: Vec::new(),
        }
    }
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

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for, for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments; `None` for a function without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Value>,
    /// Whether arguments must obey the schema.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// Whether the model must call a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It may not.
    None,
    /// It must call at least one.
    Required,
    /// It must call this one.
    Named(String),
}

impl ToolChoice {
    /// Whether the model may do as it likes.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Its id, unique in its conversation.
    pub id: String,
    /// The function.
    pub name: String,
    /// The arguments: a JSON object as text.
    pub arguments: String,
}

/// The form that an answer's text must have. A grammar holds the model to it, token by token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that obeys a schema.
    JsonSchema {
        /// The schema (<https://json-schema.org>, the part that the crate `llguidance` supports).
        schema: serde_json::Value,
    },
    /// Text that a regular expression matches from its beginning to its end.
    Regex {
        /// The expression, in the syntax of the crate `regex`.
        pattern: String,
    },
    /// Text of a context-free grammar.
    Lark {
        /// The grammar, in `llguidance`'s dialect of Lark.
        grammar: String,
    },
}

impl OutputFormat {
    /// Whether any text will do.
    #[must_use]
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }
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
    /// How many tokens back the repetition penalty looks, 0 to 65,536. Default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_last_n: Option<u32>,
    /// Locally typical sampling (Meister et al. 2022), 0 to 1; 1 is off. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// "Exclude top choices": the probability with which all likely tokens but the least likely of
    /// them are excluded, 0 to 1; 0 is off. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xtc_probability: Option<f32>,
    /// What counts as likely for XTC, 0 to 1. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xtc_threshold: Option<f32>,
    /// "Don't repeat yourself": the penalty's factor, 0 to 100; 0 is off. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_multiplier: Option<f32>,
    /// The base that the length of a repetition is the exponent of, 1 to 10. Default 1.75.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_base: Option<f32>,
    /// The longest repetition, in tokens, that DRY does not punish. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_allowed_length: Option<u32>,
    /// How many tokens back DRY looks, up to the context's length. Default: the whole context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_penalty_last_n: Option<u32>,
    /// Texts that no repetition reaches across. Default: line end, colon, quotation mark, asterisk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_sequence_breakers: Option<Vec<String>>,
    /// What is added to the logits of single tokens, each -100 to 100; at most 1,024 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logit_bias: Vec<(TokenId, f32)>,
    /// How many of the likeliest tokens are told with each token, 0 to 20, besides its own log
    /// probability; by default none of all this is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
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
