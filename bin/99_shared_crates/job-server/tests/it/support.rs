//! What the tests of jobs share: executors made of a closure, and waiting under a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Outcome, Replayed};
use rbee_operations::{JobSummary, Operation};
use worker_contract::JobId;

const DEADLINE: Duration = Duration::from_secs(30);

/// An executor that does what `script` does.
pub(crate) fn scripted<F, Fut>(script: F) -> Arc<dyn Executor>
where
    F: Fn(JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, JobError>> + Send + 'static,
{
    struct Scripted<F>(F);
    impl<F, Fut> Executor for Scripted<F>
    where
        F: Fn(JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, JobError>> + Send + 'static,
    {
        fn execute(
            &self,
            _: Operation,
            job: JobContext,
        ) -> BoxFuture<'static, Result<Outcome, JobError>> {
            Box::pin((self.0)(job))
        }
    }
    Arc::new(Scripted(script))
}

/// An executor that works until it is cancelled.
pub(crate) fn endless() -> Arc<dyn Executor> {
    scripted(|job| async move {
        job.say("working");
        job.cancelled().cancelled().await;
        Err(JobError::cancelled())
    })
}

/// An executor whose jobs are of a kind.
struct OfKind {
    executor: Arc<dyn Executor>,
    drains: bool,
    only_looks: bool,
    after_interruption: Option<&'static str>,
}

impl OfKind {
    fn usual(executor: Arc<dyn Executor>) -> Self {
        Self { executor, drains: false, only_looks: false, after_interruption: None }
    }
}

impl Executor for OfKind {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        self.executor.execute(operation, job)
    }

    fn drains(&self, _: &Operation) -> bool {
        self.drains
    }

    fn only_looks(&self, _: &Operation) -> bool {
        self.only_looks
    }

    fn after_interruption(&self, _: &Operation) -> Option<String> {
        self.after_interruption.map(str::to_owned)
    }
}

/// The same executor, for jobs that are waited for when their daemon stops.
pub(crate) fn draining(executor: Arc<dyn Executor>) -> Arc<dyn Executor> {
    Arc::new(OfKind { drains: true, ..OfKind::usual(executor) })
}

/// The same executor, for jobs that change nothing.
pub(crate) fn looking(executor: Arc<dyn Executor>) -> Arc<dyn Executor> {
    Arc::new(OfKind { only_looks: true, ..OfKind::usual(executor) })
}

/// The same executor, for jobs that go on by themselves when their daemon has stopped.
pub(crate) fn going_on(executor: Arc<dyn Executor>) -> Arc<dyn Executor> {
    Arc::new(OfKind { after_interruption: Some("wait for it"), ..OfKind::usual(executor) })
}

pub(crate) fn operation() -> Operation {
    Operation::HiveList {}
}

/// Waits for something that must come.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let limited = tokio::time::timeout(DEADLINE, future).await;
    limited.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// All that a follower gets, to the end of the job.
pub(crate) async fn follow(
    registry: &JobRegistry,
    id: &JobId,
    after: Option<u64>,
) -> Vec<Replayed> {
    let events = registry.follow(id, after).unwrap();
    within("the end of the stream", events.collect()).await
}

/// The job, when it has ended.
pub(crate) async fn ended(registry: &JobRegistry, id: &JobId) -> JobSummary {
    follow(registry, id, None).await;
    registry.get(id).unwrap()
}

/// What was told, in short: the messages, `gap` and `[DONE]`.
pub(crate) fn messages(replayed: &[Replayed]) -> Vec<String> {
    let message = |one: &Replayed| match one {
        Replayed::Event { event, .. } => event.message.clone(),
        Replayed::Gap { missed, .. } => format!("gap of {missed}"),
        Replayed::Done => "[DONE]".to_owned(),
    };
    replayed.iter().map(message).collect()
}

/// The event of one replayed thing.
pub(crate) fn event(replayed: &Replayed) -> &rbee_operations::JobEvent {
    let Replayed::Event { event, .. } = replayed else { panic!("{replayed:?} is no event") };
    event
}
