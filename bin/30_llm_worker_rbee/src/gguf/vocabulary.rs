//! The vocabulary: lists of the same length, tokens that exist, texts that are bounded.

use super::Header;
use super::error::{GgufError, Place};
use super::limits::MAX_KEPT_TEXT_BYTES;
use super::value::{Array, TOKENS, Value, ValueType};

/// What a key says in place of a token that the model does not have.
const NO_TOKEN: i128 = u32::MAX as i128;

/// A token that starts or ends a text.
struct Mark {
    /// The key that names it.
    id: &'static str,
    /// The key that says whether each text gets it.
    add: &'static str,
    /// The token that llama.cpp takes for a kind of tokenizer where the file names none
    /// (`src/llama-vocab.cpp`).
    default: fn(&str) -> Option<u64>,
}

const MARKS: [Mark; 2] = [
    Mark {
        id: "tokenizer.ggml.bos_token_id",
        add: "tokenizer.ggml.add_bos_token",
        default: |kind| match kind {
            "llama" | "plamo2" => Some(1),
            "bert" => Some(101),
            "gpt2" | "hybriddna" | "whitespace" => Some(11),
            _ => None,
        },
    },
    Mark {
        id: "tokenizer.ggml.eos_token_id",
        add: "tokenizer.ggml.add_eos_token",
        default: |kind| match kind {
            "t5" => Some(1),
            "llama" | "plamo2" => Some(2),
            "gpt2" | "hybriddna" | "whitespace" => Some(11),
            _ => None,
        },
    },
];

pub(super) fn check(header: &Header) -> Result<(), GgufError> {
    for key in header.keys().filter(|key| key.starts_with("tokenizer.chat_template")) {
        if let Some(Value::LongText { bytes }) = header.get(key) {
            let here = Place::Key(key.to_owned());
            here.check_limit("the chat template's length", *bytes, MAX_KEPT_TEXT_BYTES)?;
        }
    }
    let Some(tokens) = array(header, TOKENS, &[ValueType::Text])? else { return Ok(()) };
    let tokens = tokens.length;
    if tokens == 0 {
        return Err(Place::Key(TOKENS.to_owned()).invalid("there is no token"));
    }
    let lists: [(&str, &[ValueType]); 2] = [
        ("tokenizer.ggml.scores", &[ValueType::F32, ValueType::I32]),
        ("tokenizer.ggml.token_type", &[ValueType::I32]),
    ];
    for (key, elements) in lists {
        let Some(list) = array(header, key, elements)? else { continue };
        if list.length < tokens {
            let problem = format!("it has {} entries for {tokens} tokens", list.length);
            return Err(Place::Key(key.to_owned()).invalid(problem));
        }
    }
    array(header, "tokenizer.ggml.merges", &[ValueType::Text])?;
    let kind = header.text("tokenizer.ggml.model").unwrap_or_default();
    MARKS.iter().try_for_each(|mark| check_mark(header, mark, kind, tokens))
}

fn check_mark(header: &Header, mark: &Mark, kind: &str, tokens: u64) -> Result<(), GgufError> {
    let here = || Place::Key(mark.id.to_owned());
    let id = match header.get(mark.id) {
        None | Some(Value::Integer(_, NO_TOKEN)) => (mark.default)(kind).filter(|id| *id < tokens),
        Some(value) => {
            let id = value.as_integer().and_then(|id| u64::try_from(id).ok());
            let id = id.ok_or_else(|| here().invalid("it is no token"))?;
            here().check_limit("the token", id, tokens - 1)?;
            Some(id)
        }
    };
    if id.is_none() && header.get(mark.add) == Some(&Value::Bool(true)) {
        // llama.cpp ends the process at the first text.
        let problem = format!("{} wants it in each text, and it is not there", mark.add);
        return Err(here().invalid(problem));
    }
    Ok(())
}

/// A key's array, which must have elements of one of these types.
fn array<'a>(
    header: &'a Header,
    key: &str,
    elements: &[ValueType],
) -> Result<Option<&'a Array>, GgufError> {
    match header.get(key) {
        None => Ok(None),
        Some(Value::Array(array)) if elements.contains(&array.element) => Ok(Some(array)),
        Some(_) => Err(Place::Key(key.to_owned()).invalid("it has another type than it must have")),
    }
}
