//! What servers answer in OpenAI's words, as far as it is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use worker_contract::InferenceEvent;

use super::calls::CallPiece;
use crate::dialect::openai::Fields;

/// A chunk of a stream, or a whole answer.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(default, deserialize_with = "if_it_is_one")]
    pub(super) usage: Option<Usage>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(flatten)]
    pub(super) rest: Fields,
}

/// A part of one of several answers.
#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) index: Option<u32>,
    #[serde(default)]
    pub(super) delta: Option<Piece>,
    #[serde(default)]
    pub(super) message: Option<Piece>,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
    #[serde(default)]
    pub(super) logprobs: Option<Value>,
    #[serde(flatten)]
    pub(super) rest: Fields,
}

/// What is said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Piece {
    pub(super) content: Option<String>,
    pub(super) refusal: Option<String>,
    /// `DeepSeek`'s, llama-server's and vLLM's name.
    pub(super) reasoning_content: Option<String>,
    /// Ollama's and vLLM's other name.
    pub(super) reasoning: Option<String>,
    pub(super) tool_calls: Option<Vec<CallPiece>>,
    #[serde(flatten)]
    pub(super) rest: Fields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    #[serde(deserialize_with = "count")]
    prompt_tokens: u32,
    #[serde(deserialize_with = "count")]
    completion_tokens: u32,
    #[serde(deserialize_with = "if_it_is_one")]
    prompt_tokens_details: Option<Details>,
    #[serde(flatten)]
    rest: Fields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "count")]
    cached_tokens: u32,
    #[serde(flatten)]
    rest: Fields,
}

impl Usage {
    /// What rbee counts, and the rest.
    pub(super) fn parts(self) -> (worker_contract::Usage, Fields) {
        let Self { prompt_tokens, completion_tokens, prompt_tokens_details, rest } = self;
        let details = prompt_tokens_details.unwrap_or_default();
        let mut beside = beside(rest, &["total_tokens"]);
        let of_prompt = self::beside(details.rest, &[]);
        if !of_prompt.is_empty() {
            beside.insert("prompt_tokens_details".into(), of_prompt.into());
        }
        let cached_tokens = details.cached_tokens;
        (worker_contract::Usage { prompt_tokens, completion_tokens, cached_tokens }, beside)
    }
}

/// What something is, if it is that: no answer is lost over what is said of it.
fn if_it_is_one<'de, D, T>(told: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Option::<Value>::deserialize(told)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A number of tokens, as some write it: `7.0`.
fn count<'de, D: Deserializer<'de>>(told: D) -> Result<u32, D::Error> {
    let value = Value::deserialize(told)?;
    let whole = value.as_u64().or_else(|| value.as_f64().map(rounded));
    Ok(whole.map_or(0, |whole| u32::try_from(whole).unwrap_or(u32::MAX)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and less than nothing is none"
)]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// Those of the fields that say something and have no place in rbee's own answer.
pub(super) fn beside(mut fields: Fields, ours: &[&str]) -> Fields {
    fields.retain(|name, value| !value.is_null() && !ours.contains(&name.as_str()));
    fields
}

/// Vectors, or scores.
#[derive(Debug, Deserialize)]
pub(super) struct Items {
    #[serde(default, deserialize_with = "if_it_is_one")]
    pub(super) model: Option<String>,
    #[serde(default)]
    data: Vec<Embedding>,
    #[serde(default)]
    results: Vec<Score>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(default, deserialize_with = "if_it_is_one")]
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Embedding {
    index: u32,
    embedding: Vector,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    /// The base64 of its numbers' bytes, little-endian.
    Text(String),
}

#[derive(Debug, Deserialize)]
struct Score {
    index: u32,
    relevance_score: f32,
}

impl Items {
    pub(super) fn usage(&self) -> Option<worker_contract::Usage> {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage.as_ref()?;
        Some(worker_contract::Usage {
            prompt_tokens: *prompt_tokens,
            completion_tokens: *completion_tokens,
            cached_tokens: 0,
        })
    }

    /// Each of them as an event; `None` if one cannot be read, is no number, or is a vector of another length
    /// than the others.
    pub(super) fn events(self) -> Option<Vec<InferenceEvent>> {
        let mut length = None;
        let vectors = self.data.into_iter().map(|Embedding { index, embedding }| {
            let vector = match embedding {
                Vector::Numbers(numbers) => numbers,
                Vector::Text(text) => numbers(&text)?,
            };
            let is_whole = !vector.is_empty() && vector.iter().all(|number| number.is_finite());
            let is_as_long = *length.get_or_insert(vector.len()) == vector.len();
            (is_whole && is_as_long).then_some(InferenceEvent::Embedding { index, vector })
        });
        let scores = self.results.into_iter().map(|Score { index, relevance_score: score }| {
            score.is_finite().then_some(InferenceEvent::Score { index, score })
        });
        vectors.chain(scores).collect()
    }
}

fn numbers(text: &str) -> Option<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok()?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
