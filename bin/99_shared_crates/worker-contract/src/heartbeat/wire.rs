//! How reports are read: with the fields of their state beside the others, as they stand. The derived way
//! makes a tree of all values first, and a queen may hear a thousand reports a second.

use serde::de::Unexpected;
use serde::{Deserialize, Deserializer};

use super::{KvCacheUse, ModelInUse, Restarts, Slots, SupervisedState, WorkerState};
use crate::{DeviceId, HiveAlias, ModelAlias, WorkerId, cut};

/// The longest text that says why something failed, in bytes: an error and some lines of a log.
const MAX_REASON: usize = 8 * 1024;
/// The longest name of an engine and its version, in bytes.
const MAX_BUILD: usize = 256;

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
    #[serde(default, deserialize_with = "finite_if_any")]
    progress: Option<f32>,
    reason: Option<String>,
    slots: Slots,
    queued: u32,
    kv_cache: KvCacheUse,
    #[serde(deserialize_with = "finite")]
    tokens_per_second: f32,
    engine_build: String,
    pid: u32,
}

impl TryFrom<WorkerHeartbeat> for super::WorkerHeartbeat {
    type Error = Missing;

    fn try_from(read: WorkerHeartbeat) -> Result<Self, Missing> {
        let state = match read.state {
            WorkerStateName::Loading => WorkerState::Loading { progress: part(read.progress)? },
            WorkerStateName::Ready => WorkerState::Ready,
            WorkerStateName::Draining => WorkerState::Draining,
            WorkerStateName::Failed => WorkerState::Failed { reason: reason(read.reason)? },
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
            tokens_per_second: read.tokens_per_second.max(0.0),
            engine_build: cut(read.engine_build, MAX_BUILD),
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
    #[serde(default, deserialize_with = "finite_if_any")]
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
                SupervisedState::Starting { progress: part(read.progress)? }
            }
            SupervisedStateName::Ready => SupervisedState::Ready,
            SupervisedStateName::Stopping => SupervisedState::Stopping,
            SupervisedStateName::Failed => SupervisedState::Failed { reason: reason(read.reason)? },
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
            restarts: read
                .restarts
                .map(|restarts| Restarts { reason: cut(restarts.reason, MAX_REASON), ..restarts }),
            memory_bytes: read.memory_bytes,
        })
    }
}

/// A part of a whole. It is only shown: one that is a bit beyond the whole is no reason to hear nothing.
fn part(read: Option<f32>) -> Result<f32, Missing> {
    read.map(|part| part.clamp(0.0, 1.0)).ok_or(Missing("progress"))
}

fn reason(read: Option<String>) -> Result<String, Missing> {
    read.map(|reason| cut(reason, MAX_REASON)).ok_or(Missing("reason"))
}

/// A number that can be told again: JSON has no word for one beyond all others.
fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    f32::deserialize(deserializer).and_then(ensure_finite)
}

fn finite_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
    Option::<f32>::deserialize(deserializer)?.map(ensure_finite).transpose()
}

fn ensure_finite<E: serde::de::Error>(number: f32) -> Result<f32, E> {
    if number.is_finite() {
        return Ok(number);
    }
    Err(E::invalid_value(Unexpected::Float(number.into()), &"a number of at most 3.4e38"))
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

    #[test]
    fn a_number_beyond_all_others_is_refused_and_one_out_of_range_is_the_nearest() {
        let with = |mut report: Value, state: &str, field: &str, number: &str| {
            report["state"] = json!(state);
            report["progress"] = json!(0.5);
            report[field] = json!(0.125);
            report.to_string().replace("0.125", number)
        };
        let read = |field, number| {
            serde_json::from_str::<WorkerHeartbeat>(&with(beat(), "loading", field, number))
        };
        let listed = |number| {
            let text = with(listed(), "starting", "progress", number);
            serde_json::from_str::<SupervisedWorker>(&text)
        };
        for number in ["1e300", "-1e300", "1e39", "null"] {
            for field in ["tokens_per_second", "progress"] {
                assert!(read(field, number).is_err(), "{field} {number}");
            }
            assert!(listed(number).is_err(), "{number}");
        }
        for (number, rate, progress) in
            [("-7", 0.0, 0.0), ("0.25", 0.25, 0.25), ("3e38", 3e38, 1.0), ("1", 1.0, 1.0)]
        {
            let said = read("tokens_per_second", number).unwrap();
            assert!((said.tokens_per_second - rate).abs() <= f32::EPSILON, "{said:?}");
            assert_eq!(read("progress", number).unwrap().state, WorkerState::Loading { progress });
            assert_eq!(listed(number).unwrap().state, SupervisedState::Starting { progress });
        }
    }

    #[test]
    fn of_a_long_text_the_beginning_is_kept() {
        let long = "ä".repeat(100_000);
        let failed = |mut report: Value| {
            report["state"] = json!("failed");
            report["reason"] = json!(long);
            report
        };
        let mut report = failed(beat());
        report["engine_build"] = json!(format!("x{long}"));
        let said: WorkerHeartbeat = serde_json::from_value(report).unwrap();
        assert_eq!(said.engine_build.len(), 255, "no half character");
        let WorkerState::Failed { reason } = said.state else { panic!("{:?}", said.state) };
        assert_eq!((reason.len(), reason.capacity()), (8192, 8192), "nor memory for the rest");

        let mut report = failed(listed());
        report["restarts"]["reason"] = json!(long);
        let listed: SupervisedWorker = serde_json::from_value(report).unwrap();
        let SupervisedState::Failed { reason } = listed.state else { panic!("{:?}", listed.state) };
        assert_eq!((reason.len(), listed.restarts.unwrap().reason.len()), (8192, 8192));
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
