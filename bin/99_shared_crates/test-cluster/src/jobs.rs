//! Jobs, followed from their first event to `[DONE]`.

use anyhow::{Context, Result, bail, ensure};
use rbee_operations::{
    DONE_MARKER, EventLevel, JobCreated, JobEvent, JobSummary, Operation, SubmitJob,
};
use serde::de::DeserializeOwned;
use worker_contract::JobId;

use crate::{Api, SseStream};

/// A job's stream that was read to its end.
#[derive(Debug, Clone)]
pub struct JobRun {
    /// The job.
    pub job_id: JobId,
    /// Its events, each with its id in the stream.
    pub events: Vec<(u64, JobEvent)>,
    /// Whether `[DONE]` was the last line.
    pub done: bool,
}

impl JobRun {
    /// The typed result of a job that succeeded.
    pub fn result<T: DeserializeOwned>(&self) -> Result<T> {
        if let Some(failure) = self.failure() {
            bail!("job {} failed: {} (hint: {:?})", self.job_id, failure.message, failure.hint);
        }
        ensure!(self.done, "the stream of job {} ended without [DONE]", self.job_id);
        let (_, last) = self.events.last().context("the job had no event")?;
        let data = last.data.clone().context("the last event has no data")?;
        serde_json::from_value(data).with_context(|| format!("unexpected result: {last:?}"))
    }

    /// The event that says why the job failed.
    #[must_use]
    pub fn failure(&self) -> Option<&JobEvent> {
        let (_, last) = self.events.last()?;
        (last.event == "error" || last.level == EventLevel::Error).then_some(last)
    }

    /// The text that the `token` events of an `Infer` job carry.
    #[must_use]
    pub fn text(&self) -> String {
        let tokens = self.events.iter().filter(|(_, event)| event.event == "token");
        tokens.map(|(_, event)| event.message.as_str()).collect()
    }
}

impl Api {
    /// Starts a job.
    pub async fn submit(&self, operation: &Operation) -> Result<JobId> {
        let body = serde_json::to_value(SubmitJob { operation: operation.clone() })?;
        let answer = self.post("/v1/jobs", &body).await?;
        ensure!((200..300).contains(&answer.status), "the job was refused: {answer}");
        Ok(answer.parse::<JobCreated>()?.job_id)
    }

    /// Starts a job and follows it to its end, whatever that is.
    pub async fn run_job(&self, operation: &Operation) -> Result<JobRun> {
        let job_id = self.submit(operation).await?;
        self.follow(&job_id, None).await
    }

    /// Follows a job to its end, from after the event `after` if that is given.
    pub async fn follow(&self, job_id: &JobId, after: Option<u64>) -> Result<JobRun> {
        read_job(job_id, self.job_events(job_id, after).await?).await
    }

    /// Opens a job's stream.
    pub async fn job_events(&self, job_id: &JobId, after: Option<u64>) -> Result<SseStream> {
        self.events(&format!("/v1/jobs/{job_id}/stream"), after).await
    }

    /// Where a job stands.
    pub async fn job(&self, job_id: &JobId) -> Result<JobSummary> {
        self.get(&format!("/v1/jobs/{job_id}")).await?.expect_status(200)?.parse()
    }

    /// Asks for the end of a job.
    pub async fn cancel_job(&self, job_id: &JobId) -> Result<()> {
        let answer = self.delete(&format!("/v1/jobs/{job_id}")).await?;
        ensure!((200..300).contains(&answer.status), "cancelling was refused: {answer}");
        Ok(())
    }
}

async fn read_job(job_id: &JobId, stream: SseStream) -> Result<JobRun> {
    let mut run = JobRun { job_id: job_id.clone(), events: Vec::new(), done: false };
    for event in stream.rest().await? {
        ensure!(!run.done, "job {job_id} goes on after [DONE]: {}", event.data);
        if event.data == DONE_MARKER {
            run.done = true;
        } else {
            let id = event.id.context("a job's event has no id")?;
            let parsed = serde_json::from_str(&event.data)
                .with_context(|| format!("not a job event: {}", event.data))?;
            run.events.push((id, parsed));
        }
    }
    Ok(run)
}
