//! Log probabilities in OpenAI's two forms. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};
use worker_contract::{TokenId, TokenLogprob, TokenLogprobs};

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
    tokens: Option<Vec<String>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f32>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(flatten)]
    chosen: Likely,
    #[serde(default)]
    top_logprobs: Vec<Likely>,
}

#[derive(Deserialize)]
struct Likely {
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

/// The entries of either form; none where it is neither.
pub(super) fn read(value: Value) -> Vec<TokenLogprobs> {
    let Ok(both) = serde_json::from_value::<Both>(value) else { return Vec::new() };
    if let Some(entries) = both.content {
        let read = |entry: Entry| TokenLogprobs {
            chosen: entry.chosen.into(),
            top: entry.top_logprobs.into_iter().map(TokenLogprob::from).collect(),
        };
        return entries.into_iter().map(read).collect();
    }
    let (tokens, chances) =
        (both.tokens.unwrap_or_default(), both.token_logprobs.unwrap_or_default());
    let mut tops = both.top_logprobs.unwrap_or_default().into_iter();
    let read = |(token, chance): (String, Option<f32>)| {
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
    tokens.into_iter().zip(chances).map(read).collect()
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
        let found = read(chat);
        assert_eq!(found, read(legacy));
        assert_eq!((found[0].chosen.bytes.as_slice(), found[0].top[0].logprob), (&b"Hi"[..], -1.5));
        assert!(read(json!(5)).is_empty());
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
