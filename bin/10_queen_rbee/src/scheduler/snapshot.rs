//! All that the queen knows at one moment, as far as placing is concerned.

use worker_contract::{Device, HiveAlias, ModelAlias, ModelEntry, WorkerId};

use crate::registry::Liveness;

/// How many requests a worker is given for each of its slots.
const REQUESTS_A_SLOT: u32 = 2;

/// Workers and hives at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot<'a> {
    /// All workers.
    pub workers: Vec<WorkerView<'a>>,
    /// All hives.
    pub hives: Vec<HiveView<'a>>,
    /// The models that a worker is being started for.
    pub spawning: &'a [ModelAlias],
    /// The queen has just begun, and hives that she expects have not reported.
    pub warming_up: bool,
}

/// A worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerView<'a> {
    /// Its id.
    pub id: &'a WorkerId,
    /// What it runs.
    pub model: &'a ModelAlias,
    /// Whether it takes requests.
    pub readiness: Readiness,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// How many requests it runs at once.
    pub slots: u32,
    /// Requests that this queen sent it and that have not ended.
    pub in_flight: u32,
    /// Requests of others at its last heartbeat.
    pub foreign: u32,
}

/// Whether a worker takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: it is loading its model, or has just said that it cannot take more.
    Coming,
    /// Yes.
    Ready,
    /// No longer: it drains, has failed or is being stopped.
    Ending,
}

/// A hive.
#[derive(Debug, Clone, Copy)]
pub struct HiveView<'a> {
    /// Its alias.
    pub id: &'a HiveAlias,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// What it can run models on.
    pub devices: &'a [Device],
    /// The models on its disk.
    pub catalog: &'a [ModelEntry],
}

impl WorkerView<'_> {
    /// All requests that are known to be in it.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.in_flight.saturating_add(self.foreign)
    }

    /// Whether it can be given one more request.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight < self.slots.max(1).saturating_mul(REQUESTS_A_SLOT)
    }
}

impl HiveView<'_> {
    /// The catalog's entry of a model.
    #[must_use]
    pub fn entry(&self, model: &ModelAlias) -> Option<&ModelEntry> {
        self.catalog.iter().find(|entry| entry.alias == *model)
    }
}
