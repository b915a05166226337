//! How many workers a model has, where, and for how long: its policy.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

use crate::Wished;

/// From how much to how much each number can be.
const MIN: Bounds = (0, 64);
const MAX: Bounds = (1, 64);
const IDLE_TTL_S: Bounds = (0, 30 * 86_400);
const CTX_SIZE: Bounds = (256, 16_777_216);
const SLOTS: Bounds = (1, 256);

type Bounds = (u64, u64);

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
    /// The hive where it is preferred to run; `any` where each is as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hive: Option<Wished<HiveAlias>>,
    /// The device on which it is preferred to run; `any` where each is as good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Wished<DeviceId>>,
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
    #[serde(deserialize_with = "min")]
    min: Option<u32>,
    #[serde(deserialize_with = "max")]
    max: Option<u32>,
    #[serde(deserialize_with = "flag")]
    pin: Option<bool>,
    #[serde(deserialize_with = "idle_ttl_s")]
    idle_ttl_s: Option<u64>,
    hive: Option<Wished<HiveAlias>>,
    device: Option<Wished<DeviceId>>,
    #[serde(deserialize_with = "ctx_size")]
    ctx_size: Option<u32>,
    #[serde(deserialize_with = "slots")]
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
        within("min", self.min.map(u64::from), MIN)?;
        within("max", self.max.map(u64::from), MAX)?;
        within("idle_ttl_s", self.idle_ttl_s, IDLE_TTL_S)?;
        within("ctx_size", self.ctx_size.map(u64::from), CTX_SIZE)?;
        within("slots", self.slots.map(u64::from), SLOTS)?;
        match (self.min, self.max) {
            (Some(min), Some(max)) if min > max => {
                Err(format!("min is {min} and max is {max}: at most as many as max"))
            }
            _ => Ok(()),
        }
    }
}

fn within(name: &str, value: Option<u64>, (least, most): Bounds) -> Result<(), String> {
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

fn min<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    number(deserializer, MIN)
}

fn max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    number(deserializer, MAX)
}

fn idle_ttl_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    number(deserializer, IDLE_TTL_S)
}

fn ctx_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    number(deserializer, CTX_SIZE)
}

fn slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    number(deserializer, SLOTS)
}

/// A number; what cannot be one is told with the numbers that will do. [`ModelPolicy::check`] looks at the bounds.
fn number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
    bounds: Bounds,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_option(Number(bounds, PhantomData))
}

struct Number<T>(Bounds, PhantomData<T>);

impl<'de, T: TryFrom<u64>> Visitor<'de> for Number<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.0;
        write!(f, "a whole number from {least} to {most}")
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_u64(self)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<T>, E> {
        let fits = T::try_from(number).ok();
        fits.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Option<T>, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

/// True or false, and the same words where it is neither.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Flag;

    impl<'de> Visitor<'de> for Flag {
        type Value = Option<bool>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_none<E: Error>(self) -> Result<Option<bool>, E> {
            Ok(None)
        }

        fn visit_unit<E: Error>(self) -> Result<Option<bool>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, it: D) -> Result<Option<bool>, D::Error> {
            it.deserialize_bool(self)
        }

        fn visit_bool<E: Error>(self, flag: bool) -> Result<Option<bool>, E> {
            Ok(Some(flag))
        }
    }

    deserializer.deserialize_option(Flag)
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
            (r#"{"min": -1}"#, "integer `-1`, expected a whole number from 0 to 64"),
            (r#"{"slots": 5000000000}"#, "expected a whole number from 1 to 256"),
            (r#"{"idle_ttl_s": "soon"}"#, "expected a whole number from 0 to 2592000"),
            (r#"{"pin": 1}"#, "integer `1`, expected true or false"),
            (r#"{"device": "TPU-0"}"#, "TPU-0"),
            (r#"{"hive": "../x"}"#, "../x"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn a_field_without_a_value_is_left_to_the_default() {
        let parsed = parse(r#"{"min": null, "pin": null, "idle_ttl_s": null, "max": 2}"#).unwrap();
        assert_eq!(parsed, ModelPolicy { max: Some(2), ..ModelPolicy::default() });
    }

    #[test]
    fn the_later_word_counts_field_by_field() {
        let first = parse(r#"{"min": 1, "pin": true, "slots": 8}"#).unwrap();
        let second = parse(r#"{"min": 2, "device": "GPU-1"}"#).unwrap();
        let both = parse(r#"{"min": 2, "pin": true, "slots": 8, "device": "GPU-1"}"#).unwrap();
        assert_eq!(first.with(&second), both);
    }

    #[test]
    fn that_nothing_is_preferred_counts_over_what_was_and_keeps_its_word() {
        let first = parse(r#"{"hive": "two", "device": "GPU-1"}"#).unwrap();
        let second = parse(r#"{"hive": "any"}"#).unwrap();
        let both = first.with(&second);
        assert_eq!(both.hive, Some(Wished::Any));
        assert_eq!(both.device.and_then(Wished::one), Some("GPU-1".parse().unwrap()));
        let both = both.with(&parse(r#"{"device": "any"}"#).unwrap());
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"{"hive":"any","device":"any"}"#);
        assert_eq!(both.with(&first), first, "and a later wish over it");
    }
}
