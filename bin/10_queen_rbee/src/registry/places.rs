//! How fast devices have shown to be, those included that run nothing at present: a worker that is to be
//! started goes where it will be fast. Pure: `now` is passed in.
//!
//! Hardware does not change by the hour, so what was shown long ago counts until something newer is there.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use worker_contract::{DeviceId, HiveAlias, ModelAlias, Timings, Usage};

use super::State;
use super::pace::Pace;

/// The most hives, and the most models on a device, that something is remembered of.
const MOST_HIVES: usize = 1024;
const MOST_MODELS: usize = 32;

/// What was shown where.
#[derive(Debug, Default)]
pub(super) struct Places {
    hives: HashMap<HiveAlias, BTreeMap<DeviceId, BTreeMap<ModelAlias, Pace>>>,
}

/// An answer, as far as it shows how fast a device is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) usage: Usage,
    /// Tokens of the answer that others had given.
    pub(super) before: u32,
    pub(super) timings: Timings,
    /// Requests beside it.
    pub(super) company: u32,
}

impl Places {
    /// An answer of a model has come from a device.
    pub(super) fn take(
        &mut self,
        (hive, device): (&HiveAlias, DeviceId),
        model: &ModelAlias,
        shown: Shown,
        now: Instant,
    ) {
        if !self.hives.contains_key(hive) {
            if self.hives.len() >= MOST_HIVES {
                return;
            }
            self.hives.insert(hive.clone(), BTreeMap::new());
        }
        let Some(devices) = self.hives.get_mut(hive) else { return };
        let models = devices.entry(device).or_default();
        if !models.contains_key(model) {
            if models.len() >= MOST_MODELS {
                let oldest = models.iter().min_by_key(|(_, pace)| pace.shown_at());
                if let Some(oldest) = oldest.map(|(model, _)| model.clone()) {
                    models.remove(&oldest);
                }
            }
            models.insert(model.clone(), Pace::default());
        }
        if let Some(pace) = models.get_mut(model) {
            let Shown { usage, before, timings, company } = shown;
            pace.on_answer(0, usage, before, timings, company, now);
        }
    }

    /// What a token of a model takes on a device, in microseconds: as it has shown with that model, else
    /// as with others there, by their sizes. `None` where it has shown nothing.
    fn token_us(
        &self,
        (hive, device): (&HiveAlias, DeviceId),
        (model, bytes): (&ModelAlias, u64),
        bytes_of: impl Fn(&ModelAlias) -> Option<u64>,
    ) -> Option<u64> {
        let models = self.hives.get(hive)?.get(&device)?;
        if let Some((token_us, _)) = models.get(model).and_then(Pace::token_us) {
            return Some(token_us);
        }
        let (mut sum, mut weights) = (0_u128, 0_u128);
        for (other, pace) in models {
            let Some((token_us, weight)) = pace.token_us() else { continue };
            let Some(other) = bytes_of(other).filter(|bytes| *bytes > 0) else { continue };
            let (token_us, weight) = (u128::from(token_us), u128::from(weight));
            sum += token_us * u128::from(bytes) / u128::from(other) * weight;
            weights += weight;
        }
        sum.checked_div(weights).map(|mean| u64::try_from(mean).unwrap_or(u64::MAX))
    }
}

impl State {
    /// What a token of a model takes on each device of the hives that have it, where that was shown.
    pub(super) fn token_times(&self, model: &ModelAlias) -> HashMap<(&HiveAlias, DeviceId), u64> {
        let mut times = HashMap::new();
        for hive in self.hives.iter() {
            let (id, catalog) = (&hive.beat.hive_id, &hive.beat.catalog);
            let bytes_of = |model: &ModelAlias| {
                let entry = catalog.iter().find(|entry| entry.alias == *model)?;
                Some(entry.gguf.size_bytes)
            };
            let Some(bytes) = bytes_of(model) else { continue };
            for device in &hive.beat.devices {
                let place = (id, device.id);
                if let Some(time) = self.places.token_us(place, (model, bytes), bytes_of) {
                    times.insert(place, time);
                }
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_as_fast_as_it_was_with_the_model_or_with_others_by_their_sizes() {
        let (mut places, now) = (Places::default(), Instant::now());
        let hive: HiveAlias = "h".parse().unwrap();
        let device: DeviceId = "GPU-0".parse().unwrap();
        let alias = |name: &str| name.parse::<ModelAlias>().unwrap();
        let bytes_of = |model: &ModelAlias| match model.as_str() {
            "small" => Some(1_000),
            "large" => Some(4_000),
            _ => None,
        };
        let token_us = |places: &Places, model: &str, bytes| {
            places.token_us((&hive, device), (&alias(model), bytes), bytes_of)
        };
        assert_eq!(token_us(&places, "small", 1_000), None);
        let shown = |decode_ms| Shown {
            before: 0,
            usage: Usage { completion_tokens: 10, ..Usage::default() },
            timings: Timings { decode_ms, ..Timings::default() },
            company: 0,
        };
        places.take((&hive, device), &alias("small"), shown(50.0), now);
        assert_eq!(token_us(&places, "small", 1_000), Some(5_000));
        assert_eq!(token_us(&places, "large", 4_000), Some(20_000), "four times as large");
        places.take((&hive, device), &alias("large"), shown(100.0), now);
        assert_eq!(token_us(&places, "large", 4_000), Some(10_000), "its own measure counts");
        assert_eq!(token_us(&places, "third", 2_000), Some(7_500), "between 10 and 5 ms");
        for number in 0..100 {
            places.take((&hive, device), &alias(&format!("m-{number}")), shown(1.0), now);
        }
        assert_eq!(places.hives[&hive][&device].len(), MOST_MODELS);
    }
}
