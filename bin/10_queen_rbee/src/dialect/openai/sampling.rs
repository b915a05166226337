//! How tokens are chosen, and when to end: what chat completions and completions have in common.

use daemon_http::ApiError;
use serde_json::{Value, json};
use worker_contract::{Sampling, TokenId};

use super::Body;
use super::error::{Bound, invalid, out_of_range, too_long, unsupported, wrong_type};
use super::fields::{Fields, is_empty, one_of};

/// As many stop texts as a worker takes.
const MAX_STOPS: usize = 16;
/// The longest stop text, in bytes.
const MAX_STOP_BYTES: usize = 256;
/// As many biased tokens as a worker takes.
const MAX_BIASES: usize = 1024;
/// As many texts that end a repetition as a worker takes.
const MAX_BREAKERS: usize = 64;
/// As many answers to one prompt as a worker gives.
const MAX_CHOICES: u32 = 16;
/// As far as the repetition penalty can look back, in tokens.
const MAX_REPEAT_LAST_N: u32 = 65_536;

/// What a request says about its stream.
pub(super) struct Streaming {
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// Takes the sampling fields, those of llama.cpp and vLLM included. How log probabilities are asked
/// for is different in each endpoint.
pub(super) fn read_sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let repeat = fields.decimal("repeat_penalty", 0.01, 10.0)?;
    let repetition = fields.decimal("repetition_penalty", 0.01, 10.0)?;
    Ok(Sampling {
        temperature: fields.decimal("temperature", 0.0, 2.0)?,
        top_p: fields.decimal("top_p", 0.0, 1.0)?,
        // -1 means all in vLLM, 0 in llama.cpp.
        top_k: fields.integer("top_k")?.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
        min_p: fields.decimal("min_p", 0.0, 1.0)?,
        typical_p: fields.decimal("typical_p", 0.0, 1.0)?,
        xtc_probability: fields.decimal("xtc_probability", 0.0, 1.0)?,
        xtc_threshold: fields.decimal("xtc_threshold", 0.0, 1.0)?,
        dry_multiplier: fields.decimal("dry_multiplier", 0.0, 100.0)?,
        dry_base: fields.decimal("dry_base", 1.0, 10.0)?,
        dry_allowed_length: fields.count("dry_allowed_length", 0)?,
        // The whole context is what leaving it out means.
        dry_penalty_last_n: look_back(fields, "dry_penalty_last_n")?.filter(|n| *n != u32::MAX),
        dry_sequence_breakers: breakers(fields)?,
        repeat_penalty: one_of(("repeat_penalty", repeat), ("repetition_penalty", repetition))?,
        repeat_last_n: look_back(fields, "repeat_last_n")?.map(|n| n.min(MAX_REPEAT_LAST_N)),
        presence_penalty: fields.decimal("presence_penalty", -2.0, 2.0)?,
        frequency_penalty: fields.decimal("frequency_penalty", -2.0, 2.0)?,
        logit_bias: logit_bias(fields)?,
        logprobs: None,
        seed: seed(fields)?,
        stop: stop(fields)?,
        max_tokens: max_tokens(fields)?,
        ignore_eos: fields.flag("ignore_eos")?,
    })
}

/// Says which field is out of its range, of fields that did not come by this API.
pub fn check_sampling(sampling: &Sampling) -> Result<(), ApiError> {
    // By way of text, as they would have come: 2.1 becomes no number a little below it.
    let text = serde_json::to_string(sampling).expect("numbers and texts can be written");
    let mut body: Body = serde_json::from_str(&text).expect("a struct is written as an object");
    // Any bits are a seed.
    body.remove("seed");
    if let Some(biases) = body.remove("logit_bias") {
        body.insert("logit_bias".to_owned(), Value::Object(by_token(&biases)));
    }
    read_sampling(&mut Fields::new(body)?).map(drop)
}

/// Pairs of a token and its bias as the entries of an object.
pub fn by_token(biases: &Value) -> Body {
    let pairs = biases.as_array().into_iter().flatten();
    pairs.map(|pair| (pair[0].to_string(), pair[1].clone())).collect()
}

/// Takes the number of answers.
pub(super) fn read_n(fields: &mut Fields) -> Result<u32, ApiError> {
    Ok(fields.count_to("n", 1, MAX_CHOICES)?.unwrap_or(1))
}

/// Takes the fields about the stream.
pub(super) fn read_streaming(fields: &mut Fields) -> Result<Streaming, ApiError> {
    let stream = fields.flag("stream")?;
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(options) => Fields::of("stream_options", options)?.flag("include_usage")?,
    };
    Ok(Streaming { stream, include_usage })
}

