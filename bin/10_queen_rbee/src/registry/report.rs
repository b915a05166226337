//! What the registry tells about itself: `GET /v1/status`, `GET /v1/models`, `HiveList`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use worker_contract::{
    HiveAlias, HiveHeartbeat, KvCacheUse, ModelAlias, ModelInUse, ModelKind, Slots,
    WorkerHeartbeat, WorkerId,
};

use super::worker::Worker;
use super::{Due, Liveness, Registry, ServerFacts, Size, State};
use crate::attached::Engine;

/// A worker, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerReport {
    /// What it said last; its state is what is known by now.
    #[serde(flatten)]
    pub said: WorkerHeartbeat,
    /// How large it was started; `None` where nobody knows.
    #[serde(skip)]
    pub size: Option<Size>,
    /// Whether its hive lists it.
    #[serde(skip)]
    pub is_listed: bool,
    /// Requests that this queen sent it and that have not ended.
    pub in_flight: u32,
    /// How long ago it reported, in milliseconds; until it has, how long ago its hive told of it.
    pub last_seen_ms: u64,
    /// Whether it reports on time; until it has, whether its hive does.
    pub liveness: Liveness,
    /// The server of somebody else that it is a model of; its device is not known then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerFacts>,
}

/// A hive, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct HiveReport {
    /// What it said last.
    #[serde(flatten)]
    pub said: HiveHeartbeat,
    /// How long ago it reported, in milliseconds; `None` where it never has.
    pub last_seen_ms: Option<u64>,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// Where another hive is that has the same name and is therefore refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
}

/// A model that some catalog has or some worker runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelReport {
    /// When it was added to the first catalog: seconds since the Unix epoch; `None` where only a
    /// worker runs it.
    pub added_at: Option<u64>,
    /// The hives whose catalogs have it.
    pub hives: Vec<HiveAlias>,
    /// The workers that run it.
    pub workers: Vec<WorkerId>,
}

impl HiveReport {
    /// A hive that the queen was told of and that has not reported.
    #[must_use]
    pub fn silent(hive_id: HiveAlias, address: Option<String>) -> Self {
        let said = HiveHeartbeat {
            hive_id,
            // An address that is not known is not that of the queen's own process.
            address: Some(address.unwrap_or_default()),
            version: String::new(),
            devices: Vec::new(),
            catalog: Vec::new(),
            workers: Vec::new(),
            trouble: None,
        };
        Self { said, last_seen_ms: None, liveness: Liveness::Gone, rival: None }
    }
}

impl Registry {
    /// All workers that have reported themselves, or that their hives list, and that are not gone.
    #[must_use]
    pub fn workers(&self, now: Instant) -> Vec<WorkerReport> {
        let (state, due) = (self.state(), Due::at(now, self.shared.interval));
        let reports = state.workers.iter().filter_map(|(id, worker)| {
            let Some(said) = worker.said.as_ref() else {
                return state.as_listed(id, worker, now);
            };
            let liveness = worker.liveness(due, || Liveness::Gone);
            if liveness == Liveness::Gone {
                return if worker.is_given_up() { state.as_listed(id, worker, now) } else { None };
            }
            Some(WorkerReport {
                said: WorkerHeartbeat { state: worker.state(), ..said.beat.clone() },
                size: worker.size,
                is_listed: worker.listed.is_some(),
                in_flight: worker.in_flight,
                last_seen_ms: millis_since(said.at, now),
                liveness,
                server: worker.target.facts(),
            })
        });
        reports.collect()
    }

    /// All hives that have reported.
    #[must_use]
    pub fn hives(&self, now: Instant) -> Vec<HiveReport> {
        let state = self.state();
        let reports = state.hives.iter().map(|hive| HiveReport {
            said: hive.beat.clone(),
            last_seen_ms: Some(millis_since(hive.at, now)),
            liveness: hive.liveness(now),
            rival: hive.rival(),
        });
        reports.collect()
    }

    /// The same, and after them those that the queen was told of, by name and base URL, and that have not.
    #[must_use]
    pub fn hives_and(
        &self,
        told: Vec<(HiveAlias, Option<String>)>,
        now: Instant,
    ) -> Vec<HiveReport> {
        let mut hives = self.hives(now);
        for (id, address) in told {
            if !hives.iter().any(|hive| hive.said.hive_id == id) {
                hives.push(HiveReport::silent(id, address));
            }
        }
        hives
    }

    /// All models that some catalog has or some worker runs.
    #[must_use]
    pub fn models(&self, now: Instant) -> BTreeMap<ModelAlias, ModelReport> {
        self.models_of(now, |_| true)
    }

    /// The same without those that only other queens have.
    #[must_use]
    pub fn own_models(&self, now: Instant) -> BTreeMap<ModelAlias, ModelReport> {
        self.models_of(now, |worker| {
            let server = worker.target.server.as_ref();
            server.is_none_or(|server| server.engine != Engine::Rbee)
        })
    }

    fn models_of(
        &self,
        now: Instant,
        counts: impl Fn(&Worker) -> bool,
    ) -> BTreeMap<ModelAlias, ModelReport> {
        let (state, due) = (self.state(), Due::at(now, self.shared.interval));
        let mut models: BTreeMap<ModelAlias, ModelReport> = BTreeMap::new();
        for hive in state.hives.iter() {
            if hive.liveness(now) == Liveness::Gone {
                continue;
            }
            for entry in &hive.beat.catalog {
                let model = models.entry(entry.alias.clone()).or_default();
                model.added_at =
                    Some(model.added_at.map_or(entry.added_at, |at| at.min(entry.added_at)));
                model.hives.push(hive.beat.hive_id.clone());
            }
        }
        for (id, worker) in state.workers.iter().filter(|(_, worker)| counts(worker)) {
            let hive = || state.hives.liveness(&worker.hive_id, now);
            let is_gone = worker.liveness(due, hive) == Liveness::Gone;
            let is_there = !is_gone && matches!(worker.state().name(), "ready" | "loading");
            if is_there && state.answers_to_its_name(worker) {
                models.entry(worker.model.clone()).or_default().workers.push(id.clone());
            }
        }
        models
    }
}

impl State {
    /// A worker that says nothing, or nothing any more, as its hive lists it: after a start of the queen one takes
    /// requests before its own first report, and one that was given up sends none.
    fn as_listed(&self, id: &WorkerId, worker: &Worker, now: Instant) -> Option<WorkerReport> {
        worker.listed.as_ref()?;
        let hive = self.hives.get(&worker.hive_id)?;
        let liveness = hive.liveness(now);
        let before = worker.said.as_ref().map(|said| &said.beat);
        let model = before.map_or_else(
            || ModelInUse {
                name: worker.model.clone(),
                digest: None,
                context_length: 0,
                kind: ModelKind::Generative,
            },
            |before| before.model.clone(),
        );
        let said = WorkerHeartbeat {
            worker_id: id.clone(),
            hive_id: worker.hive_id.clone(),
            address: worker.target.address.url(),
            model,
            device: worker.device,
            state: worker.state(),
            slots: Slots::default(),
            queued: 0,
            kv_cache: KvCacheUse::default(),
            tokens_per_second: 0.0,
            engine_build: String::new(),
            pid: worker.process.as_ref().map_or(0, |process| process.pid),
        };
        (liveness != Liveness::Gone).then(|| WorkerReport {
            said,
            size: worker.size,
            is_listed: true,
            in_flight: worker.in_flight,
            last_seen_ms: millis_since(hive.at, now),
            liveness,
            server: None,
        })
    }
}

fn millis_since(at: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)
}
