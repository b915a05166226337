//! OpenAI's API: chat completions, completions, embeddings, models; and reranking, which belongs to
//! the same clients.
//!
//! The wire types are our own instead of those of the crate `openai-protocol`. Its request types
//! refuse what cannot be parsed without naming the field in OpenAI's words, know no prompt of token
//! ids, and drop unknown fields in silence; its response types own a `String` for each field of each
//! chunk and cannot say `"usage": null`, which `stream_options.include_usage` demands.

mod answer;
mod aside;
mod chat;
mod completions;
mod content;
mod embeddings;
mod error;
mod field_names;
mod fields;
mod format;
mod logprobs;
mod models;
mod rerank;
mod sampling;
mod tools;
mod usage;
mod whole;
mod writer;

use worker_contract::InferenceRequest;

pub use self::answer::{Head, Kind};
pub use self::aside::{Aside, FINISH_REASON, Fields};
pub use self::chat::{ENABLE_THINKING, NO_EFFORT, REASONING_EFFORT, read_chat};
pub use self::completions::{Completion, read_completion};
pub use self::embeddings::{Embeddings, Encoding, check_dimensions, embeddings, read_embeddings};
pub(crate) use self::error::shown;
pub use self::error::{unknown_model, unserved};
pub use self::field_names::FieldNames;
pub use self::models::{Model, ModelList};
pub use self::rerank::{Rerank, ranking, read_rerank};
pub use self::sampling::{by_token, check_sampling};
pub use self::whole::Assembly;
pub use self::writer::Writer;

/// A request in OpenAI's words, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// The model as the client wrote it.
    pub model: String,
    /// What a worker is asked; its `model` is not set.
    pub request: InferenceRequest,
    /// What the client calls the fields of the worker's contract.
    pub fields: FieldNames,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the last chunk of a stream carries the usage.
    pub include_usage: bool,
}

/// The object of a request's body.
pub type Body = serde_json::Map<String, serde_json::Value>;
