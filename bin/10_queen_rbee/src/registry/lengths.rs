//! How long the contexts of workers are that are started somewhere, as others have shown there. Pure.
//!
//! A hive has settings of its own for what no policy says, and the queen does not know them.

use std::collections::BTreeMap;
use std::time::Instant;

use worker_contract::{HiveAlias, ModelAlias};

use super::fits::Size;
use super::worker::Worker;
use super::{Liveness, Registry, State};
use crate::policy::Policy;

/// The most models at hives that something is remembered of: the oldest makes room.
const MOST: usize = 1024;

/// The last worker of each model that the queen has started at each hive, or else the one with the longest
/// context, those included that run no longer.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    known: BTreeMap<(ModelAlias, HiveAlias), Length>,
    /// How many have been put there.
    put: u64,
}

/// What a worker has shown.
#[derive(Debug, Clone, Copy)]
struct Length {
    /// How large it was started; `None` where nobody knows, as after a restart of the queen.
    size: Option<Size>,
    tokens: u32,
    /// Its number among those that were put there.
    number: u64,
}

impl Length {
    /// Whether it is its hive's own setting. Where nobody knows how it was started, it may be a policy's.
    fn is_own_setting(self) -> bool {
        self.size.is_some_and(|size| size.ctx_size.is_none())
    }
}

impl Lengths {
    /// A worker tells how long its context is.
    pub(super) fn shown(&mut self, worker: &Worker) {
        let tokens = worker.context_tokens();
        let key = (worker.model.clone(), worker.hive_id.clone());
        let is_better = match self.known.get(&key) {
            Some(Length { size: None, tokens: before, .. }) => {
                worker.size.is_some() || tokens > *before
            }
            Some(_) => worker.size.is_some(),
            None => true,
        };
        if tokens > 0 && !worker.is_of_server && is_better {
            self.put(key, worker.size, tokens);
        }
    }

    fn put(&mut self, key: (ModelAlias, HiveAlias), size: Option<Size>, tokens: u32) {
        if self.known.len() >= MOST && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, length)| length.number);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.put += 1;
        self.known.insert(key, Length { size, tokens, number: self.put });
    }

    /// How long the context is of one that a hive starts with a size, as far as one can tell. A hive that has
    /// started none of that size, or none by its own settings, is believed to do as the others: workers may
    /// divide a size among their slots.
    fn of(&self, model: &ModelAlias, hive: &HiveAlias, size: Size) -> Option<u32> {
        let its = self.known.get(&(model.clone(), hive.clone()));
        if let Some(same) = its.filter(|its| its.size == Some(size)) {
            return Some(same.tokens);
        }
        if size.ctx_size.is_some() {
            return self.longest(model, |length| length.size == Some(size)).or(size.ctx_size);
        }
        let own = its.filter(|its| its.is_own_setting()).map(|its| its.tokens);
        own.or_else(|| self.longest(model, Length::is_own_setting))
    }

    /// The longest of some that hives have shown of a model.
    fn longest(&self, model: &ModelAlias, is_meant: impl Fn(Length) -> bool) -> Option<u32> {
        let of_model = self.known.iter().filter(|((its, _), _)| its == model);
        let meant = of_model.map(|(_, length)| *length).filter(|length| is_meant(*length));
        meant.map(|length| length.tokens).max()
    }
}

impl State {
    /// How long the contexts are of workers of a model that are started now, at each hive that has it.
    pub(super) fn contexts(
        &self,
        model: &ModelAlias,
        policy: Option<&Policy>,
    ) -> impl Iterator<Item = (&HiveAlias, u32)> {
        let size = policy.map(Size::of).unwrap_or_default();
        self.hives.iter().filter_map(move |hive| {
            let id = &hive.beat.hive_id;
            let entry = hive.beat.catalog.iter().find(|entry| entry.alias == *model)?;
            // No worker's is longer than its model was trained for.
            let trained = match entry.gguf.context_length {
                0 => u32::MAX,
                trained => trained,
            };
            Some((id, self.workers.lengths.of(model, id, size).unwrap_or(trained).min(trained)))
        })
    }
}

