//! What a dashboard is shown of hives and workers, borrowed from the registry while nothing changes.
//!
//! Each view has two parts: what it **is**, which is told whenever it changes, and its **load**, which
//! changes all the time and is told now and then.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use serde::Serialize;
use worker_contract::{Device, DeviceId, HiveAlias, ModelAlias, WorkerId, WorkerState};

use super::hives::Hive;
use super::worker::{Times, Worker};
use super::{Due, Liveness, Registry};
use crate::scheduler::Circuit;

/// Free memory is told in steps of so many bytes: it is never the same twice.
const MEMORY_STEP: u64 = 64 << 20;

/// A worker.
#[derive(Debug, Serialize)]
pub struct WorkerGlance<'a> {
    /// What it is.
    #[serde(flatten)]
    pub is: WorkerIs<'a>,
    /// What it does.
    #[serde(flatten)]
    pub load: WorkerLoad,
    /// What its answers took in all.
    #[serde(skip)]
    pub times: Times,
}

/// What a worker is.
#[derive(Debug, Hash, Serialize)]
pub struct WorkerIs<'a> {
    worker_id: &'a WorkerId,
    hive_id: &'a HiveAlias,
    /// What it runs.
    pub model: &'a ModelAlias,
    /// `None` where nobody knows: what somebody else's server has.
    device: Option<DeviceId>,
    /// What it is, where it is a server of somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'static str>,
    address: &'a str,
    /// The name of its state.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    liveness: Liveness,
    circuit: &'static str,
    slots: u32,
    kv_capacity_tokens: u32,
}

/// What a worker does.
#[derive(Debug, Hash, Serialize)]
pub struct WorkerLoad {
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_percent: Option<u8>,
    /// Requests that this queen sent it and that have not ended.
    pub in_flight: u32,
    /// Requests that it has answered.
    pub answered: u64,
    /// Requests that it has failed.
    pub failures: u64,
    busy: u32,
    queued: u32,
    kv_used_tokens: u32,
    tokens_per_second: u32,
}

/// A hive.
#[derive(Debug, Serialize)]
pub struct HiveGlance<'a> {
    /// Its alias.
    pub hive_id: &'a HiveAlias,
    address: Option<&'a str>,
    version: &'a str,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// Whether it ever has, to this queen.
    has_reported: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rival: Option<String>,
    /// Why it can start no worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    devices: &'a [Device],
    models: Vec<&'a ModelAlias>,
}

impl Registry {
    /// Shows all hives and workers.
    pub fn look(
        &self,
        now: Instant,
        mut hive: impl FnMut(&HiveGlance<'_>),
        mut worker: impl FnMut(&WorkerId, &WorkerGlance<'_>),
    ) {
        let (state, due) = (self.state(), Due::at(now, self.shared.interval));
        state.hives.iter().for_each(|known| hive(&HiveGlance::of(known, now)));
        for (id, known) in state.workers.iter() {
            let by_hive = || state.hives.liveness(&known.hive_id, now);
            let liveness = known.liveness(due, by_hive);
            worker(id, &WorkerGlance::of(id, known, liveness, now));
        }
    }
}

impl<'a> WorkerGlance<'a> {
    fn of(id: &'a WorkerId, worker: &'a Worker, liveness: Liveness, now: Instant) -> Self {
        let state = worker.state();
        let name = state.name();
        let said = worker.said.as_ref().map(|said| &said.beat);
        let (reason, progress) = match state {
            WorkerState::Failed { reason } => (Some(reason), None),
            WorkerState::Loading { progress } => (None, Some(percent(progress))),
            WorkerState::Ready | WorkerState::Draining => (None, None),
        };
        let server = worker.target.server.as_ref().map(|server| server.engine.as_str());
        let is = WorkerIs {
            worker_id: id,
            hive_id: &worker.hive_id,
            model: &worker.model,
            device: server.is_none().then_some(worker.device),
            server,
            address: &worker.target.address.authority,
            state: name,
            reason,
            liveness,
            circuit: match worker.breaker.circuit(now) {
                Circuit::Closed => "closed",
                Circuit::HalfOpen => "half_open",
                Circuit::Open => "open",
            },
            slots: said.map_or(0, |beat| beat.slots.total),
            kv_capacity_tokens: said.map_or(0, |beat| beat.kv_cache.capacity_tokens),
        };
        let load = WorkerLoad {
            progress_percent: progress,
            in_flight: worker.in_flight,
            answered: worker.answered,
            failures: worker.failures,
            busy: said.map_or(0, |beat| beat.slots.busy),
            queued: said.map_or(0, |beat| beat.queued),
            kv_used_tokens: said.map_or(0, |beat| beat.kv_cache.used_tokens),
            tokens_per_second: said.map_or(0, |beat| whole(beat.tokens_per_second)),
        };
        Self { is, load, times: worker.times }
    }
}

impl<'a> HiveGlance<'a> {
    fn of(hive: &'a Hive, now: Instant) -> Self {
        let beat = &hive.beat;
        Self {
            hive_id: &beat.hive_id,
            address: beat.address.as_deref(),
            version: &beat.version,
            liveness: hive.liveness(now),
            has_reported: true,
            rival: hive.rival(),
            trouble: beat.trouble.as_deref(),
            devices: &beat.devices,
            models: beat.catalog.iter().map(|entry| &entry.alias).collect(),
        }
    }

    /// A hive that the queen was told of and that has not reported.
    pub(crate) fn silent(hive_id: &'a HiveAlias, address: Option<&'a str>) -> Self {
        Self {
            hive_id,
            // An address that is not known is not that of the queen's own process.
            address: Some(address.unwrap_or_default()),
            version: "",
            liveness: Liveness::Gone,
            has_reported: false,
            rival: None,
            trouble: None,
            devices: &[],
            models: Vec::new(),
        }
    }

    /// Feeds what it is to a hasher.
    pub fn hash_is(&self, hasher: &mut impl Hasher) {
        (self.hive_id, self.address, self.version, self.liveness).hash(hasher);
        (self.has_reported, &self.rival, self.trouble).hash(hasher);
        for device in self.devices {
            (device.id, &device.backend, &device.name, device.memory_total_bytes, device.is_gone)
                .hash(hasher);
        }
        self.models.hash(hasher);
    }

    /// Feeds its load to a hasher.
    pub fn hash_load(&self, hasher: &mut impl Hasher) {
        for device in self.devices {
            let load = &device.load;
            let memory = device.memory_free_bytes / MEMORY_STEP;
            (memory, load.busy_percent, load.temperature_c, load.power_w).hash(hasher);
        }
    }
}

fn percent(part: f32) -> u8 {
    u8::try_from(whole(part.clamp(0.0, 1.0) * 100.0)).unwrap_or(100)
}

/// The number without its fraction; 0 for what is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what a worker says is shown, and a number that is absurd is shown as the nearest one"
)]
fn whole(number: f32) -> u32 {
    number.round() as u32
}
