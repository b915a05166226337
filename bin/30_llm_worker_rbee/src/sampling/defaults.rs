//! What is used where a request says nothing, and what a request may say.

use std::ops::RangeInclusive;

use worker_contract::{Sampling, TokenId};

pub(super) const TEMPERATURE: f32 = 0.8;
pub(super) const TOP_P: f32 = 0.95;
pub(super) const TOP_K: u32 = 40;
pub(super) const MIN_P: f32 = 0.05;
pub(super) const XTC_THRESHOLD: f32 = 0.1;
/// How far back the repetition penalty looks, in tokens.
pub(super) const REPEAT_LAST_N: u32 = 64;

const DRY_BASE: f32 = 1.75;
const DRY_ALLOWED_LENGTH: u32 = 2;
const DRY_SEQUENCE_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

const MAX_STOP_TEXTS: usize = 16;
const MAX_DRY_BREAKERS: usize = 64;
const MAX_TEXT_BYTES: usize = 256;
const MAX_LOGIT_BIASES: usize = 1024;
const MAX_LOGPROBS: u32 = 20;
const MAX_REPEAT_LAST_N: u32 = 65_536;

/// A field is out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}: it must be {allowed}")]
pub struct InvalidSampling {
    /// The field.
    pub field: &'static str,
    value: String,
    allowed: &'static str,
}

impl InvalidSampling {
    /// `field` has `value` and not what is `allowed` ("from 0 to 2").
    pub(crate) fn new(
        field: &'static str,
        value: impl std::fmt::Display,
        allowed: &'static str,
    ) -> Self {
        Self { field, value: value.to_string(), allowed }
    }
}

/// Checks every field against its range, for a model whose vocabulary has `vocabulary` tokens.
pub fn check(sampling: &Sampling, vocabulary: u32) -> Result<(), InvalidSampling> {
    let s = sampling;
    number("temperature", s.temperature, 0.0..=2.0, "from 0 to 2")?;
    number("top_p", s.top_p, 0.0..=1.0, "from 0 to 1")?;
    number("min_p", s.min_p, 0.0..=1.0, "from 0 to 1")?;
    number("typical_p", s.typical_p, 0.0..=1.0, "from 0 to 1")?;
    number("presence_penalty", s.presence_penalty, -2.0..=2.0, "from -2 to 2")?;
    number("frequency_penalty", s.frequency_penalty, -2.0..=2.0, "from -2 to 2")?;
    number("repeat_penalty", s.repeat_penalty, 0.01..=10.0, "from 0.01 to 10")?;
    number("xtc_probability", s.xtc_probability, 0.0..=1.0, "from 0 to 1")?;
    number("xtc_threshold", s.xtc_threshold, 0.0..=1.0, "from 0 to 1")?;
    number("dry_multiplier", s.dry_multiplier, 0.0..=100.0, "from 0 to 100")?;
    number("dry_base", s.dry_base, 1.0..=10.0, "from 1 to 10")?;
    count("repeat_last_n", s.repeat_last_n, 0..=MAX_REPEAT_LAST_N, "from 0 to 65536")?;
    count("logprobs", s.logprobs, 0..=MAX_LOGPROBS, "from 0 to 20")?;
    count("max_tokens", s.max_tokens, 1..=u32::MAX, "at least 1")?;
    check_bias(&s.logit_bias, vocabulary)?;
    texts("stop", &s.stop, MAX_STOP_TEXTS, "at most 16 texts")?;
    let breakers = s.dry_sequence_breakers.as_deref().unwrap_or_default();
    texts("dry_sequence_breakers", breakers, MAX_DRY_BREAKERS, "at most 64 texts")?;
    if breakers.iter().any(|text| text.contains('\0')) {
        let value = "a text with a zero byte";
        return Err(InvalidSampling::new("dry_sequence_breakers", value, "texts without any"));
    }
    Ok(())
}