impl Registry {
    /// Whether a worker of a model that is started now would have a context of more than so many tokens.
    #[must_use]
    pub fn would_start_longer(&self, model: &ModelAlias, tokens: u32, now: Instant) -> bool {
        let policy = self.policy(model);
        let state = self.state();
        let is_there = |hive: &HiveAlias| state.hives.liveness(hive, now) != Liveness::Gone;
        let mut contexts = state.contexts(model, policy.as_ref());
        contexts.any(|(hive, context)| context > tokens && is_there(hive))
    }

    /// The longest context that a model was trained for, as far as hives' catalogs tell; `None` where no hive
    /// has it.
    #[must_use]
    pub fn trained_context(&self, model: &ModelAlias) -> Option<u32> {
        let state = self.state();
        let entries = state.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let of_model = entries.filter(|entry| entry.alias == *model);
        of_model.map(|entry| entry.gguf.context_length).max()
    }

    /// Whether a model is known to have no chat template: no hive's file of this name has one, and no server of
    /// somebody else has the name, too.
    #[must_use]
    pub fn is_without_template(&self, model: &ModelAlias) -> bool {
        let state = self.state();
        let entries = || state.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let mut of_model = entries().filter(|entry| entry.alias == *model).peekable();
        of_model.peek().is_some()
            && of_model.all(|entry| !entry.gguf.has_chat_template)
            && !state.workers.of_model(model).any(|(_, worker)| worker.is_of_server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_starts_contexts_as_the_policy_says_or_as_it_has_shown() {
        let model: ModelAlias = "m".parse().unwrap();
        let alias = |name: &str| name.parse::<HiveAlias>().unwrap();
        let sized = |tokens| Size { slots: None, ctx_size: Some(tokens) };
        let shown = |rows: &[(&str, Option<Size>, u32)]| {
            let mut lengths = Lengths::default();
            for (hive, size, tokens) in rows {
                lengths.put((model.clone(), alias(hive)), *size, *tokens);
            }
            lengths
        };
        let usual = Size::default();
        for (because, rows, size, expected) in [
            ("nobody knows", &[][..], usual, None),
            ("the policy says so", &[("a", None, 256)], sized(1024), Some(1024)),
            ("it is divided among slots", &[("a", Some(sized(1024)), 512)], sized(1024), Some(512)),
            (
                "it is divided elsewhere, too",
                &[("b", Some(sized(1024)), 512), ("c", None, 900)],
                sized(1024),
                Some(512),
            ),
            (
                "the policy was another one",
                &[("a", Some(sized(512)), 256)],
                sized(1024),
                Some(1024),
            ),
            ("its own setting", &[("a", Some(usual), 256), ("b", None, 900)], usual, Some(256)),
            ("nobody knows how it was started", &[("a", None, 256)], usual, None),
            ("that of others", &[("b", None, 900), ("c", Some(usual), 512)], usual, Some(512)),
            ("by a policy of before", &[("a", Some(sized(512)), 512)], usual, None),
        ] {
            assert_eq!(shown(rows).of(&model, &alias("a"), size), expected, "{because}");
        }
    }

    #[test]
    fn where_too_much_is_known_the_oldest_is_forgotten() {
        let key = |number: usize| {
            (format!("m-{number}").parse::<ModelAlias>().unwrap(), "h".parse().unwrap())
        };
        let mut lengths = Lengths::default();
        for number in (0..MOST).chain([0, MOST]) {
            lengths.put(key(number), Some(Size::default()), 256);
        }
        let of = |number| {
            let (model, hive) = key(number);
            lengths.of(&model, &hive, Size::default())
        };
        assert_eq!((of(0), of(1), of(MOST)), (Some(256), None, Some(256)));
        assert_eq!(lengths.known.len(), MOST);
    }
}
