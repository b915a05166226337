//! How the keeper reads the queen's answers: leniently, so that a queen that is a little older or
//! newer can still be shown. What `--json` prints is the answer itself and never passes through here.

use rbee_operations::AttachedServer;
use serde::Deserialize;
use worker_contract::{
    Device, DeviceId, KvCacheUse, ModelEntry, ModelInUse, Slots, SupervisedWorker,
};

/// `GET /v1/build-info`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct BuildInfo {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) features: Vec<String>,
}

impl BuildInfo {
    /// Whether this machine's hive is a part of the queen's process.
    pub(crate) fn has_local_hive(&self) -> bool {
        self.features.iter().any(|feature| feature == "local-hive")
    }
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) features: Vec<String>,
    pub(crate) uptime_s: u64,
    pub(crate) address: String,
    pub(crate) hives: Vec<Hive>,
    pub(crate) workers: Vec<Worker>,
    /// Those without a model, so that no worker tells of them.
    pub(crate) attached_servers: Vec<AttachedServer>,
    pub(crate) jobs_running: u64,
    /// Why the queen records nothing at present.
    pub(crate) records_trouble: Option<String>,
}

/// A hive as the queen knows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the names are those of the API")]
pub(crate) struct Hive {
    pub(crate) hive_id: String,
    /// `None` when the hive is a part of the queen's process.
    pub(crate) address: Option<String>,
    pub(crate) version: String,
    #[serde(alias = "state")]
    pub(crate) liveness: Option<String>,
    /// How long ago it reported; `None` if it never did.
    pub(crate) last_seen_ms: Option<u64>,
    /// Where another hive is that has the same name and is therefore refused.
    pub(crate) rival: Option<String>,
    /// Why it can start no workers, or could not be started.
    pub(crate) trouble: Option<String>,
    /// What SSH told of the machine of a hive that is silent.
    pub(crate) found: Option<Found>,
    pub(crate) devices: Vec<Device>,
    pub(crate) catalog: Vec<ModelEntry>,
    pub(crate) workers: Vec<SupervisedWorker>,
}

impl Hive {
    /// Whether the queen was only told of it.
    pub(crate) fn has_never_reported(&self) -> bool {
        self.is_gone() && self.version.is_empty() && self.catalog.is_empty()
    }

    /// Whether it is not heard.
    pub(crate) fn is_gone(&self) -> bool {
        self.liveness.as_deref() == Some("gone")
    }

    /// Whether it is the one inside the queen, who has tried in vain to start it. What an earlier one said of its
    /// workers before it went is no such trouble.
    pub(crate) fn could_not_be_started(&self) -> bool {
        self.is_gone() && self.address.is_none() && self.trouble.is_some()
    }
}

/// What was found on the machine of a silent hive.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Found {
    pub(crate) summary: String,
    pub(crate) log: Option<String>,
}

/// A worker as the queen knows it: its last heartbeat, and what the queen adds.
#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the API")]
pub(crate) struct Worker {
    pub(crate) worker_id: String,
    pub(crate) hive_id: String,
    pub(crate) model: ModelInUse,
    pub(crate) device: DeviceId,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) slots: Slots,
    #[serde(default)]
    pub(crate) queued: u32,
    #[serde(default)]
    pub(crate) kv_cache: KvCacheUse,
    #[serde(default)]
    pub(crate) tokens_per_second: f32,
    #[serde(default)]
    pub(crate) liveness: Option<String>,
    /// Of a worker that failed.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// The server of somebody else that it is a model of.
    #[serde(default)]
    pub(crate) server: Option<Server>,
}

/// A server of somebody else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Server {
    /// What kind of server it is.
    pub(crate) engine: String,
}

/// One of `GET /v1/decisions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Decision {
    pub(crate) at: String,
    pub(crate) kind: String,
    pub(crate) why: String,
}

/// The answer of `POST /v1/policy/test`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RulesTest {
    pub(crate) models: Vec<RulesReport>,
}

/// What a script says of the places for one model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RulesReport {
    pub(crate) model: String,
    pub(crate) priority: String,
    pub(crate) places: Vec<JudgedPlace>,
    pub(crate) error: Option<String>,
    pub(crate) with_script: String,
    pub(crate) without_script: String,
}

/// What a script says of a place.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JudgedPlace {
    pub(crate) worker_id: Option<String>,
    pub(crate) hive_id: String,
    pub(crate) device: Option<String>,
    pub(crate) expected_ms: u64,
    pub(crate) allowed: bool,
    pub(crate) extra_ms: i64,
}

/// The outcome of a `ModelVerify` job.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Verification {
    pub(crate) alias: String,
    pub(crate) pinned: String,
    pub(crate) actual: String,
    /// Of a model that sees images.
    #[serde(default)]
    pub(crate) projector: Option<ComparedDigests>,
    pub(crate) matches: bool,
}

/// The digest that a file should have, and that which it has.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ComparedDigests {
    pub(crate) pinned: String,
    pub(crate) actual: String,
}

/// A hive that is missing in a list of what all have.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Unheard {
    pub(crate) hive_id: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// A download that runs.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RunningDownload {
    #[serde(default)]
    pub(crate) hive_id: String,
    pub(crate) reference: String,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) total: Option<u64>,
}

/// What an unfinished download has left, or a file that no name stands for.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Garbage {
    #[serde(default)]
    pub(crate) hive_id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) what: Option<String>,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) total: Option<u64>,
    #[serde(default)]
    pub(crate) changed_at: Option<u64>,
}

/// How many workers a model has, where, and for how long.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Policy {
    pub(crate) model: String,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) pin: bool,
    #[serde(default)]
    pub(crate) idle_ttl_s: Option<u64>,
    #[serde(default)]
    pub(crate) hive: Option<String>,
    #[serde(default)]
    pub(crate) device: Option<String>,
    #[serde(default)]
    pub(crate) ctx_size: Option<u32>,
    #[serde(default)]
    pub(crate) slots: Option<u32>,
}

/// What a model's source has, beside what the model is pinned to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Update {
    pub(crate) alias: String,
    pub(crate) source: String,
    pub(crate) pinned: String,
    pub(crate) offered: Option<String>,
    /// Of a model that sees images with a file of a server.
    #[serde(default)]
    pub(crate) projector: Option<OfferedProjector>,
    pub(crate) changed: bool,
}

impl Update {
    /// The digest of the projector that the source has, where it is another one.
    pub(crate) fn other_projector(&self) -> Option<&str> {
        let projector = self.projector.as_ref()?;
        projector.offered.as_deref().filter(|offered| *offered != projector.pinned)
    }
}

/// What a model is pinned to see with, and what its source has.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OfferedProjector {
    pub(crate) pinned: String,
    pub(crate) offered: Option<String>,
}

/// The outcome of an `Infer` job, as far as people want to read it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub(crate) finish_reason: String,
    pub(crate) usage: worker_contract::Usage,
    pub(crate) timings: worker_contract::Timings,
    /// From the request to the first token, all that it waited for included.
    pub(crate) ttft_ms: Option<f64>,
    /// How often another worker took over: the timings are of the last one.
    pub(crate) failovers: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_missing_and_unknown_fields_is_still_read() {
        let status: Status = serde_json::from_str(
            r#"{"version":"9.0.0","moon_phase":"full","hives":[{"hive_id":"localhost","weight":3}]}"#,
        )
        .unwrap();
        assert_eq!(status.hives[0].hive_id, "localhost");
        assert!(status.workers.is_empty());
    }
}
