//! Log probabilities in OpenAI's two forms. Pure.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use worker_contract::{TokenId, TokenLogprob, TokenLogprobs};

use super::chunk::{beside, is_something};
use crate::dialect::openai::Fields;

/// The number of a token that a server tells by its text alone.
const UNKNOWN: TokenId = -1;
/// What Python writes of a token that cannot be, or of which nobody knows, which is no JSON,
const NEVER: &[u8] = b"-Infinity";
const NOBODY_KNOWS: &[u8] = b"NaN";
/// and OpenAI of one that hardly can.
const HARDLY_EVER: &[u8] = b"-9999.0";

#[derive(Deserialize)]
struct Both {
    /// Of a chat.
    #[serde(default)]
    content: Option<Vec<Entry>>,
    /// Of a completion.
    #[serde(default)]
    tokens: Option<Vec<Token>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f32>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    #[serde(flatten)]
    rest: Fields,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(flatten)]
    chosen: Likely,
    #[serde(default)]
    top_logprobs: Option<Vec<Likely>>,
}

#[derive(Deserialize)]
struct Likely {
    #[serde(deserialize_with = "token")]
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Token(#[serde(deserialize_with = "token")] String);

/// A token's text, or its number, which some tell alone.
fn token<'de, D: Deserializer<'de>>(told: D) -> Result<String, D::Error> {
    match Value::deserialize(told)? {
        Value::String(text) => Ok(text),
        Value::Number(id) => Ok(id.to_string()),
        _ => Err(D::Error::custom("a token has a text or a number")),
    }
}

/// The entries of either form, and what is said besides; all that is said where it is neither.
pub(super) fn read(value: Value) -> (Vec<TokenLogprobs>, Option<Value>) {
    let both = Both::deserialize(&value).ok();
    let (entries, rest) = both.map(entries).unwrap_or_default();
    let left = if entries.is_empty() { value } else { beside(rest, &["text_offset"]).into() };
    let says_something = match &left {
        Value::Object(fields) => fields.values().any(is_something),
        other => is_something(other),
    };
    (entries, says_something.then_some(left))
}

fn entries(both: Both) -> (Vec<TokenLogprobs>, Fields) {
    if let Some(entries) = both.content {
        let read = |entry: Entry| TokenLogprobs {
            chosen: entry.chosen.into(),
            top: entry.top_logprobs.into_iter().flatten().map(TokenLogprob::from).collect(),
        };
        return (entries.into_iter().map(read).collect(), both.rest);
    }
    let (tokens, chances) =
        (both.tokens.unwrap_or_default(), both.token_logprobs.unwrap_or_default());
    let mut tops = both.top_logprobs.unwrap_or_default().into_iter();
    let read = |(Token(token), chance): (Token, Option<f32>)| {
        let top = tops.next().flatten().unwrap_or_default();
        let top = top.into_iter().filter_map(|(token, chance)| {
            #[expect(clippy::cast_possible_truncation, reason = "they are computed in f32")]
            let logprob = chance.as_f64()? as f32;
            Some(TokenLogprob::from(Likely { token, logprob, bytes: None }))
        });
        let top = top.collect();
        let logprob = chance.unwrap_or(0.0);
        TokenLogprobs { chosen: Likely { token, logprob, bytes: None }.into(), top }
    };
    (tokens.into_iter().zip(chances).map(read).collect(), both.rest)
}

/// JSON out of what Python has written with tokens in it that cannot be; `None` where there are none.
pub(super) fn finite(written: &[u8]) -> Option<Vec<u8>> {
    let (mut json, mut at) = (Vec::with_capacity(written.len()), 0);
    let (mut is_text, mut has_any) = (false, false);
    while let Some(byte) = written.get(at) {
        let rest = &written[at..];
        let (length, put) = match byte {
            b'-' if !is_text && rest.starts_with(NEVER) => (NEVER.len(), Some(HARDLY_EVER)),
            b'N' if !is_text && rest.starts_with(NOBODY_KNOWS) => {
                (NOBODY_KNOWS.len(), Some(HARDLY_EVER))
            }
            b'\\' if is_text => (rest.len().min(2), None),
            _ => (1, None),
        };
        is_text ^= *byte == b'"';
        has_any |= put.is_some();
        json.extend_from_slice(put.unwrap_or(&rest[..length]));
        at += length;
    }
    has_any.then_some(json)
}

impl From<Likely> for TokenLogprob {
    fn from(likely: Likely) -> Self {
        let Likely { token, logprob, bytes } = likely;
        Self { token: UNKNOWN, logprob, bytes: bytes.unwrap_or_else(|| token.into_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_tell_the_same() {
        let chat = json!({"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105],
            "top_logprobs": [{"token": "Ho", "logprob": -1.5, "bytes": null}]}], "refusal": null});
        let legacy = json!({"tokens": ["Hi"], "token_logprobs": [-0.5],
            "top_logprobs": [{"Ho": -1.5}], "text_offset": [0]});
        let (found, left) = read(chat);
        assert_eq!((&found, left), (&read(legacy).0, None));
        assert_eq!((found[0].chosen.bytes.as_slice(), found[0].top[0].logprob), (&b"Hi"[..], -1.5));
    }

    #[test]
    fn what_is_not_read_is_left() {
        let entry = json!({"token": "a", "logprob": -0.5, "top_logprobs": null});
        let refused = json!({"content": null, "refusal": [entry]});
        let (odd, numbers) = (json!({"content": [{"token": "a"}]}), json!([64]));
        for (said, tokens, expected) in [
            (json!({"content": [entry]}), vec!["a"], None),
            (json!({"content": [{"token": 7, "logprob": -0.5}]}), vec!["7"], None),
            (
                json!({"tokens": numbers, "token_logprobs": [-0.5], "top_logprobs": []}),
                vec!["64"],
                None,
            ),
            (refused.clone(), vec![], Some(refused)),
            (
                json!({"content": [entry], "refusal": [entry]}),
                vec!["a"],
                Some(json!({"refusal": [entry]})),
            ),
            (odd.clone(), vec![], Some(odd)),
            (json!({"content": [], "refusal": null}), vec![], None),
            (json!(5), vec![], None),
        ] {
            let (read, left) = read(said.clone());
            let texts = read.iter().map(|entry| entry.chosen.bytes.as_slice());
            let texts: Vec<_> = texts.map(|bytes| std::str::from_utf8(bytes).unwrap()).collect();
            assert_eq!((texts, left), (tokens, expected), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_is_written_as_what_hardly_can() {
        for (written, expected) in [
            ("[-Infinity,-0.5,-Infinity]", Some("[-9999.0,-0.5,-9999.0]")),
            (r#"["a\"-Infinity",-Infinity]"#, Some(r#"["a\"-Infinity",-9999.0]"#)),
            (r#"["NaN",NaN]"#, Some(r#"["NaN",-9999.0]"#)),
            (r#"["-Infinity","\\"]"#, None),
            (r#""\"#, None),
            ("[-0.5]", None),
        ] {
            let found = finite(written.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{written}");
        }
    }
}
