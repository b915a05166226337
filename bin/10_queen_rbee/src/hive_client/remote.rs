//! A hive that is another process: operations go over HTTP as jobs of that hive.

use access_tokens::Secret;
use futures::future::BoxFuture;
use job_client::{ClientError, JobClient, JobEnd};
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{JobEvent, Operation};

use super::HiveClient;
use super::resumed::{self, Loss};

/// A hive at a base URL.
#[derive(Debug, Clone)]
pub(super) struct HttpHive {
    address: String,
    secret: Secret,
    jobs: JobClient,
}

impl HttpHive {
    pub(super) fn new(address: &str, secret: Secret) -> Self {
        let advice = "is rbee-hive running there? `rbee-keeper hive list` shows who reports";
        let jobs = JobClient::new(address, Some(secret.clone())).with_advice(advice);
        Self { address: address.to_owned(), secret, jobs }
    }

    /// Whether this is the client for an address and a secret.
    pub(super) fn is_at(&self, address: &str, secret: &Secret) -> bool {
        self.address == address && self.secret == *secret
    }
}

impl HiveClient for HttpHive {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let jobs = self.jobs.clone();
        Box::pin(async move { run(&jobs, &operation, &job).await })
    }
}

async fn run(
    jobs: &JobClient,
    operation: &Operation,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let mut passing = Passing { job, last_name: operation.name(), held: None };
    let pass_on = |event: &JobEvent| passing.pass_on(event);
    let mut ended = jobs.run_until(operation, job.cancelled(), pass_on).await;
    while let Some(loss) = Loss::of(&ended) {
        // Its last event was about that life of the hive.
        passing.held = None;
        let Some(next) = resumed::find(jobs, operation, loss, job).await else {
            // A download goes on all the same: its hive was not there to hear of the cancellation.
            let is_cancelled = job.cancelled().is_cancelled();
            let is_over = is_cancelled && !matches!(operation, Operation::ModelDownload(_));
            return Err(if is_over { JobError::cancelled() } else { loss.told(operation) });
        };
        let pass_on = |event: &JobEvent| passing.pass_on(event);
        ended = jobs.follow_until(&next, job.cancelled(), pass_on).await;
    }
    match ended {
        Ok(JobEnd::Succeeded(last)) => {
            Ok(Outcome::new(last.message, last.data.unwrap_or_default()))
        }
        Ok(JobEnd::Failed(last)) => {
            let code = last.code.unwrap_or_else(|| "hive_failed".to_owned());
            Err(JobError { hint: last.hint, ..JobError::new(code, last.message) })
        }
        Ok(JobEnd::Cancelled) => Err(JobError::cancelled()),
        Err(error) => Err(failure(&error)),
    }
}

/// Passes a hive's events on. The last one is the hive's result, which becomes ours; only those before are
/// passed on.
struct Passing<'a> {
    job: &'a JobContext,
    /// What the last event of a job that succeeds is called.
    last_name: &'static str,
    held: Option<JobEvent>,
}

impl Passing<'_> {
    fn pass_on(&mut self, event: &JobEvent) {
        if let Some(earlier) = self.held.take() {
            self.job.forward(earlier);
        }
        // What cannot be the last one is not kept waiting for the next: a line of a log, say.
        if [self.last_name, "error", "cancelled"].contains(&event.event.as_str()) {
            self.held = Some(event.clone());
        } else {
            self.job.forward(event.clone());
        }
    }
}

fn failure(error: &ClientError) -> JobError {
    let code = match error {
        ClientError::Api { detail, .. } => detail.code.as_deref().unwrap_or("hive_refused"),
        ClientError::Revoked(_) => "hive_refused",
        ClientError::Unreachable { .. } | ClientError::InvalidUrl { .. } => "hive_unreachable",
        ClientError::StreamLost { .. } | ClientError::Protocol { .. } => "hive_lost",
    };
    let message = match error {
        ClientError::Api { .. } => error.to_string(),
        _ => format!("the hive cannot be asked: {error}"),
    };
    let failed = JobError::new(code, message);
    match error.hint() {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}
