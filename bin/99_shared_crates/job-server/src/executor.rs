//! Who carries operations out, and how that ends.

use std::fmt;

use futures::future::BoxFuture;
use rbee_operations::Operation;
use serde_json::Value;

use crate::JobContext;

/// Carries operations out.
///
/// The returned future is the job: when [`JobContext::cancelled`] fires it has ten seconds to clean up
/// and end, then it is dropped. What it started must therefore end when it is dropped. What it returns
/// after that is not shown if somebody cancelled the job; if the daemon is stopping, an [`Outcome`]
/// that came in time counts. A panic fails the job and nothing else.
pub trait Executor: Send + Sync + 'static {
    /// Begins to carry out `operation`, telling of it through `job`.
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>>;

    /// Whether a daemon that stops waits for the job, as it does for answers over HTTP: what it has done so far would
    /// be lost, and it is about to end by itself. See [`JobRegistry::drain`](crate::JobRegistry::drain).
    fn drains(&self, _operation: &Operation) -> bool {
        false
    }

    /// Whether the job changes nothing, so that it is worth nothing once its result has been read: it is never on disk,
    /// forgotten soon, pushes no other job out, and is listed only for who asks for it.
    fn only_looks(&self, _operation: &Operation) -> bool {
        false
    }

    /// What is to be done about the job when its daemon has stopped in the middle of it; `None` where it is to be started
    /// again.
    fn after_interruption(&self, _operation: &Operation) -> Option<String> {
        None
    }
}

/// How a job ended well. It becomes the job's last event.
///
/// It is stored on disk: an answer's text belongs into `token` events, which are not.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// For a person.
    pub message: String,
    /// The typed result; `Null` for none.
    pub data: Value,
}

impl Outcome {
    /// An outcome with a typed result.
    pub fn new(message: impl Into<String>, data: Value) -> Self {
        Self { message: message.into(), data }
    }

    /// An outcome without a result.
    pub fn said(message: impl Into<String>) -> Self {
        Self::new(message, Value::Null)
    }
}

/// Why a job failed. It becomes the job's last event, with the name `error`.
///
/// It is stored on disk: where a prompt may be quoted in it, it has another form for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// A stable machine name, such as `model_not_found`.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What is stored on disk in its place. Who follows the job is told the error itself.
    pub stored: Option<Box<JobError>>,
}

impl JobError {
    /// An error without a hint.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, stored: None }
    }

    /// The same error with advice on what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, of which nothing but the other one is stored on disk.
    #[must_use]
    pub fn stored_as(mut self, stored: Self) -> Self {
        self.stored = Some(Box::new(stored));
        self
    }

    /// What an executor answers that ended because it was asked to.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new("cancelled", "cancelled")
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for JobError {}
