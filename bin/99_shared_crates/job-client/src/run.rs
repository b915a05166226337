//! An operation from its submission to its job's end.

use std::pin::pin;

use futures::StreamExt as _;
use rbee_operations::{JobEvent, Operation};
use tokio_util::sync::CancellationToken;
use worker_contract::JobId;

use crate::{ClientError, JobClient};

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// Well; the event carries the result.
    Succeeded(JobEvent),
    /// By an error; the event says which.
    Failed(JobEvent),
    /// Because somebody asked for it.
    Cancelled,
}

impl JobEnd {
    /// What a job's last event says.
    fn from_last(event: JobEvent) -> Self {
        match event.event.as_str() {
            "error" => Self::Failed(event),
            "cancelled" => Self::Cancelled,
            _ => Self::Succeeded(event),
        }
    }
}

impl JobClient {
    /// Runs an operation and gives each of its job's events, the last one too, to `on_event`.
    ///
    /// The job goes on when the returned future is dropped.
    ///
    /// # Errors
    /// The daemon refuses, or cannot be reached any more; then the job may still run.
    pub async fn run(
        &self,
        operation: &Operation,
        on_event: impl FnMut(&JobEvent),
    ) -> Result<JobEnd, ClientError> {
        self.run_until(operation, &CancellationToken::new(), on_event).await
    }

    /// Like [`run`](Self::run); when `cancel` fires, the job is cancelled and followed to its end.
    ///
    /// # Errors
    /// Those of `run`, or the job cannot be cancelled.
    pub async fn run_until(
        &self,
        operation: &Operation,
        cancel: &CancellationToken,
        on_event: impl FnMut(&JobEvent),
    ) -> Result<JobEnd, ClientError> {
        let job_id = self.submit(operation).await?;
        self.follow_until(&job_id, cancel, on_event).await
    }

    /// The same of a job that runs already: its events from the first one that is kept.
    ///
    /// # Errors
    /// There is no such job, or the daemon cannot be reached any more, or the job cannot be cancelled.
    pub async fn follow_until(
        &self,
        job_id: &JobId,
        cancel: &CancellationToken,
        mut on_event: impl FnMut(&JobEvent),
    ) -> Result<JobEnd, ClientError> {
        let mut events = pin!(self.follow(job_id, None));
        let mut cancelling = false;
        let mut last = None;
        loop {
            let next = tokio::select! {
                biased;
                () = cancel.cancelled(), if !cancelling => {
                    cancelling = true;
                    self.cancel(job_id).await?;
                    continue;
                }
                next = events.next() => next,
            };
            let Some(followed) = next else { break };
            let event = followed?.event;
            on_event(&event);
            last = Some(event);
        }
        let end = last.map(JobEnd::from_last);
        end.ok_or_else(|| self.protocol("a job that ended without an event"))
    }
}
