//! One job from its beginning to its end. Whatever its executor does, it ends once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rbee_operations::Operation;

use super::Inner;
use crate::context::LiveJob;
use crate::job::{End, Job, now};
use crate::{Executor, JobContext, JobError, Outcome};

/// How long a cancelled job has to clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Carries a job out, ends it, records its end, and forgets what is then over the limits.
pub(super) async fn run(
    inner: Arc<Inner>,
    live: Arc<LiveJob>,
    operation: Operation,
    executor: Arc<dyn Executor>,
) {
    let done = carry_out(&live, operation, executor, &inner).await;
    let end = end_of(&live, done);
    live.job.send_if_modified(|job| job.end(&live.facts.operation, end, now()));
    inner.table().ended();
    inner.changed.send_replace(());
    log_end(&live);
    if let Some(store) = &inner.store {
        store.ended(&live).await;
    }
    // After its end is recorded, so that a record of a forgotten job never comes back.
    let forgotten = inner.table().retire(&live.facts.id, &inner.limits);
    if !forgotten.is_empty() {
        inner.changed.send_replace(());
    }
    if let Some(store) = &inner.store {
        store.forget(forgotten).await;
    }
}

/// What came of an executor.
enum Done {
    Returned(Result<Outcome, JobError>),
    Panicked,
    /// It was not begun, or did not stop in time.
    Dropped,
}

/// Runs the executor until it returns, or until its grace after a cancellation is over.
async fn carry_out(
    live: &Arc<LiveJob>,
    operation: Operation,
    executor: Arc<dyn Executor>,
    inner: &Inner,
) -> Done {
    if live.cancel.is_cancelled() {
        return Done::Dropped;
    }
    live.job.send_modify(Job::begin);
    inner.changed.send_replace(());
    let context = JobContext::new(Arc::clone(live));
    // `execute` is called inside, so that a panic in it is caught like one in its future.
    let work = async move { executor.execute(operation, context).await };
    let mut work = AssertUnwindSafe(work).catch_unwind().boxed();
    let grace_is_over = async {
        live.cancel.cancelled().await;
        tokio::select! {
            () = inner.abandon.cancelled() => {}
            () = tokio::time::sleep(CANCEL_GRACE) => {}
        }
    };
    let done = tokio::select! {
        biased;
        done = &mut work => done.map_or(Done::Panicked, Done::Returned),
        () = grace_is_over => Done::Dropped,
    };
    match catch_unwind(AssertUnwindSafe(|| drop(work))) {
        Ok(()) => done,
        Err(_) => Done::Panicked,
    }
}

/// How the job ends. Where somebody asked for its end it is cancelled, whatever its executor made of
/// that; where the daemon stops, work that was done in time counts.
fn end_of(live: &LiveJob, done: Done) -> End {
    let cancelled = live.job.borrow().cancel_requested();
    let stopping = live.cancel.is_cancelled();
    match done {
        Done::Panicked => End::Failed(panicked(live)),
        _ if cancelled => End::Cancelled,
        Done::Returned(Ok(outcome)) => End::Succeeded(outcome),
        Done::Returned(Err(error)) if !stopping => End::Failed(error),
        Done::Returned(Err(_)) | Done::Dropped => End::interrupted(),
    }
}

fn panicked(live: &LiveJob) -> JobError {
    let operation = &live.facts.operation;
    JobError::new("internal", format!("{operation} failed by a bug in rbee"))
        .hint("see the daemon's log, and report it")
}

fn log_end(live: &LiveJob) {
    let (state, facts) = (live.job.borrow().state().as_str(), &live.facts);
    tracing::info!(job_id = %facts.id, operation = facts.operation, caller = facts.caller, state, "job ended");
}
