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

/// The code of a hive's refusal of a worker for want of memory, where the end of its other workers may help.
pub const NOT_ENOUGH_MEMORY: &str = "not_enough_memory";

/// The same where it would not help: nobody can tell when it is worth trying again.
pub const LARGER_THAN_DEVICE: &str = "larger_than_device";

/// Whether a hive refuses a worker for want of memory, by the code of its refusal.
#[must_use]
pub fn is_want_of_memory(code: &str) -> bool {
    matches!(code, NOT_ENOUGH_MEMORY | LARGER_THAN_DEVICE)
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
    /// Whether it would have no room without other workers either.
    #[serde(default)]
    pub larger_than_device: bool,
}

impl FitReport {
    /// The answer where nobody can tell: the worker itself says whether there is room for it.
    #[must_use]
    pub fn unknown() -> Self {
        Self { needs: None, fits: true, reason: None, hint: None, larger_than_device: false }
    }

    /// The code of the refusal that the worker would get, where it does not fit.
    #[must_use]
    pub fn refusal_code(&self) -> &'static str {
        if self.larger_than_device { LARGER_THAN_DEVICE } else { NOT_ENOUGH_MEMORY }
    }
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
    fn a_report_of_a_hive_that_does_not_tell_larger_than_its_device_is_a_passing_refusal() {
        let json = json!({ "needs": null, "fits": false, "reason": "CPU-0 is full" });
        let report: FitReport = serde_json::from_value(json).unwrap();
        assert_eq!(report.refusal_code(), NOT_ENOUGH_MEMORY);
        let report = FitReport { larger_than_device: true, ..report };
        assert_eq!(report.refusal_code(), LARGER_THAN_DEVICE);
        let codes = [NOT_ENOUGH_MEMORY, LARGER_THAN_DEVICE, "worker_failed"];
        assert_eq!(codes.map(is_want_of_memory), [true, true, false]);
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
