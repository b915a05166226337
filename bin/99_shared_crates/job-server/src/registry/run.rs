//! One job from its beginning to its end. Whatever its executor does, it ends once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rbee_operations::Operation;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::context::LiveJob;
use crate::job::{End, Job, now};
use crate::{Executor, JobContext, JobError};

/// How long a cancelled job has to clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Carries a job out, ends it, records its end, and forgets what is then over the limits.
pub(super) async fn run(
    inner: Arc<Inner>,
    live: Arc<LiveJob>,
    operation: Operation,
    executor: Arc<dyn Executor>,
) {
    let end = carry_out(&live, operation, executor, &inner.abandon).await;
    let end = end.unwrap_or_else(|| early_end(&live));
    live.job.send_if_modified(|job| job.end(&live.facts.operation, end, now()));
    inner.table().ended();
    log_end(&live);
    if let Some(store) = &inner.store {
        store.ended(&live).await;
    }
    // After its end is recorded, so that a record of a forgotten job never comes back.
    let forgotten = inner.table().retire(&live.facts.id, &inner.limits);
    if let Some(store) = &inner.store {
        store.forget(forgotten).await;
    }
}

/// The end that the executor brought about, or none where it was stopped.
async fn carry_out(
    live: &Arc<LiveJob>,
    operation: Operation,
    executor: Arc<dyn Executor>,
    abandon: &CancellationToken,
) -> Option<End> {
    if live.cancel.is_cancelled() {
        return None;
    }
    live.job.send_modify(Job::begin);
    let context = JobContext::new(Arc::clone(live));
    // `execute` is called inside, so that a panic in it is caught like one in its future.
    let work = async move { executor.execute(operation, context).await };
    let mut work = AssertUnwindSafe(work).catch_unwind().boxed();
    let done = tokio::select! {
        biased;
        done = &mut work => Some(done),
        () = live.cancel.cancelled() => None,
    };
    if done.is_none() {
        tokio::select! {
            biased;
            _ = &mut work => {}
            () = abandon.cancelled() => {}
            () = tokio::time::sleep(CANCEL_GRACE) => {}
        }
    }
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(work)));
    match (done?, dropped) {
        (Ok(Ok(outcome)), Ok(())) => Some(End::Succeeded(outcome)),
        (Ok(Err(error)), Ok(())) => Some(End::Failed(error)),
        (Err(_), _) | (_, Err(_)) => Some(End::Failed(panicked(live))),
    }
}

fn early_end(live: &LiveJob) -> End {
    if live.job.borrow().cancel_requested() { End::Cancelled } else { End::interrupted() }
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
