//! What the worker counts, as Prometheus reads it (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! No label has a value that a client chooses.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::batch::Gauges;

/// Counters and histograms of the engine's loop.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<EndLabel, Counter>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
    drafted_tokens: Counter,
    accepted_tokens: Counter,
    ttft: Histogram,
    time_per_token: Histogram,
    batch_tokens: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    end: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            drafted_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            // 1 ms to 131 s
            ttft: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            // 0.5 ms to 4 s
            time_per_token: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            // 1 to 512 tokens
            batch_tokens: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
        }
    }
}

impl Metrics {
    /// A request is over: `stop`, `length`, `tool_calls`, `cancelled`, or an error's code.
    pub fn request_ended(&self, end: &'static str) {
        self.requests.get_or_create(&EndLabel { end: end.to_owned() }).inc();
    }

    /// A request has its prompt, of which a part was known already.
    pub fn prompt(&self, tokens: usize, cached: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.cached_tokens.inc_by(cached as u64);
    }

    /// The first token of a request is there.
    pub fn first_token(&self, after: Duration) {
        self.ttft.observe(after.as_secs_f64());
    }

    /// An answer got tokens, some of them guessed right; `after` is the time since its last ones.
    pub fn tokens(&self, tokens: usize, drafted: usize, accepted: usize, after: Option<Duration>) {
        self.generated_tokens.inc_by(tokens as u64);
        self.drafted_tokens.inc_by(drafted as u64);
        self.accepted_tokens.inc_by(accepted as u64);
        if let Some(after) = after.filter(|_| tokens > 0) {
            self.time_per_token.observe(after.as_secs_f64() / tokens as f64);
        }
    }

    /// A step was computed.
    pub fn step(&self, tokens: usize) {
        self.batch_tokens.observe(tokens as f64);
    }

    /// Everything as text, with what the loop's gauges say at this moment. `slots` and `kv_tokens` are
    /// how many there are.
    pub fn text(&self, gauges: &Arc<Gauges>, slots: u32, kv_tokens: u32) -> String {
        let mut registry = Registry::with_prefix("rbee_worker");
        registry.register("requests", "Requests by how they ended", self.requests.clone());
        registry.register("prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        registry.register(
            "cached_tokens",
            "Tokens of prompts that were computed before",
            self.cached_tokens.clone(),
        );
        registry.register("generated_tokens", "Tokens of answers", self.generated_tokens.clone());
        registry.register(
            "drafted_tokens",
            "Tokens that were guessed",
            self.drafted_tokens.clone(),
        );
        registry.register(
            "accepted_tokens",
            "Guessed tokens that were right",
            self.accepted_tokens.clone(),
        );
        registry.register("ttft_seconds", "From arrival to the first token", self.ttft.clone());
        registry.register(
            "time_per_token_seconds",
            "From one token of an answer to its next",
            self.time_per_token.clone(),
        );
        registry.register("batch_tokens", "Tokens of a step", self.batch_tokens.clone());
        let now = Now { gauges: Arc::clone(gauges), slots, kv_tokens };
        registry.register_collector(Box::new(now));
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

/// The loop's gauges, read when they are asked for.
#[derive(Debug)]
struct Now {
    gauges: Arc<Gauges>,
    slots: u32,
    kv_tokens: u32,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = &self.gauges;
        let memory = gauges.prompt_cache_bytes.load(Relaxed);
        for (name, help, value) in [
            ("slots", "Answers that can run at once", u64::from(self.slots)),
            ("slots_busy", "Answers that run", gauges.busy.load(Relaxed).into()),
            ("queue_depth", "Answers that wait for a slot", gauges.waiting().into()),
            ("kv_cache_tokens", "Tokens that fit into the KV cache", self.kv_tokens.into()),
            (
                "kv_cache_running_tokens",
                "Those of running answers",
                gauges.kv_used.load(Relaxed).into(),
            ),
            ("kv_cache_idle_tokens", "Those kept for reuse", gauges.kv_idle.load(Relaxed).into()),
            ("prompt_cache_bytes", "Computed prompts in the machine's memory", memory),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_with_its_value() {
        let metrics = Metrics::default();
        metrics.prompt(100, 60);
        metrics.first_token(Duration::from_millis(3));
        metrics.tokens(4, 5, 3, Some(Duration::from_millis(8)));
        metrics.step(9);
        metrics.request_ended("stop");
        let gauges = Arc::new(Gauges::default());
        gauges.queued.store(7, Relaxed);
        let text = metrics.text(&gauges, 4, 8192);
        for line in [
            "rbee_worker_requests_total{end=\"stop\"} 1",
            "rbee_worker_prompt_tokens_total 100",
            "rbee_worker_cached_tokens_total 60",
            "rbee_worker_generated_tokens_total 4",
            "rbee_worker_accepted_tokens_total 3",
            "rbee_worker_ttft_seconds_bucket{le=\"0.004\"} 1",
            "rbee_worker_time_per_token_seconds_sum 0.002",
            "rbee_worker_batch_tokens_count 1",
            "rbee_worker_queue_depth 7",
            "rbee_worker_slots 4",
            "rbee_worker_kv_cache_tokens 8192",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
