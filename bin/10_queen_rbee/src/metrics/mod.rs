//! What the queen counts.
//!
//! A request looks its model up once, and keeps the handle: no token takes a lock or finds a name. No
//! label has a value that a client chooses: models and workers are those that the registry knows, and
//! all others together are `(other)`, which is the name of none.

mod sample;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use worker_contract::{ModelAlias, Usage};

pub(crate) use self::sample::Sample;

/// How many models have figures of their own.
const MAX_MODELS: usize = 256;
/// How requests end.
pub(crate) const OUTCOMES: [&str; 11] = [
    "done",
    "cancelled",
    "no_worker",
    "queue_full",
    "refused",
    "busy",
    "stopping",
    "own_limit",
    "worker_failed",
    "quarantined",
    "deadline",
];

/// What the queen counts. A clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    models: RwLock<BTreeMap<ModelAlias, Arc<ModelMetrics>>>,
    other: Arc<ModelMetrics>,
    open_requests: AtomicU64,
    open_streams: AtomicU64,
}

/// The figures of one model.
#[derive(Debug)]
pub struct ModelMetrics {
    requests: [AtomicU64; OUTCOMES.len()],
    open_answers: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    tokens: AtomicU64,
    failovers: AtomicU64,
    retries: AtomicU64,
    ttft: Histogram,
    time_per_token: Histogram,
    queue_wait: Histogram,
}

/// The figures of the model of a request that has had a place: it is one of its open answers until this is dropped.
#[derive(Debug)]
pub(crate) struct Answering(Arc<ModelMetrics>);

/// Something that is counted for as long as it exists.
#[derive(Debug)]
pub struct Open {
    shared: Arc<Shared>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Request,
    Stream,
}

impl Metrics {
    /// The figures of a model that is known.
    #[must_use]
    pub fn model(&self, model: &ModelAlias) -> Arc<ModelMetrics> {
        let models = &self.shared.models;
        if let Some(known) = models.read().unwrap_or_else(PoisonError::into_inner).get(model) {
            return Arc::clone(known);
        }
        let mut models = models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            return self.other();
        }
        Arc::clone(models.entry(model.clone()).or_default())
    }

    /// The figures of all other models.
    #[must_use]
    pub fn other(&self) -> Arc<ModelMetrics> {
        Arc::clone(&self.shared.other)
    }

    /// A request is open until this is dropped.
    #[must_use]
    pub fn open_request(&self) -> Open {
        Open::new(&self.shared, What::Request)
    }

    /// A streamed answer is open until this is dropped.
    #[must_use]
    pub fn open_stream(&self) -> Open {
        Open::new(&self.shared, What::Stream)
    }
}

impl ModelMetrics {
    /// A request is over.
    pub fn ended(&self, outcome: &'static str) {
        if let Some(index) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.requests[index].fetch_add(1, Relaxed);
        }
    }

    /// How many requests ended so.
    #[cfg(test)]
    pub(crate) fn ended_so(&self, outcome: &str) -> u64 {
        let counts = OUTCOMES.iter().zip(&self.requests);
        counts.filter(|(known, _)| **known == outcome).map(|(_, count)| count.load(Relaxed)).sum()
    }

    /// A request has its first place at a worker, or has waited in vain.
    pub fn waited(&self, after: Duration) {
        self.queue_wait.observe(after.as_secs_f64());
    }

    /// A request goes to another worker or, where `has_begun` says that its client has some of the answer,
    /// another one goes on with that.
    pub fn tried_again(&self, has_begun: bool) {
        let count = if has_begun { &self.failovers } else { &self.retries };
        count.fetch_add(1, Relaxed);
    }

    /// How many answers went on, and how many requests were sent again.
    #[cfg(test)]
    pub(crate) fn tries(&self) -> (u64, u64) {
        (self.failovers.load(Relaxed), self.retries.load(Relaxed))
    }

    /// A client gets the first part of its answer.
    pub fn first_part(&self, after: Duration) {
        self.ttft.observe(after.as_secs_f64());
    }

    /// An answer of so many texts, which were made side by side, is complete, so long after its first part.
    pub fn answered(&self, usage: Usage, choices: u32, since_first: Duration) {
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = usage;
        self.prompt_tokens.fetch_add(prompt_tokens.into(), Relaxed);
        self.cached_tokens.fetch_add(cached_tokens.into(), Relaxed);
        self.tokens.fetch_add(completion_tokens.into(), Relaxed);
        if let Some(seconds) = seconds_per_token(completion_tokens, choices, since_first) {
            self.time_per_token.observe(seconds);
        }
    }
}

/// From one token of a text to the next, where there is a next one.
fn seconds_per_token(tokens: u32, choices: u32, since_first: Duration) -> Option<f64> {
    let choices = choices.max(1);
    let steps = f64::from(tokens) / f64::from(choices) - 1.0;
    (tokens > choices).then(|| since_first.as_secs_f64() / steps)
}

impl Default for ModelMetrics {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            open_answers: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            failovers: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            // 1 ms to 131 s
            ttft: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            // 0.5 ms to 4 s
            time_per_token: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            // 0.1 ms to 419 s
            queue_wait: Histogram::new(exponential_buckets(0.0001, 4.0, 12)),
        }
    }
}

impl Answering {
    /// A request has its first place.
    pub(crate) fn begin(figures: Arc<ModelMetrics>) -> Self {
        figures.open_answers.fetch_add(1, Relaxed);
        Self(figures)
    }
}

impl Deref for Answering {
    type Target = ModelMetrics;

    fn deref(&self) -> &ModelMetrics {
        &self.0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.open_answers.fetch_sub(1, Relaxed);
    }
}

impl Open {
    fn new(shared: &Arc<Shared>, what: What) -> Self {
        shared.open(what).fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), what }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open(self.what).fetch_sub(1, Relaxed);
    }
}

impl Shared {
    fn open(&self, what: What) -> &AtomicU64 {
        match what {
            What::Request => &self.open_requests,
            What::Stream => &self.open_streams,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_models_have_figures_of_their_own_and_those_keep_them() {
        let metrics = Metrics::default();
        let named = |number: usize| metrics.model(&format!("m-{number}").parse().unwrap());
        let own: Vec<_> = (0..MAX_MODELS).map(named).collect();
        let is_other = |figures: &Arc<ModelMetrics>| Arc::ptr_eq(figures, &metrics.other());
        assert!(!own.iter().any(is_other));
        for number in [MAX_MODELS, MAX_MODELS + 1, 10_000] {
            assert!(is_other(&named(number)), "{number}");
        }
        let is_kept = |(number, figures): (usize, _)| Arc::ptr_eq(&named(number), figures);
        assert!(own.iter().enumerate().all(is_kept));
        let labels = metrics.shared.models.read().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(labels, MAX_MODELS);
    }

    #[test]
    fn the_time_per_token_is_that_of_one_text_however_many_are_made_side_by_side() {
        for (tokens, choices, seconds, expected) in [
            (0, 0, 1, None),
            (1, 1, 1, None),
            (5, 1, 2, Some(0.5)),
            (80, 16, 2, Some(0.5)),
            (16, 16, 2, None),
            (6, 4, 1, Some(2.0)),
        ] {
            let told = seconds_per_token(tokens, choices, Duration::from_secs(seconds));
            assert_eq!(told, expected, "{tokens} tokens of {choices}");
        }
    }
}
