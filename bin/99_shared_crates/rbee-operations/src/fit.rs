//! Whether a worker could be started: what a queen asks before she ends others for it.

use serde::{Deserialize, Serialize};
use worker_contract::{MemoryNeed, WorkerId};

use crate::WorkerSpawn;

/// Asks a hive whether a worker would fit that was started like that; nothing is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFit {
    /// What it would be started with; its fields stand beside the others.
    #[serde(flatten)]
    pub start: WorkerSpawn,
    /// Workers that would be ended first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<WorkerId>,
}

/// How a hive ends its refusal of a worker for want of memory where the end of its other workers would not help. The
/// queen knows by these words that nobody can tell when it is worth trying again.
pub const NOT_EVEN_ALONE: &str = "it would have no room there without other workers either";

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Operation;

    #[test]
    fn what_a_worker_would_be_started_with_stands_beside_the_workers_that_would_go() {
        let read = |json: Value| serde_json::from_value::<Operation>(json);
        let whole = json!({ "WorkerFit": {
            "hive_id": "gpu-1", "model": "m", "device": "GPU-0", "slots": 2, "ctx_size": 512,
            "without": ["w-1", "w-2"],
        }});
        let least = json!({ "WorkerFit": { "hive_id": "localhost", "model": "m" } });
        for written in [whole, least] {
            let read = read(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), written);
        }
        let short = read(json!({ "WorkerFit": { "model": "m" } })).unwrap();
        assert_eq!(short.hive_id().map(worker_contract::HiveAlias::is_localhost), Some(true));
    }

    #[test]
    fn a_field_that_is_none_names_itself_and_one_that_is_wrong_says_so() {
        let refused =
            |json: Value| serde_json::from_value::<WorkerFit>(json).unwrap_err().to_string();
        for (json, told) in [
            (json!({ "model": "m", "devcie": "GPU-0" }), "devcie"),
            (json!({ "model": "m", "device": "X" }), "CPU-0"),
            (json!({ "model": "m", "slots": -1 }), "-1"),
            (json!({ "without": [] }), "model"),
        ] {
            let error = refused(json);
            assert!(error.contains(told), "{told} is not in {error}");
        }
    }
}
