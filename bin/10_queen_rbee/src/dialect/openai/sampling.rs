//! How tokens are chosen, and when to end: what chat completions and completions have in common.

use daemon_http::ApiError;
use serde_json::{Value, json};
use worker_contract::Sampling;

use super::error::{unsupported, wrong_type};
use super::fields::{Fields, is_empty};

/// As many stop texts as a worker takes.
const MAX_STOPS: usize = 16;
/// The longest stop text, in bytes.
const MAX_STOP_BYTES: usize = 256;

/// What a request says about its stream.
pub(super) struct Streaming {
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// Takes the sampling fields, those of llama.cpp and vLLM included.
pub(super) fn read_sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let repeat = fields.decimal("repeat_penalty", 0.01, 10.0)?;
    let repetition = fields.decimal("repetition_penalty", 0.01, 10.0)?;
    Ok(Sampling {
        temperature: fields.decimal("temperature", 0.0, 2.0)?,
        top_p: fields.decimal("top_p", 0.0, 1.0)?,
        // -1 means all in vLLM, 0 in llama.cpp.
        top_k: fields.integer("top_k")?.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
        min_p: fields.decimal("min_p", 0.0, 1.0)?,
        repeat_penalty: repeat.or(repetition),
        presence_penalty: fields.decimal("presence_penalty", -2.0, 2.0)?,
        frequency_penalty: fields.decimal("frequency_penalty", -2.0, 2.0)?,
        seed: seed(fields)?,
        stop: stop(fields)?,
        max_tokens: max_tokens(fields)?,
        ignore_eos: fields.flag("ignore_eos")?,
        ..Sampling::default()
    })
}

/// Takes the fields about the stream.
pub(super) fn read_streaming(fields: &mut Fields) -> Result<Streaming, ApiError> {
    let stream = fields.flag("stream")?;
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(Value::Object(mut options)) => match options.remove("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(include)) => include,
            Some(other) => {
                return Err(wrong_type("stream_options.include_usage", "a boolean", &other));
            }
        },
        Some(other) => return Err(wrong_type("stream_options", "an object", &other)),
    };
    Ok(Streaming { stream, include_usage })
}

/// Takes the fields of both endpoints that change nothing, and refuses those that are not served.
pub(super) fn refuse_unserved(fields: &mut Fields) -> Result<(), ApiError> {
    fields.harmless(&["user", "metadata", "store", "service_tier", "safety_identifier"]);
    fields.harmless(&["prompt_cache_key", "prompt_cache_retention", "cache_prompt", "keep_alive"]);
    fields.only("n", |n| *n == json!(1), "; send the request several times")?;
    for name in ["logit_bias", "logprobs", "guided_json", "guided_regex", "guided_choice"] {
        fields.only(name, is_empty, "")?;
    }
    for name in ["grammar", "json_schema", "min_tokens", "stop_token_ids", "use_beam_search"] {
        fields.only(name, |value| is_empty(value) || *value == json!(0), "")?;
    }
    Ok(())
}

/// A negative seed is a seed too; -1 asks for a random one, as in llama.cpp.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let seed = fields.integer("seed")?.filter(|seed| *seed != -1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "any bits are a seed"
    )]
    Ok(seed.map(|seed| seed as u64))
}

fn max_tokens(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let older = fields.count("max_tokens", 1)?;
    let newer = fields.count("max_completion_tokens", 1)?;
    match (older, newer) {
        (Some(older), Some(newer)) if older != newer => {
            let message =
                "'max_tokens' and 'max_completion_tokens' say different things; send one.";
            Err(ApiError::bad_request("invalid_parameter_combination", message).param("max_tokens"))
        }
        _ => Ok(newer.or(older)),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let texts = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => {
            let texts = items.into_iter().enumerate().map(|(index, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&format!("stop[{index}]"), "a string", &other)),
            });
            texts.collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if texts.len() > MAX_STOPS {
        return Err(unsupported("stop", &format!(" with more than {MAX_STOPS} texts")));
    }
    if texts.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
        let message = format!("Invalid 'stop': each text must have 1 to {MAX_STOP_BYTES} bytes.");
        return Err(ApiError::bad_request("invalid_value", message).param("stop"));
    }
    Ok(texts)
}
