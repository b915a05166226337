//! Which path an operation takes: one `match`.

use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, Outcome};
use rbee_operations::Operation;

use super::forward::Forwarder;
use super::hive_lifecycle::HiveLifecycle;
use super::infer::infer;
use crate::relay::Relay;

/// Carries all operations out.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Hive operations run here.
    pub hives: HiveLifecycle,
    /// Worker and model operations go to their hive.
    pub forwarder: Forwarder,
    /// Prompts go to a worker.
    pub relay: Relay,
    /// How long a prompt may take.
    pub request_timeout: std::time::Duration,
}

impl Executor for Operations {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let this = self.clone();
        Box::pin(async move {
            match operation {
                Operation::Infer(prompt) => infer(&this.relay, prompt, this.request_timeout, &job).await,
                operation if operation.should_forward_to_hive() => {
                    this.forwarder.forward(operation, job).await
                }
                operation => this.hives.execute(operation, &job).await,
            }
        })
    }
}