/// What DRY ("don't repeat yourself") is to punish.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// The penalty's factor.
    pub multiplier: f32,
    /// The base that the length of a repetition is the exponent of.
    pub base: f32,
    /// The longest repetition that is not punished, in tokens.
    pub allowed_length: u32,
    /// How far it looks back, in tokens.
    pub last_n: u32,
    /// The texts that no repetition reaches across.
    pub sequence_breakers: Vec<String>,
}

impl Dry {
    /// What a request asks for; `None` where it is off.
    #[must_use]
    pub fn of(sampling: &Sampling, context_length: u32) -> Option<Self> {
        let multiplier = sampling.dry_multiplier.filter(|factor| *factor > 0.0)?;
        let last_n = sampling.dry_penalty_last_n.unwrap_or(context_length).min(context_length);
        let breakers = sampling.dry_sequence_breakers.clone();
        (last_n > 0).then(|| Self {
            multiplier,
            base: sampling.dry_base.unwrap_or(DRY_BASE),
            allowed_length: sampling.dry_allowed_length.unwrap_or(DRY_ALLOWED_LENGTH),
            last_n,
            sequence_breakers: breakers
                .unwrap_or_else(|| DRY_SEQUENCE_BREAKERS.map(str::to_owned).to_vec()),
        })
    }
}

fn number(
    field: &'static str,
    value: Option<f32>,
    range: RangeInclusive<f32>,
    allowed: &'static str,
) -> Result<(), InvalidSampling> {
    // What is no number is in no range.
    match value.filter(|value| !range.contains(value)) {
        Some(value) => Err(InvalidSampling::new(field, value, allowed)),
        None => Ok(()),
    }
}

fn count(
    field: &'static str,
    value: Option<u32>,
    range: RangeInclusive<u32>,
    allowed: &'static str,
) -> Result<(), InvalidSampling> {
    match value.filter(|value| !range.contains(value)) {
        Some(value) => Err(InvalidSampling::new(field, value, allowed)),
        None => Ok(()),
    }
}

fn texts(
    field: &'static str,
    texts: &[String],
    most: usize,
    allowed: &'static str,
) -> Result<(), InvalidSampling> {
    if texts.len() > most {
        return Err(InvalidSampling::new(field, format!("a list of {}", texts.len()), allowed));
    }
    match texts.iter().find(|text| text.is_empty() || text.len() > MAX_TEXT_BYTES) {
        Some(bad) => {
            let length = format!("a text of {} bytes", bad.len());
            Err(InvalidSampling::new(field, length, "texts of 1 to 256 bytes"))
        }
        None => Ok(()),
    }
}