/// Takes the fields of both endpoints that change nothing, and refuses those that are not served.
pub(super) fn refuse_unserved(fields: &mut Fields) -> Result<(), ApiError> {
    fields.harmless(&["user", "metadata", "store", "service_tier", "safety_identifier"]);
    fields.harmless(&["prompt_cache_key", "prompt_cache_retention", "cache_prompt", "keep_alive"]);
    for name in ["min_tokens", "stop_token_ids", "use_beam_search"] {
        fields.only(name, |value| is_empty(value) || *value == json!(0), "")?;
    }
    Ok(())
}

/// How many tokens back something looks; -1 means all, as in llama.cpp, and is `u32::MAX`.
fn look_back(fields: &mut Fields, name: &'static str) -> Result<Option<u32>, ApiError> {
    match fields.integer(name)? {
        Some(tokens) if tokens < -1 => {
            Err(out_of_range(&fields.path(name), true, Bound::Min(-1.0), &tokens))
        }
        tokens => Ok(tokens.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))),
    }
}

fn breakers(fields: &mut Fields) -> Result<Option<Vec<String>>, ApiError> {
    let name = "dry_sequence_breakers";
    let texts = fields.texts(name, MAX_BREAKERS)?;
    if let Some(at) = texts.iter().position(|text| text.len() > MAX_STOP_BYTES) {
        let why = format!("a text must have at most {MAX_STOP_BYTES} bytes");
        return Err(invalid(&format!("{name}[{at}]"), &why));
    }
    Ok((!texts.is_empty()).then_some(texts))
}

/// An object of token ids and what is added to their logits.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let biases = fields.object("logit_bias")?;
    if biases.len() > MAX_BIASES {
        return Err(too_long("logit_bias", MAX_BIASES, biases.len()));
    }
    let read = |(token, bias): (String, Value)| {
        let id = token.parse::<TokenId>().ok().filter(|id| *id >= 0);
        let Some(id) = id else {
            return Err(invalid("logit_bias", "each key must be a token id, such as \"50256\""));
        };
        let path = || format!("logit_bias.{id}");
        let Some(bias) = bias.as_f64() else {
            return Err(wrong_type(&path(), "a decimal", &bias));
        };
        if bias < -100.0 {
            return Err(out_of_range(&path(), false, Bound::Min(-100.0), &bias));
        }
        if bias > 100.0 {
            return Err(out_of_range(&path(), false, Bound::Max(100.0), &bias));
        }
        #[expect(clippy::cast_possible_truncation, reason = "samplers count in f32")]
        Ok((id, bias as f32))
    };
    biases.into_iter().map(read).collect()
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
    one_of(("max_tokens", older), ("max_completion_tokens", newer))
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
        return Err(invalid("stop", &format!("each text must have 1 to {MAX_STOP_BYTES} bytes")));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_by_another_way_is_held_to_the_same_ranges() {
        let base = Sampling::default;
        let all_right = Sampling {
            temperature: Some(2.0),
            repeat_penalty: Some(0.01),
            top_k: Some(u32::MAX),
            dry_penalty_last_n: Some(u32::MAX),
            logit_bias: vec![(7, -100.0)],
            logprobs: Some(20),
            seed: Some(u64::MAX),
            stop: vec!["x".to_owned(); 16],
            max_tokens: Some(u32::MAX),
            ignore_eos: true,
            ..base()
        };
        for fine in [base(), all_right] {
            assert!(check_sampling(&fine).is_ok(), "{fine:?}");
        }
        for (sampling, param) in [
            (Sampling { temperature: Some(9.0), ..base() }, "temperature"),
            (Sampling { top_p: Some(-0.5), ..base() }, "top_p"),
            (Sampling { repeat_penalty: Some(0.0), ..base() }, "repeat_penalty"),
            (Sampling { logit_bias: vec![(7, 100.5)], ..base() }, "logit_bias.7"),
            (Sampling { max_tokens: Some(0), ..base() }, "max_tokens"),
            (Sampling { stop: vec![String::new()], ..base() }, "stop"),
        ] {
            let refused = check_sampling(&sampling).unwrap_err();
            assert_eq!(refused.detail.param.as_deref(), Some(param), "{refused}");
        }
        let told = check_sampling(&Sampling { temperature: Some(2.1), ..base() }).unwrap_err();
        assert!(told.detail.message.ends_with("but got 2.1 instead."), "{told}");
    }
}
