//! How reports are read: with the fields of their state beside the others, as they stand. The derived way
//! makes a tree of all values first, and a queen may hear a thousand reports a second.

use serde::Deserialize;

use super::{KvCacheUse, ModelInUse, Restarts, Slots, SupervisedState, WorkerState};
use crate::{DeviceId, HiveAlias, ModelAlias, WorkerId};

/// A state comes without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missing field `{0}` of the state")]
pub(super) struct Missing(&'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WorkerStateName {
    Loading,
    Ready,
    Draining,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SupervisedStateName {
    Starting,
    Ready,
    Stopping,
    Failed,
}

#[derive(Debug, Deserialize)]
pub(super) struct WorkerHeartbeat {
    worker_id: WorkerId,
    hive_id: HiveAlias,
    address: String,
    model: ModelInUse,
    device: DeviceId,
    state: WorkerStateName,
    progress: Option<f32>,
    reason: Option<String>,
    slots: Slots,
    queued: u32,
    kv_cache: KvCacheUse,
    tokens_per_second: f32,
    engine_build: String,
    pid: u32,
}

impl TryFrom<WorkerHeartbeat> for super::WorkerHeartbeat {
    type Error = Missing;

    fn try_from(read: WorkerHeartbeat) -> Result<Self, Missing> {
        let state = match read.state {
            WorkerStateName::Loading => {
                WorkerState::Loading { progress: read.progress.ok_or(Missing("progress"))? }
            }
            WorkerStateName::Ready => WorkerState::Ready,
            WorkerStateName::Draining => WorkerState::Draining,
            WorkerStateName::Failed => {
                WorkerState::Failed { reason: read.reason.ok_or(Missing("reason"))? }
            }
        };
        Ok(Self {
            worker_id: read.worker_id,
            hive_id: read.hive_id,
            address: read.address,
            model: read.model,
            device: read.device,
            state,
            slots: read.slots,
            queued: read.queued,
            kv_cache: read.kv_cache,
            tokens_per_second: read.tokens_per_second,
            engine_build: read.engine_build,
            pid: read.pid,
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct SupervisedWorker {
    worker_id: WorkerId,
    hive_id: HiveAlias,
    model: ModelAlias,
    device: DeviceId,
    address: String,
    port: u16,
    pid: u32,
    started_at: u64,
    state: SupervisedStateName,
    progress: Option<f32>,
    reason: Option<String>,
    restarts: Option<Restarts>,
    memory_bytes: Option<u64>,
}

impl TryFrom<SupervisedWorker> for super::SupervisedWorker {
    type Error = Missing;

    fn try_from(read: SupervisedWorker) -> Result<Self, Missing> {
        let state = match read.state {
            SupervisedStateName::Starting => {
                SupervisedState::Starting { progress: read.progress.ok_or(Missing("progress"))? }
            }
            SupervisedStateName::Ready => SupervisedState::Ready,
            SupervisedStateName::Stopping => SupervisedState::Stopping,
            SupervisedStateName::Failed => {
                SupervisedState::Failed { reason: read.reason.ok_or(Missing("reason"))? }
            }
        };
        Ok(Self {
            worker_id: read.worker_id,
            hive_id: read.hive_id,
            model: read.model,
            device: read.device,
            address: read.address,
            port: read.port,
            pid: read.pid,
            started_at: read.started_at,
            state,
            restarts: read.restarts,
            memory_bytes: read.memory_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::*;

    #[test]
    fn a_report_reads_back_as_it_is_written_in_each_state() {
        let reason = || "no memory".to_owned();
        // Each state and the one after it: who adds one is told to add it here.
        let after = |state: &WorkerState| match state {
            WorkerState::Loading { .. } => Some(WorkerState::Ready),
            WorkerState::Ready => Some(WorkerState::Draining),
            WorkerState::Draining => Some(WorkerState::Failed { reason: reason() }),
            WorkerState::Failed { .. } => None,
        };
        let first = WorkerState::Loading { progress: 0.5 };
        for state in std::iter::successors(Some(first), after) {
            let mut beat: WorkerHeartbeat = serde_json::from_value(beat()).unwrap();
            beat.state = state;
            let written = serde_json::to_string(&beat).unwrap();
            assert_eq!(serde_json::from_str::<WorkerHeartbeat>(&written).unwrap(), beat);
        }
        let after = |state: &SupervisedState| match state {
            SupervisedState::Starting { .. } => Some(SupervisedState::Ready),
            SupervisedState::Ready => Some(SupervisedState::Stopping),
            SupervisedState::Stopping => Some(SupervisedState::Failed { reason: reason() }),
            SupervisedState::Failed { .. } => None,
        };
        let first = SupervisedState::Starting { progress: 0.25 };
        for state in std::iter::successors(Some(first), after) {
            let mut listed: SupervisedWorker = serde_json::from_value(listed()).unwrap();
            listed.state = state;
            let written = serde_json::to_string(&listed).unwrap();
            assert_eq!(serde_json::from_str::<SupervisedWorker>(&written).unwrap(), listed);
        }
    }

    #[test]
    fn a_state_without_what_belongs_to_it_is_refused_by_name() {
        let wrong = |mut report: Value, state: &str| {
            report["state"] = json!(state);
            report
        };
        for (state, said) in [
            ("loading", "missing field `progress`"),
            ("failed", "missing field `reason`"),
            ("asleep", "unknown variant `asleep`"),
        ] {
            let error = serde_json::from_value::<WorkerHeartbeat>(wrong(beat(), state));
            assert!(error.unwrap_err().to_string().contains(said), "{state}");
        }
        for (state, said) in [
            ("starting", "missing field `progress`"),
            ("failed", "missing field `reason`"),
            ("draining", "unknown variant `draining`"),
        ] {
            let error = serde_json::from_value::<SupervisedWorker>(wrong(listed(), state));
            assert!(error.unwrap_err().to_string().contains(said), "{state}");
        }
    }

    fn beat() -> Value {
        json!({
            "worker_id": "w-1",
            "hive_id": "gpu-1",
            "address": "http://10.0.0.2:9300",
            "model": {"name": "m", "context_length": 4096},
            "device": "CPU-0",
            "state": "ready",
            "slots": {"total": 4, "busy": 1},
            "queued": 0,
            "kv_cache": {"used_tokens": 7, "capacity_tokens": 4096},
            "tokens_per_second": 1.5,
            "engine_build": "b1",
            "pid": 7,
            "later": [{}],
        })
    }

    fn listed() -> Value {
        json!({
            "worker_id": "w-1",
            "hive_id": "gpu-1",
            "model": "m",
            "device": "CPU-0",
            "address": "http://10.0.0.2:9300",
            "port": 9300,
            "pid": 7,
            "started_at": 5,
            "state": "ready",
            "restarts": {"count": 1, "reason": "killed"},
            "memory_bytes": 1000,
        })
    }
}
