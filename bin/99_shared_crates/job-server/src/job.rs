//! One job over its life.
//!
//! ```text
//! queued ──begin──▶ running ──close──▶ running, its end known ──show──▶ succeeded | failed | cancelled
//!    └──────────────close────────────▶
//! ```
//! A closed job changes no more: events and ends that come late are ignored, so that the final event
//! is the last one for every reader. Readers see the end when it is written, or the disk takes too long for
//! that: what they were told is not taken back by the end of the process.

use bytes::Bytes;
use rbee_operations::{EventLevel, JobEvent, JobState, JobSummary};
use serde_json::Value;
use worker_contract::JobId;

use crate::event_log::{Event, EventLog};
use crate::{JobError, Outcome, kept};

/// What is known of a job from its first moment on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobFacts {
    pub(crate) id: JobId,
    /// The operation's name.
    pub(crate) operation: String,
    /// The operation without what is private, and of bounded size.
    pub(crate) detail: Value,
    pub(crate) caller: String,
    /// In RFC 3339.
    pub(crate) created_at: String,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Succeeded(Outcome),
    Failed(JobError),
    Cancelled,
}

/// An end that is settled.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) state: JobState,
    pub(crate) at: String,
    shown: Final,
    /// What is on disk of it, where that is something else.
    stored: Option<Final>,
}

/// What an end says.
#[derive(Debug, Clone)]
pub(crate) struct Final {
    pub(crate) error: Option<String>,
    pub(crate) event: Event,
}

impl Closed {
    /// What of the end goes to disk.
    pub(crate) fn into_stored(self) -> Final {
        self.stored.unwrap_or(self.shown)
    }
}

/// What changes of a job while it lives.
#[derive(Debug)]
pub(crate) struct Job {
    /// An end that no reader has seen.
    closed: Option<Closed>,
    state: JobState,
    ended_at: Option<String>,
    error: Option<String>,
    cancel_requested: bool,
    log: EventLog,
}

impl Job {
    /// A job that waits to be begun.
    pub(crate) fn queued(log: EventLog) -> Self {
        let (state, cancel_requested) = (JobState::Queued, false);
        Self { closed: None, state, ended_at: None, error: None, cancel_requested, log }
    }

    /// A job that ended before this process began.
    pub(crate) fn ended(
        state: JobState,
        ended_at: String,
        error: Option<String>,
        log: EventLog,
    ) -> Self {
        let (ended_at, cancel_requested) = (Some(ended_at), false);
        Self { closed: None, state, ended_at, error, cancel_requested, log }
    }

    /// The job is being carried out.
    pub(crate) fn begin(&mut self) {
        if self.state == JobState::Queued {
            self.state = JobState::Running;
        }
    }

    /// Keeps an event. False if the job's end is known, and the event came too late.
    pub(crate) fn append(&mut self, event: Event) -> bool {
        let alive = !self.is_closed();
        if alive {
            self.log.append(event);
        }
        alive
    }

    /// When it ended.
    pub(crate) fn ended_at(&self) -> Option<&str> {
        self.ended_at.as_deref()
    }

    /// Notes that somebody asked for the end.
    pub(crate) fn request_cancel(&mut self) {
        self.cancel_requested |= !self.has_ended();
    }

    /// Settles how the job ends, at `at`. Readers see nothing of it. `None` if that was settled before.
    pub(crate) fn close(&mut self, operation: &str, end: End, at: String) -> Option<Closed> {
        if self.is_closed() {
            return None;
        }
        let end = end.bounded();
        let state = end.state();
        let stored = end.stored().map(|end| end.into_final(operation, at.clone()));
        let shown = end.into_final(operation, at.clone());
        let closed = Closed { state, at, shown, stored };
        self.closed = Some(closed.clone());
        Some(closed)
    }

    /// Shows readers the end that was settled, with its final event. False if there is none to show.
    pub(crate) fn show_end(&mut self) -> bool {
        let Some(Closed { state, at, shown, .. }) = self.closed.take() else { return false };
        let Final { error, event } = shown;
        (self.state, self.ended_at, self.error) = (state, Some(at), error);
        self.log.append(event);
        true
    }

    /// Both at once.
    #[cfg(test)]
    pub(crate) fn end(&mut self, operation: &str, end: End, at: String) -> bool {
        self.close(operation, end, at).is_some() && self.show_end()
    }

    fn is_closed(&self) -> bool {
        self.closed.is_some() || self.has_ended()
    }

    /// Drops all events but the final one, and of that a large result.
    pub(crate) fn forget_events(&mut self) {
        self.log.keep_only_the_latest();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state.is_final()
    }

    pub(crate) fn cancel_requested(&self) -> bool {
        self.cancel_requested
    }

    pub(crate) fn state(&self) -> JobState {
        self.state
    }

    pub(crate) fn log(&self) -> &EventLog {
        &self.log
    }

    /// The job as it is shown.
    pub(crate) fn summary(&self, facts: &JobFacts) -> JobSummary {
        JobSummary {
            job_id: facts.id.clone(),
            operation: facts.operation.clone(),
            detail: facts.detail.clone(),
            caller: facts.caller.clone(),
            state: self.state,
            created_at: facts.created_at.clone(),
            ended_at: self.ended_at.clone(),
            error: self.error.clone(),
        }
    }
}

