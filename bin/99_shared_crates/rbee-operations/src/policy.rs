//! How many workers a model has, where, and for how long: its policy.

use serde::{Deserialize, Serialize};
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

/// What is wanted of a model's workers. A field that is `None` leaves it to the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct ModelPolicy {
    /// How many workers it has at least, 0 to 64. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// How many workers it has at most by the queen's own doing, 1 to 64. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Whether its workers stay, as many as `min` says and one at least, however idle they are and whoever needs their
    /// memory. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// After how many seconds without a request a worker is ended, 0 for never, up to 30 days. Default:
    /// `[queen] idle_ttl_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_ttl_s: Option<u64>,
    /// The hive where it is preferred to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hive: Option<HiveAlias>,
    /// The device on which it is preferred to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// KV cache size in tokens, for all slots of a worker together, 256 to 16,777,216.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx_size: Option<u32>,
    /// How many requests run at once in a worker, 1 to 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
}

/// A change of a model's policy, which is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPolicySet {
    /// The model.
    pub model: ModelAlias,
    /// Whether what was set before is dropped first; what the configuration says stays.
    #[serde(default)]
    pub reset: bool,
    /// The fields to set.
    #[serde(default)]
    pub policy: ModelPolicy,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a model's policy")]
#[derive(Default)]
struct Raw {
    min: Option<u32>,
    max: Option<u32>,
    pin: Option<bool>,
    idle_ttl_s: Option<u64>,
    hive: Option<HiveAlias>,
    device: Option<DeviceId>,
    ctx_size: Option<u32>,
    slots: Option<u32>,
}

impl ModelPolicy {
    /// This policy, with the fields of another one where that has some.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self {
            min: other.min.or(self.min),
            max: other.max.or(self.max),
            pin: other.pin.or(self.pin),
            idle_ttl_s: other.idle_ttl_s.or(self.idle_ttl_s),
            hive: other.hive.clone().or_else(|| self.hive.clone()),
            device: other.device.or(self.device),
            ctx_size: other.ctx_size.or(self.ctx_size),
            slots: other.slots.or(self.slots),
        }
    }

    /// Whether every field is within its bounds; else which one is not.
    pub fn check(&self) -> Result<(), String> {
        within("min", self.min.map(u64::from), 0, 64)?;
        within("max", self.max.map(u64::from), 1, 64)?;
        within("idle_ttl_s", self.idle_ttl_s, 0, 30 * 86_400)?;
        within("ctx_size", self.ctx_size.map(u64::from), 256, 16_777_216)?;
        within("slots", self.slots.map(u64::from), 1, 256)?;
        match (self.min, self.max) {
            (Some(min), Some(max)) if min > max => {
                Err(format!("min is {min} and max is {max}: at most as many as max"))
            }
            _ => Ok(()),
        }
    }
}

fn within(name: &str, value: Option<u64>, least: u64, most: u64) -> Result<(), String> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(format!("{name} is {value}: use {least} to {most}"))
        }
        _ => Ok(()),
    }
}

impl TryFrom<Raw> for ModelPolicy {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Raw { min, max, pin, idle_ttl_s, hive, device, ctx_size, slots } = raw;
        let policy = Self { min, max, pin, idle_ttl_s, hive, device, ctx_size, slots };
        policy.check()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ModelPolicy, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_out_of_bounds_or_unknown_is_named() {
        for (bad, told) in [
            (r#"{"min": 65}"#, "min is 65"),
            (r#"{"max": 0}"#, "max is 0"),
            (r#"{"min": 3, "max": 2}"#, "min is 3 and max is 2"),
            (r#"{"ctx_size": 1}"#, "ctx_size is 1"),
            (r#"{"idle_ttl": 5}"#, "idle_ttl"),
            (r#"{"device": "TPU-0"}"#, "TPU-0"),
            (r#"{"hive": "../x"}"#, "../x"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn the_later_word_counts_field_by_field() {
        let first = parse(r#"{"min": 1, "pin": true, "slots": 8}"#).unwrap();
        let second = parse(r#"{"min": 2, "device": "GPU-1"}"#).unwrap();
        let both = parse(r#"{"min": 2, "pin": true, "slots": 8, "device": "GPU-1"}"#).unwrap();
        assert_eq!(first.with(&second), both);
    }
}
