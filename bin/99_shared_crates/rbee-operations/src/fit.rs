//! Whether a worker could be started: what a queen asks before she ends others for it.

use serde::{Deserialize, Serialize};
use worker_contract::{DeviceId, HiveAlias, MemoryNeed, ModelAlias, WorkerId};

/// Asks a hive whether a worker would fit that was started like that; nothing is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFit {
    /// On which hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Which model of that hive's catalog.
    pub model: ModelAlias,
    /// On which device; by default the one that a worker would be started on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// How many requests run at once; the hive's setting if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// KV cache size in tokens, for all slots together; the hive's setting if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx_size: Option<u32>,
    /// Workers that would be ended first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<WorkerId>,
}

/// What a hive answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitReport {
    /// What the worker would take of each device; `None` where the hive cannot tell.
    pub needs: Option<Vec<MemoryNeed>>,
    /// Whether it would be started, as far as memory is concerned.
    pub fits: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