fn check_bias(biases: &[(TokenId, f32)], vocabulary: u32) -> Result<(), InvalidSampling> {
    const FIELD: &str = "logit_bias";
    if biases.len() > MAX_LOGIT_BIASES {
        let length = format!("a list of {}", biases.len());
        return Err(InvalidSampling::new(FIELD, length, "at most 1024 tokens"));
    }
    for (token, bias) in biases {
        if !u32::try_from(*token).is_ok_and(|token| token < vocabulary) {
            let allowed = "of tokens of the model's vocabulary";
            return Err(InvalidSampling::new(FIELD, format!("for token {token}"), allowed));
        }
        number(FIELD, Some(*bias), -100.0..=100.0, "from -100 to 100")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: u32 = 100;

    #[test]
    fn each_range_is_held_and_named() {
        let base = Sampling::default;
        let many = |count, text: &str| vec![text.to_owned(); count];
        let rows = [
            (Sampling { temperature: Some(2.1), ..base() }, "temperature"),
            (Sampling { temperature: Some(f32::NAN), ..base() }, "temperature"),
            (Sampling { temperature: Some(f32::INFINITY), ..base() }, "temperature"),
            (Sampling { top_p: Some(-0.1), ..base() }, "top_p"),
            (Sampling { min_p: Some(1.1), ..base() }, "min_p"),
            (Sampling { typical_p: Some(1.1), ..base() }, "typical_p"),
            (Sampling { presence_penalty: Some(2.5), ..base() }, "presence_penalty"),
            (Sampling { frequency_penalty: Some(-2.5), ..base() }, "frequency_penalty"),
            (Sampling { repeat_penalty: Some(0.0), ..base() }, "repeat_penalty"),
            (Sampling { repeat_last_n: Some(65_537), ..base() }, "repeat_last_n"),
            (Sampling { xtc_probability: Some(f32::NAN), ..base() }, "xtc_probability"),
            (Sampling { xtc_threshold: Some(2.0), ..base() }, "xtc_threshold"),
            (Sampling { dry_multiplier: Some(101.0), ..base() }, "dry_multiplier"),
            (Sampling { dry_multiplier: Some(f32::NEG_INFINITY), ..base() }, "dry_multiplier"),
            (Sampling { dry_base: Some(0.5), ..base() }, "dry_base"),
            (
                Sampling { dry_sequence_breakers: Some(many(65, "x")), ..base() },
                "dry_sequence_breakers",
            ),
            (
                Sampling { dry_sequence_breakers: Some(many(1, "a\0b")), ..base() },
                "dry_sequence_breakers",
            ),
            (
                Sampling { dry_sequence_breakers: Some(many(1, "")), ..base() },
                "dry_sequence_breakers",
            ),
            (Sampling { logprobs: Some(21), ..base() }, "logprobs"),
            (Sampling { max_tokens: Some(0), ..base() }, "max_tokens"),
            (Sampling { stop: many(1, ""), ..base() }, "stop"),
            (Sampling { stop: many(17, "x"), ..base() }, "stop"),
            (Sampling { stop: vec!["x".repeat(100_000)], ..base() }, "stop"),
            (Sampling { logit_bias: vec![(1, 0.0); 10_000], ..base() }, "logit_bias"),
            (Sampling { logit_bias: vec![(100, 1.0)], ..base() }, "logit_bias"),
            (Sampling { logit_bias: vec![(-1, 1.0)], ..base() }, "logit_bias"),
            (Sampling { logit_bias: vec![(1, 100.5)], ..base() }, "logit_bias"),
            (Sampling { logit_bias: vec![(1, f32::NAN)], ..base() }, "logit_bias"),
        ];
        for (sampling, field) in rows {
            let refused = check(&sampling, VOCABULARY).unwrap_err();
            assert_eq!(refused.field, field);
            let message = refused.to_string();
            assert!(message.contains(field) && message.len() < 150, "{message}");
        }
    }

    #[test]
    fn what_the_contract_allows_is_taken() {
        let most = Sampling {
            temperature: Some(2.0),
            top_p: Some(1.0),
            top_k: Some(u32::MAX),
            min_p: Some(0.0),
            repeat_penalty: Some(1.3),
            repeat_last_n: Some(65_536),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            typical_p: Some(0.0),
            xtc_probability: Some(1.0),
            xtc_threshold: Some(0.0),
            dry_multiplier: Some(100.0),
            dry_base: Some(10.0),
            dry_allowed_length: Some(u32::MAX),
            dry_penalty_last_n: Some(u32::MAX),
            dry_sequence_breakers: Some(vec!["x".repeat(256); 64]),
            logit_bias: vec![(99, -100.0); 1024],
            logprobs: Some(20),
            seed: Some(u64::MAX),
            stop: vec!["x".repeat(256); 16],
            max_tokens: Some(u32::MAX),
            ignore_eos: true,
        };
        assert_eq!(check(&most, VOCABULARY), Ok(()));
        assert_eq!(check(&Sampling::default(), VOCABULARY), Ok(()));
    }

    #[test]
    fn dry_is_off_by_default_and_looks_back_over_the_whole_context() {
        assert_eq!(Dry::of(&Sampling::default(), 512), None);
        let on = Sampling { dry_multiplier: Some(0.8), ..Sampling::default() };
        let dry = Dry::of(&on, 512).unwrap();
        assert_eq!((dry.last_n, dry.allowed_length), (512, 2));
        assert_eq!(dry.sequence_breakers, ["\n", ":", "\"", "*"]);
        let none = Sampling { dry_penalty_last_n: Some(0), ..on };
        assert_eq!(Dry::of(&none, 512), None);
    }
}
