//! Everything as Prometheus reads it
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Registered;
use worker_contract::ModelAlias;

use super::{Metrics, ModelMetrics, OUTCOMES};
use crate::decisions::{Decisions, Kind};
use crate::dispatch::Dispatcher;
use crate::registry::{Liveness, Times};

/// The model of what is about none that is known. No model can have this name.
const OTHER: &str = "(other)";
/// The states of workers. Each is told, also where no worker is in it.
const STATES: [&str; 4] = ["loading", "ready", "draining", "failed"];

/// A count of a model.
type Count = fn(&ModelMetrics) -> &AtomicU64;
/// Times of a model.
type Spread = fn(&ModelMetrics) -> &Histogram;

/// What the metrics are made from.
#[derive(Debug)]
pub(crate) struct Sample {
    models: BTreeMap<String, Arc<ModelMetrics>>,
    open_requests: u64,
    open_streams: u64,
    rule_failures: u64,
    decisions: BTreeMap<(Kind, &'static str), u64>,
    waiting: BTreeMap<String, u64>,
    hives: [u64; 3],
    states: [u64; STATES.len()],
    workers: Vec<Worker>,
}

/// The figures of one worker.
#[derive(Debug)]
struct Worker {
    labels: [(&'static str, String); 2],
    answered: u64,
    failures: u64,
    in_flight: u64,
    times: Times,
}

impl Sample {
    /// What there is now.
    pub(crate) fn of(metrics: &Metrics, dispatcher: &Dispatcher) -> Self {
        let shared = &metrics.shared;
        let mut models: BTreeMap<_, _> = shared
            .models
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(alias, figures)| (alias.to_string(), Arc::clone(figures)))
            .collect();
        models.entry(OTHER.to_owned()).or_insert_with(|| metrics.other());
        let mut sample = Self {
            models,
            open_requests: shared.open_requests.load(Relaxed),
            open_streams: shared.open_streams.load(Relaxed),
            rule_failures: dispatcher.registry().rule_failures(),
            decisions: Decisions::counts(dispatcher.decisions()),
            waiting: BTreeMap::new(),
            hives: [0; 3],
            states: [0; STATES.len()],
            workers: Vec::new(),
        };
        sample.look_at_fleet(dispatcher);
        sample.look_at_queues(dispatcher);
        sample
    }

    /// The sample as text.
    pub(crate) fn text(self) -> String {
        let mut registry = Registered::with_prefix("rbee_queen");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }

    fn look_at_fleet(&mut self, dispatcher: &Dispatcher) {
        let Self { hives, states, workers, .. } = self;
        dispatcher.registry().look(
            Instant::now(),
            |hive| hives[liveness(hive.liveness)] += 1,
            |id, worker| {
                if let Some(index) = STATES.iter().position(|state| *state == worker.is.state) {
                    states[index] += 1;
                }
                workers.push(Worker {
                    labels: [("worker", id.to_string()), ("model", worker.is.model.to_string())],
                    answered: worker.load.answered,
                    failures: worker.load.failures,
                    in_flight: worker.load.in_flight.into(),
                    times: worker.times,
                });
            },
        );
    }

    fn look_at_queues(&mut self, dispatcher: &Dispatcher) {
        for (model, requests) in dispatcher.waiting_by_model() {
            let is_known = dispatcher.registry().knows_model(&model);
            let label = if is_known { model.to_string() } else { OTHER.to_owned() };
            *self.waiting.entry(label).or_default() += requests as u64;
        }
    }

    fn of_kind(&self, wanted: Kind) -> u64 {
        let counts = self.decisions.iter().filter(|((kind, _), _)| *kind == wanted);
        counts.map(|(_, count)| count).sum()
    }
}

fn liveness(liveness: Liveness) -> usize {
    match liveness {
        Liveness::Alive => 0,
        Liveness::Suspect => 1,
        Liveness::Gone => 2,
    }
}

impl Metrics {
    /// The figures for a request that never got a place: of its model, if `is_known`.
    pub(crate) fn of_unplaced(&self, model: &ModelAlias, is_known: bool) -> Arc<ModelMetrics> {
        if is_known { self.model(model) } else { self.other() }
    }
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let requests = self.models.iter().flat_map(|(model, figures)| {
            OUTCOMES.iter().zip(&figures.requests).map(move |(outcome, count)| {
                ([("model", model.as_str()), ("outcome", *outcome)], count.load(Relaxed))
            })
        });
        counters(encoder, "requests", "Requests by how they ended", requests)?;
        let counts: [(&str, &str, Count); 5] = [
            ("prompt_tokens", "Tokens of prompts", |figures| &figures.prompt_tokens),
            ("cached_tokens", "Those that a worker had computed before", |f| &f.cached_tokens),
            ("tokens", "Tokens of answers", |figures| &figures.tokens),
            ("failovers", "Answers that went on at another worker", |f| &f.failovers),
            ("retries", "Requests that were tried again before their first token", |f| &f.retries),
        ];
        for (name, help, count) in counts {
            let values = self.models.iter().map(|(model, figures)| {
                ([("model", model.as_str())], count(figures).load(Relaxed))
            });
            counters(encoder, name, help, values)?;
        }
        let times: [(&str, &str, Spread); 3] = [
            ("ttft_seconds", "From a request to the first part of its answer", |f| &f.ttft),
            ("time_per_token_seconds", "From one token to the next, each answer's mean", |f| {
                &f.time_per_token
            }),
            (
                "queue_wait_seconds",
                "From a request to its first place at a worker, or until it left the queue without one",
                |f| &f.queue_wait,
            ),
        ];
        for (name, help, histogram) in times {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (model, figures) in &self.models {
                let labels = [("model", model.as_str())];
                histogram(figures).encode(metric.encode_family(&labels)?)?;
            }
        }

