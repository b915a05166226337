//! What is used where a request says nothing, and what a request may say.

use worker_contract::Sampling;

pub(super) const TEMPERATURE: f32 = 0.8;
pub(super) const TOP_P: f32 = 0.95;
pub(super) const TOP_K: u32 = 40;
pub(super) const MIN_P: f32 = 0.05;

const MAX_STOP_TEXTS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// A sampling field is out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}: it must be {allowed}")]
pub struct InvalidSampling {
    /// The field.
    pub field: &'static str,
    value: String,
    allowed: &'static str,
}

/// Checks every field against its range.
pub fn check(sampling: &Sampling) -> Result<(), InvalidSampling> {
    let number =
        |field, value: Option<f32>, range: std::ops::RangeInclusive<f32>, allowed| match value
            .filter(|v| !range.contains(v))
        {
            Some(value) => Err(InvalidSampling { field, value: value.to_string(), allowed }),
            None => Ok(()),
        };
    number("temperature", sampling.temperature, 0.0..=2.0, "from 0 to 2")?;
    number("top_p", sampling.top_p, 0.0..=1.0, "from 0 to 1")?;
    number("min_p", sampling.min_p, 0.0..=1.0, "from 0 to 1")?;
    number("presence_penalty", sampling.presence_penalty, -2.0..=2.0, "from -2 to 2")?;
    number("frequency_penalty", sampling.frequency_penalty, -2.0..=2.0, "from -2 to 2")?;
    number("repeat_penalty", sampling.repeat_penalty, 0.01..=10.0, "from 0.01 to 10")?;
    let refuse = |field, value: String, allowed| Err(InvalidSampling { field, value, allowed });
    if sampling.max_tokens == Some(0) {
        return refuse("max_tokens", "0".to_owned(), "at least 1");
    }
    if sampling.stop.len() > MAX_STOP_TEXTS {
        let count = format!("a list of {}", sampling.stop.len());
        return refuse("stop", count, "at most 16 texts");
    }
    if let Some(bad) = sampling.stop.iter().find(|t| t.is_empty() || t.len() > MAX_STOP_BYTES) {
        let length = format!("a text of {} bytes", bad.len());
        return refuse("stop", length, "texts of 1 to 256 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_is_held_and_named() {
        let refused = |sampling: Sampling| check(&sampling).unwrap_err().field;
        let base = Sampling::default;
        assert!(check(&base()).is_ok());
        assert_eq!(refused(Sampling { temperature: Some(2.1), ..base() }), "temperature");
        assert_eq!(refused(Sampling { temperature: Some(f32::NAN), ..base() }), "temperature");
        assert_eq!(refused(Sampling { top_p: Some(-0.1), ..base() }), "top_p");
        assert_eq!(refused(Sampling { min_p: Some(1.1), ..base() }), "min_p");
        assert_eq!(refused(Sampling { repeat_penalty: Some(0.0), ..base() }), "repeat_penalty");
        assert_eq!(refused(Sampling { max_tokens: Some(0), ..base() }), "max_tokens");
        assert_eq!(refused(Sampling { stop: vec![String::new()], ..base() }), "stop");
        assert_eq!(refused(Sampling { stop: vec!["x".into(); 17], ..base() }), "stop");
    }
}
