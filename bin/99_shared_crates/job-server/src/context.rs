//! What an executor holds of its job.

use std::fmt;
use std::sync::Arc;

use rbee_operations::{EventLevel, JobEvent, Operation, Pace, Progress};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use worker_contract::JobId;

use crate::event_log::{Event, EventLog};
use crate::job::{Job, JobFacts, now, to_json};

/// The name of the events that carry an answer's text, which is never on disk.
const PRIVATE_EVENT: &str = "token";

/// A running job as its executor sees it: who asked, where to tell of it, and when to stop.
///
/// Telling never waits, neither for a reader nor for the disk. What is told after the job's end is
/// ignored.
#[derive(Clone)]
pub struct JobContext {
    live: Arc<LiveJob>,
}

/// A job that this process knows: what is fixed, what changes, and the means to end it.
pub(crate) struct LiveJob {
    pub(crate) facts: JobFacts,
    pub(crate) job: watch::Sender<Job>,
    pub(crate) cancel: CancellationToken,
    /// Whether it is waited for when the daemon stops.
    pub(crate) drains: bool,
    /// Whether it changes nothing, and is forgotten soon.
    pub(crate) only_looks: bool,
    /// What is to be done where the daemon stops in the middle of it, if not to start it again.
    pub(crate) after_interruption: Option<String>,
}

impl JobContext {
    pub(crate) fn new(live: Arc<LiveJob>) -> Self {
        Self { live }
    }

    /// A context that no registry knows, for an operation that is a step of something else: what it
    /// tells is dropped, and `cancel` ends it.
    #[must_use]
    pub fn silent(operation: &Operation, caller: &str, cancel: CancellationToken) -> Self {
        let facts = JobFacts {
            id: JobId::random(),
            operation: operation.name().to_owned(),
            detail: Value::Null,
            caller: caller.to_owned(),
            created_at: now(),
        };
        let (job, _) = watch::channel(Job::queued(EventLog::new(1, 0)));
        Self::new(Arc::new(LiveJob {
            facts,
            job,
            cancel,
            drains: false,
            only_looks: false,
            after_interruption: None,
        }))
    }

    /// The job's id.
    #[must_use]
    pub fn job_id(&self) -> &JobId {
        &self.live.facts.id
    }

    /// Who asked: a token's fingerprint, or `local`.
    #[must_use]
    pub fn caller(&self) -> &str {
        &self.live.facts.caller
    }

    /// Fires when the job is to end early. Its executor then has ten seconds before it is dropped.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.live.cancel
    }

    /// Tells of a step, under the operation's name.
    pub fn say(&self, message: impl Into<String>) {
        self.tell(EventLevel::Info, message.into(), None);
    }

    /// Tells of a step that has a typed result, under the operation's name.
    pub fn say_with(&self, message: impl Into<String>, data: Value) {
        self.tell(EventLevel::Info, message.into(), Some(data));
    }

    /// Tells of something that is worth a look, under the operation's name.
    pub fn warn(&self, message: impl Into<String>) {
        self.tell(EventLevel::Warn, message.into(), None);
    }

    /// Tells how far a long step is, under the operation's name.
    pub fn progress(&self, message: impl Into<String>, progress: Progress) {
        let Progress { done, total, unit } = progress;
        let data = json!({"progress": {"done": done, "total": total, "unit": unit}});
        self.tell(EventLevel::Info, message.into(), Some(data));
    }

    /// The same, with how fast it goes.
    pub fn progress_at(&self, message: impl Into<String>, progress: Progress, pace: Pace) {
        let Progress { done, total, unit } = progress;
        let Pace { per_second, eta_s } = pace;
        let progress = json!({
            "done": done, "total": total, "unit": unit, "per_second": per_second, "eta_s": eta_s,
        });
        self.tell(EventLevel::Info, message.into(), Some(json!({ "progress": progress })));
    }

    /// Tells of something under a name of its own, with data or `None`. Events named `token` are
    /// never stored on disk.
    pub fn event(
        &self,
        name: impl Into<String>,
        message: impl Into<String>,
        data: impl Into<Option<Value>>,
    ) {
        let (event, message, data) = (name.into(), message.into(), data.into());
        let level = EventLevel::Info;
        self.forward(JobEvent { event, message, level, at: now(), data, code: None, hint: None });
    }

    /// Passes on an event of another job, as it is.
    ///
    /// A final event of that job (`error`, `cancelled`, its result) is not for passing on: it becomes
    /// what the executor returns.
    #[expect(clippy::needless_pass_by_value, reason = "who passes an event on has no use for it")]
    pub fn forward(&self, event: JobEvent) {
        let event = Event { json: to_json(&event), private: event.event == PRIVATE_EVENT };
        self.live.job.send_if_modified(|job| job.append(event));
    }

    fn tell(&self, level: EventLevel, message: String, data: Option<Value>) {
        let event = self.live.facts.operation.clone();
        self.forward(JobEvent { event, message, level, at: now(), data, code: None, hint: None });
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.live.facts;
        f.debug_struct("JobContext")
            .field("job_id", &facts.id)
            .field("operation", &facts.operation)
            .finish_non_exhaustive()
    }
}