        let decisions = self.decisions.iter().map(|((kind, reason), count)| {
            ([("kind", kind.as_str()), ("reason", *reason)], *count)
        });
        counters(encoder, "decisions", "Decisions by kind and reason", decisions)?;
        for (name, help, kind) in [
            ("spawns", "Workers that were started", Kind::Spawn),
            ("evictions", "Workers that were ended to make room", Kind::Evict),
        ] {
            let total = ConstCounter::new(self.of_kind(kind));
            total.encode(encoder.encode_descriptor(name, help, None, total.metric_type())?)?;
        }

        let failures = ConstCounter::new(self.rule_failures);
        let help = "Decisions at which the operator's rules failed";
        let kind = failures.metric_type();
        failures.encode(encoder.encode_descriptor("rule_failures", help, None, kind)?)?;

        for (name, help, value) in [
            ("open_requests", "Requests that wait or are being answered", self.open_requests),
            ("open_streams", "Streamed answers that are being read", self.open_streams),
        ] {
            let gauge = ConstGauge::new(whole(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let answers = self.models.iter().map(|(model, figures)| {
            ([("model", model.as_str())], figures.open_answers.load(Relaxed))
        });
        let help = "Requests that have had a place at a worker and have not ended";
        gauges(encoder, "open_answers", help, answers)?;
        let waiting = self.waiting.iter().map(|(m, count)| ([("model", m.as_str())], *count));
        gauges(encoder, "waiting", "Requests that wait for a worker", waiting)?;
        let hives = ["alive", "suspect", "gone"].into_iter().zip(self.hives);
        let hives = hives.map(|(state, count)| ([("state", state)], count));
        gauges(encoder, "hives", "Hives by their state", hives)?;
        let states = STATES.into_iter().zip(self.states);
        let states = states.map(|(state, count)| ([("state", state)], count));
        gauges(encoder, "workers", "Workers by their state", states)?;

        let of_workers = |value: fn(&Worker) -> u64| {
            self.workers.iter().map(move |worker| {
                let [(id, a), (model, b)] = &worker.labels;
                ([(*id, a.as_str()), (*model, b.as_str())], value(worker))
            })
        };
        let answered = of_workers(|worker| worker.answered);
        counters(encoder, "worker_answers", "Answers that a worker completed", answered)?;
        let failures = of_workers(|worker| worker.failures);
        counters(encoder, "worker_failures", "Requests that a worker failed", failures)?;
        let tokens = of_workers(|worker| worker.times.tokens);
        counters(encoder, "worker_tokens", "Tokens of those answers", tokens)?;
        let seconds = |value: fn(&Times) -> Duration| {
            self.workers.iter().map(move |worker| {
                let [(id, a), (model, b)] = &worker.labels;
                ([(*id, a.as_str()), (*model, b.as_str())], value(&worker.times).as_secs_f64())
            })
        };
        let help = "From sending a request to the first part of its answer, in all";
        counters(encoder, "worker_ttft_seconds", help, seconds(|times| times.first))?;
        let help = "From the first part of an answer to its end, in all";
        counters(encoder, "worker_decode_seconds", help, seconds(|times| times.rest))?;
        let in_flight = of_workers(|worker| worker.in_flight);
        gauges(encoder, "worker_in_flight", "Requests that are at a worker", in_flight)
    }
}

fn counters<'a, const N: usize, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([(&'static str, &'a str); N], V)>,
) -> fmt::Result {
    let metric_type = ConstCounter::new(0_u64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([(&'static str, &'a str); N], u64)>,
) -> fmt::Result {
    let metric_type = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (labels, value) in values {
        ConstGauge::new(whole(value)).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
