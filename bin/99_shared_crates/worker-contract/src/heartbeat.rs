//! What workers and hives tell the queen, unasked, every few seconds and at each change.

mod wire;

use serde::{Deserialize, Serialize};

use crate::{
    Device, DeviceId, HiveAlias, ModelAlias, ModelEntry, ModelKind, Sha256Digest, WorkerId,
};

/// The state of a worker, as it says itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkerState {
    /// The model is being read.
    Loading {
        /// The part that is done, 0 to 1.
        progress: f32,
    },
    /// Requests are welcome.
    Ready,
    /// No new requests; those that run are being finished.
    Draining,
    /// The model could not be loaded; the process ends.
    Failed {
        /// Why, for a person.
        reason: String,
    },
}

impl WorkerState {
    /// The state's name as it is in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading { .. } => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed { .. } => "failed",
        }
    }
}

/// How many sequences a worker can run at once, and runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// All slots.
    pub total: u32,
    /// Those with a running request.
    pub busy: u32,
}

/// How full the KV cache is, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvCacheUse {
    /// Tokens that are held for running requests.
    pub used_tokens: u32,
    /// Tokens that fit, over all slots.
    pub capacity_tokens: u32,
}

/// The model that a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInUse {
    /// Its name in requests.
    pub name: ModelAlias,
    /// The digest of its file, where the hive gave one.
    #[serde(default)]
    pub digest: Option<Sha256Digest>,
    /// The longest prompt and answer together that one request can have, in tokens; of an embedding
    /// or reranking model the longest text.
    pub context_length: u32,
    /// What it can do.
    #[serde(default)]
    pub kind: ModelKind,
}

/// A worker's report to the queen: `POST /v1/worker-heartbeat`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "wire::WorkerHeartbeat")]
pub struct WorkerHeartbeat {
    /// The worker.
    pub worker_id: WorkerId,
    /// The hive that started it.
    pub hive_id: HiveAlias,
    /// Its base URL as the queen can reach it: `http://127.0.0.1:9300`.
    pub address: String,
    /// What it runs.
    pub model: ModelInUse,
    /// What it runs on.
    pub device: DeviceId,
    /// Its state.
    #[serde(flatten)]
    pub state: WorkerState,
    /// Its slots.
    pub slots: Slots,
    /// Requests that wait for a slot.
    pub queued: u32,
    /// Its KV cache.
    pub kv_cache: KvCacheUse,
    /// Tokens decoded in the last second, over all slots.
    pub tokens_per_second: f32,
    /// The engine and its version.
    pub engine_build: String,
    /// Its process id on its machine.
    pub pid: u32,
}

/// The state of a worker process, as the hive that watches it sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SupervisedState {
    /// The process is started, the worker is not ready.
    Starting {
        /// The part of the model that is loaded, 0 to 1.
        progress: f32,
    },
    /// The worker said that it is ready.
    Ready,
    /// It was told to stop.
    Stopping,
    /// It ended without being told to, or could not load its model.
    Failed {
        /// Why, for a person: exit status, the worker's own reason, its last log lines.
        reason: String,
    },
}

/// How a hive has kept a worker running whose processes ended.
///
/// Beside a failed state it says that the hive has given up: the worker failed too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// How often it was started again since somebody asked for it.
    pub count: u32,
    /// Why its last process ended, for a person.
    pub reason: String,
    /// Whether it is between two processes: the last one has ended or is being ended, the next one is
    /// not started. The state is that of a worker that starts.
    #[serde(default)]
    pub waiting: bool,
}

/// A worker in a hive's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "wire::SupervisedWorker")]
pub struct SupervisedWorker {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its hive.
    pub hive_id: HiveAlias,
    /// What it runs.
    pub model: ModelAlias,
    /// What it runs on.
    pub device: DeviceId,
    /// Its base URL as the queen can reach it.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its process id; between two processes that of the last one.
    pub pid: u32,
    /// When its process was started: seconds since the Unix epoch.
    pub started_at: u64,
    /// Its state.
    #[serde(flatten)]
    pub state: SupervisedState,
    /// How it was kept running; `None` while its first process does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Restarts>,
    /// What of its device's memory it was promised, in bytes; `None` where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl SupervisedWorker {
    /// Whether it is between two processes.
    #[must_use]
    pub fn is_between_processes(&self) -> bool {
        self.restarts.as_ref().is_some_and(|restarts| restarts.waiting)
    }

    /// Whether its hive has given up, because it failed too often.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        matches!(self.state, SupervisedState::Failed { .. }) && self.restarts.is_some()
    }
}

/// A hive's report to the queen: `POST /v1/hive-heartbeat`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HiveHeartbeat {
    /// The hive.
    pub hive_id: HiveAlias,
    /// Its base URL as the queen can reach it; `None` when it is part of the queen's process.
    #[serde(default)]
    pub address: Option<String>,
    /// Its version.
    pub version: String,
    /// The devices of its machine.
    pub devices: Vec<Device>,
    /// The models on its disk.
    pub catalog: Vec<ModelEntry>,
    /// Its workers, those that failed included.
    pub workers: Vec<SupervisedWorker>,
    /// Why it can start none, for a person; without anything of its machine but names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The answer to `GET /health` of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The worker.
    pub worker_id: WorkerId,
    /// The model's name in requests.
    pub model: ModelAlias,
    /// Its state.
    #[serde(flatten)]
    pub state: WorkerState,
    /// Its slots.
    pub slots: Slots,
    /// Requests that wait for a slot.
    pub queued: u32,
    /// The longest prompt and answer together that one request can have, in tokens, of an embedding
    /// or reranking model the longest text; 0 while loading.
    pub context_length: u32,
    /// What the model can do; known when it is loaded.
    #[serde(default)]
    pub kind: ModelKind,
}
