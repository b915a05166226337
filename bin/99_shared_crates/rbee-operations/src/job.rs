//! Jobs on the wire: `POST /v1/jobs`, `GET /v1/jobs[/{id}[/stream]]`, `DELETE /v1/jobs/{id}`.

use serde::{Deserialize, Serialize};
use worker_contract::JobId;

use crate::Operation;

/// The `data:` line that ends each job's stream.
pub const DONE_MARKER: &str = "[DONE]";

/// The name of the event that ends a stream though its job goes on: who reads it may not any more.
pub const REVOKED: &str = "revoked";

/// The body of `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    /// What to do.
    pub operation: Operation,
}

/// The answer to `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCreated {
    /// The job's id.
    pub job_id: JobId,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted, not begun.
    Queued,
    /// Being carried out.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The state's name as it is in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many ended jobs are listed where nobody says it.
pub const LISTED_JOBS: usize = 1000;

/// The most that can be asked for.
pub const MAX_LISTED_JOBS: usize = 10_000;

/// The answer to `GET /v1/jobs`, the latest job first: all that have not ended, and of the others the latest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobSummary>,
    /// How many more have ended, earlier than these; `?limit=` asks for more.
    #[serde(default, skip_serializing_if = "is_none_left_out")]
    pub left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_none_left_out(left_out: &usize) -> bool {
    *left_out == 0
}

/// A job in a list, or by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// The job's id.
    pub job_id: JobId,
    /// The operation's name: `worker_spawn`, …
    pub operation: String,
    /// The operation without what is private.
    pub detail: serde_json::Value,
    /// Who asked: a token's fingerprint, or `local`.
    pub caller: String,
    /// Where it stands.
    pub state: JobState,
    /// When it was accepted, in RFC 3339.
    pub created_at: String,
    /// When it ended, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How grave an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLevel {
    /// As expected.
    #[default]
    Info,
    /// Worth a look.
    Warn,
    /// The job failed.
    Error,
}

/// How far a long step is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in `unit`.
    pub done: u64,
    /// What there is to do, in `unit`; `None` while it is not known.
    pub total: Option<u64>,
    /// `bytes`, `percent`, `tokens`, …
    pub unit: String,
}

/// How fast a long step goes; beside its [`Progress`] in the same object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// How much of the progress's unit is done in a second.
    #[serde(default)]
    pub per_second: Option<u64>,
    /// How many seconds the rest takes at this pace.
    #[serde(default)]
    pub eta_s: Option<u64>,
}

/// One event of a job's stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// A stable machine name: the operation's name, `token` for text of an answer, `error`, `cancelled`;
    /// of a stream and not of its job, `gap` and [`REVOKED`].
    pub event: String,
    /// For a person.
    pub message: String,
    /// How grave it is.
    #[serde(default)]
    pub level: EventLevel,
    /// When, in RFC 3339.
    pub at: String,
    /// The typed result, or `{"progress": {…}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// Of an error: a stable machine name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of an error: what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl JobEvent {
    /// The pace that this event carries beside its progress; empty if it carries none.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let progress = self.data.as_ref().and_then(|data| data.get("progress"));
        progress.and_then(|progress| Pace::deserialize(progress).ok()).unwrap_or_default()
    }

    /// The progress that this event carries, if it is a progress event.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        let progress = self.data.as_ref()?.get("progress")?;
        Progress::deserialize(progress).ok()
    }
}