impl End {
    /// What a job that a restart or a shutdown of its daemon ended says. `hint` is what to do about it, where that is
    /// something else than to start it again.
    pub(crate) fn interrupted(hint: Option<&str>) -> Self {
        Self::Failed(
            JobError::new("interrupted", "the daemon stopped while the job ran")
                .hint(hint.unwrap_or("start the job again")),
        )
    }

    /// The same end in texts of bounded length. Who follows the job gets a result whole.
    fn bounded(self) -> Self {
        match self {
            Self::Succeeded(Outcome { message, data }) => {
                Self::Succeeded(Outcome { message: kept::text(message), data })
            }
            Self::Failed(error) => Self::Failed(kept::error(error)),
            Self::Cancelled => Self::Cancelled,
        }
    }

    /// The end as it is stored, where that is not as it is shown.
    fn stored(&self) -> Option<Self> {
        match self {
            Self::Failed(error) => Some(Self::Failed(error.stored.as_deref()?.clone())),
            Self::Succeeded(_) | Self::Cancelled => None,
        }
    }

    fn into_final(self, operation: &str, at: String) -> Final {
        let error = match &self {
            Self::Failed(error) => Some(error.message.clone()),
            Self::Succeeded(_) | Self::Cancelled => None,
        };
        let json = to_json(&self.into_event(operation, at));
        Final { error, event: Event { json, private: false } }
    }

    pub(crate) fn state(&self) -> JobState {
        match self {
            Self::Succeeded(_) => JobState::Succeeded,
            Self::Failed(_) => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
        }
    }

    /// The final event of an operation that ended so.
    pub(crate) fn into_event(self, operation: &str, at: String) -> JobEvent {
        let (event, message, level) = match &self {
            Self::Succeeded(outcome) => (operation, outcome.message.clone(), EventLevel::Info),
            Self::Failed(error) => ("error", error.message.clone(), EventLevel::Error),
            Self::Cancelled => ("cancelled", "Cancelled".to_owned(), EventLevel::Warn),
        };
        let event = event.to_owned();
        let mut event = JobEvent { event, message, level, at, data: None, code: None, hint: None };
        match self {
            Self::Succeeded(outcome) => event.data = Some(outcome.data).filter(|d| !d.is_null()),
            Self::Failed(error) => {
                event.code = Some(error.code);
                event.hint = error.hint;
            }
            Self::Cancelled => {}
        }
        event
    }
}

/// The JSON of an event, on one line.
pub(crate) fn to_json(event: &JobEvent) -> Bytes {
    let mut json = Vec::with_capacity(192);
    serde_json::to_writer(&mut json, event)
        .expect("an event has only text keys, and writing to memory does not fail");
    json.into()
}

/// The present time in RFC 3339, in UTC, to the millisecond.
pub(crate) fn now() -> String {
    time_text(jiff::Timestamp::now())
}

/// A time in RFC 3339, in UTC, to the millisecond.
pub(crate) fn time_text(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_a_job_that_has_ended() {
        let mut job = Job::queued(EventLog::new(10, 1000));
        job.begin();
        assert!(job.end("infer", End::Cancelled, at()));
        assert!(!job.append(Event { json: Bytes::from_static(b"{}"), private: false }));
        assert!(!job.end("infer", End::Succeeded(Outcome::said("too late")), at()));
        job.begin();
        job.request_cancel();
        assert_eq!(job.state(), JobState::Cancelled);
        assert!(!job.cancel_requested());
        assert_eq!(job.log().last_id(), 1);
    }

    #[test]
    fn an_end_that_is_settled_takes_no_more_events_and_is_seen_when_it_is_shown() {
        let mut job = Job::queued(EventLog::new(10, 1000));
        job.begin();
        let late = || Event { json: Bytes::from_static(b"{}"), private: false };
        assert!(!job.show_end());
        job.close("infer", End::Cancelled, at()).unwrap();
        assert!(job.close("infer", End::interrupted(None), at()).is_none());
        assert!(!job.append(late()));
        assert_eq!((job.state(), job.log().last_id()), (JobState::Running, 0));
        assert!(job.show_end());
        assert_eq!((job.state(), job.log().last_id()), (JobState::Cancelled, 1));
        assert!(!job.show_end() && !job.append(late()));
    }

    #[test]
    fn a_queued_job_can_end_without_having_run() {
        let mut job = Job::queued(EventLog::new(10, 1000));
        assert!(job.end("infer", End::interrupted(None), at()));
        assert_eq!(job.state(), JobState::Failed);
        assert_eq!(job.error.as_deref(), Some("the daemon stopped while the job ran"));
    }

    #[test]
    fn each_end_has_the_event_that_the_design_names() {
        let check = |end: End, expected: Value| {
            let event = serde_json::to_value(end.into_event("worker_get", at())).unwrap();
            assert_eq!(event, expected);
        };
        check(
            End::Succeeded(Outcome::new("Here it is", serde_json::json!({"port": 9300}))),
            serde_json::json!({"event": "worker_get", "message": "Here it is", "level": "info",
                "at": at(), "data": {"port": 9300}}),
        );
        check(
            End::Failed(JobError::new("no_room", "no room on GPU-0").hint("stop a worker")),
            serde_json::json!({"event": "error", "message": "no room on GPU-0", "level": "error",
                "at": at(), "code": "no_room", "hint": "stop a worker"}),
        );
        check(
            End::Cancelled,
            serde_json::json!({"event": "cancelled", "message": "Cancelled", "level": "warn",
                "at": at()}),
        );
    }

    fn at() -> String {
        "2026-11-23T18:00:00.000Z".to_owned()
    }
}
