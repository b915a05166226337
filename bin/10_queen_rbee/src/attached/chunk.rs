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
    /// Left out by some, who give the answers in their order.
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
    /// A text, or parts.
    content: Option<Value>,
    /// `DeepSeek`'s, llama-server's and vLLM's name.
    reasoning_content: Option<String>,
    /// Ollama's and vLLM's other name.
    reasoning: Option<String>,
    pub(super) tool_calls: Option<Vec<CallPiece>>,
    #[serde(flatten)]
    pub(super) rest: Fields,
}

impl Piece {
    /// Takes its text and its thoughts out of it. What there is in place of them, or among them, becomes one of
    /// the other fields.
    pub(super) fn take_words(&mut self) -> (String, String) {
        let mut words = Words::default();
        match self.content.take() {
            None => {}
            Some(Value::String(text)) => words.text = text,
            Some(Value::Array(parts)) => parts.into_iter().for_each(|part| words.add(part)),
            Some(other) => words.others = Some(other),
        }
        if let Some(other) = words.others {
            self.rest.insert("content".into(), other);
        }
        let told = [self.reasoning_content.take(), self.reasoning.take()];
        let told = told.into_iter().flatten().find(|thought| !thought.is_empty());
        (words.text, told.unwrap_or(words.thoughts))
    }
}

/// What a message says in parts, as Mistral has it.
#[derive(Default)]
struct Words {
    text: String,
    thoughts: String,
    /// What is neither.
    others: Option<Value>,
}

impl Words {
    fn add(&mut self, part: Value) {
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text"), part.get("thinking")) {
            (Some("text"), Some(Value::String(text)), _) => self.text.push_str(text),
            (Some("thinking"), _, Some(Value::String(thought))) => self.thoughts.push_str(thought),
            (Some("thinking"), _, Some(Value::Array(thoughts))) => {
                let texts = thoughts.iter().filter_map(|part| part.get("text")?.as_str());
                self.thoughts.extend(texts);
            }
            _ => match &mut self.others {
                Some(Value::Array(others)) => others.push(part),
                others => *others = Some(vec![part].into()),
            },
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    #[serde(deserialize_with = "count")]
    prompt_tokens: Option<u32>,
    #[serde(deserialize_with = "count")]
    completion_tokens: Option<u32>,
    #[serde(deserialize_with = "if_it_is_one")]
    prompt_tokens_details: Option<Details>,
    #[serde(flatten)]
    rest: Fields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "count")]
    cached_tokens: Option<u32>,
    #[serde(flatten)]
    rest: Fields,
}

impl Usage {
    /// What rbee counts, and the rest.
    pub(super) fn parts(self) -> (Option<worker_contract::Usage>, Fields) {
        let counted = self.counted();
        let mut beside = beside(self.rest, &["total_tokens"]);
        let of_prompt = self::beside(self.prompt_tokens_details.unwrap_or_default().rest, &[]);
        if !of_prompt.is_empty() {
            beside.insert("prompt_tokens_details".into(), of_prompt.into());
        }
        (counted, beside)
    }

    /// What rbee counts; `None` where no number is told.
    fn counted(&self) -> Option<worker_contract::Usage> {
        self.prompt_tokens.or(self.completion_tokens)?;
        let details = self.prompt_tokens_details.as_ref();
        Some(worker_contract::Usage {
            prompt_tokens: self.prompt_tokens.unwrap_or_default(),
            completion_tokens: self.completion_tokens.unwrap_or_default(),
            cached_tokens: details.and_then(|details| details.cached_tokens).unwrap_or_default(),
        })
    }
}

/// What something is, if it is that: no answer, and no model, is lost over what is said of it.
pub(super) fn if_it_is_one<'de, D, T>(told: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Option::<Value>::deserialize(told)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A number of tokens, as some write it: `7.0`.
fn count<'de, D: Deserializer<'de>>(told: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(told)?;
    let whole = value.as_u64().or_else(|| value.as_f64().map(rounded));
    Ok(whole.map(|whole| u32::try_from(whole).unwrap_or(u32::MAX)))
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

/// Whether a field says anything: some write empty ones into each chunk.
pub(super) fn is_something(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
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
    /// Left out by some, who give the vectors in the order of their texts.
    #[serde(default)]
    index: Option<u32>,
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
        let counted = self.usage.as_ref()?.counted()?;
        Some(worker_contract::Usage { cached_tokens: 0, ..counted })
    }

    /// Each of them as an event; `None` if one cannot be read, is no number, or is a vector of another length
    /// than the others.
    pub(super) fn events(self) -> Option<Vec<InferenceEvent>> {
        let mut length = None;
        let is_numbered = self.data.iter().any(|vector| vector.index.is_some());
        let vectors = (0..).zip(self.data).map(|(place, Embedding { index, embedding })| {
            let index = if is_numbered { index? } else { place };
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_message_says_is_found_whatever_its_form() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let thought = json!({"type": "thinking", "thinking": [text("Hm"), text(", yes")]});
        let reference = json!({"type": "reference", "reference_ids": [1]});
        for (said, expected) in [
            (json!({"content": "a", "refusal": "b", "reasoning": "c"}), ("a", "c", json!(null))),
            (json!({"reasoning_content": "", "reasoning": "deep"}), ("", "deep", json!(null))),
            (json!({"reasoning_content": "a", "reasoning": "a"}), ("", "a", json!(null))),
            (json!({"content": [text("a"), text("b")]}), ("ab", "", json!(null))),
            (json!({"content": [thought, text("a")]}), ("a", "Hm, yes", json!(null))),
            (json!({"content": [thought], "reasoning": "Hm"}), ("", "Hm", json!(null))),
            (json!({"content": [{"type": "thinking", "thinking": "Hm"}]}), ("", "Hm", json!(null))),
            (json!({"content": [text("a"), reference, 5]}), ("a", "", json!([reference, 5]))),
            (json!({"content": {"a": 1}}), ("", "", json!({"a": 1}))),
            (json!({"content": null}), ("", "", json!(null))),
        ] {
            let mut piece: Piece = serde_json::from_value(said.clone()).unwrap();
            let (text, thoughts) = piece.take_words();
            let left = piece.rest.get("content").cloned().unwrap_or_default();
            assert_eq!((text.as_str(), thoughts.as_str(), left), expected, "{said}");
        }
    }

    #[test]
    fn vectors_without_numbers_are_in_the_order_of_their_texts() {
        let vector = |index: Option<u32>| json!({"index": index, "embedding": [0.5]});
        for (told, expected) in [
            ([None, None], Some([0, 1])),
            ([Some(1), Some(0)], Some([1, 0])),
            ([Some(0), None], None),
        ] {
            let items: Items = serde_json::from_value(json!({"data": told.map(vector)})).unwrap();
            let number = |event| match event {
                InferenceEvent::Embedding { index, .. } => index,
                other => panic!("{other:?}"),
            };
            let found = items.events().map(|events| events.into_iter().map(number).collect());
            assert_eq!(found, expected.map(Vec::from), "{told:?}");
        }
    }
}
