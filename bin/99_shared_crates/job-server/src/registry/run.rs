//! One job from its beginning to its end. Whatever its executor does, it ends once.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rbee_operations::Operation;
use tokio::time::{sleep, timeout};

use super::{Inner, STORE_PATIENCE};
use crate::context::LiveJob;
use crate::job::{Closed, End, Job, now};
use crate::{Executor, JobContext, JobError, Outcome};

/// How long a cancelled job has to clean up.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// For how long what a job tells is collected before it is recorded.
const COLLECTING: Duration = Duration::from_secs(1);

/// Carries a job out, records its end, shows it, and forgets what is then over the limits.
pub(super) async fn run(
    inner: Arc<Inner>,
    live: Arc<LiveJob>,
    operation: Operation,
    executor: Arc<dyn Executor>,
) {
    let done = tokio::select! {
        biased;
        done = carry_out(&live, operation, executor, &inner) => done,
        never = record_told(&inner, &live) => match never {},
    };
    let end = end_of(&live, done);
    let mut closed = None;
    live.job.send_if_modified(|job| {
        closed = job.close(&live.facts.operation, end, now());
        false
    });
    let mut recording = pin!(record(&inner, &live, closed));
    // Whoever is told of the end may kill this process, and ask the next one.
    let is_recorded = timeout(STORE_PATIENCE, &mut recording).await.is_ok();
    live.job.send_if_modified(Job::show_end);
    inner.table().ended(&live);
    inner.changed.send_replace(());
    log_end(&live);
    if !is_recorded {
        tracing::warn!(job_id = %live.facts.id, "the disk is slow: a job's end is told before it is recorded");
        recording.await;
    }
    // After its end is recorded, so that a record of a forgotten job never comes back.
    let forgotten = inner.table().retire(&live.facts.id, &inner.limits);
    if !forgotten.is_empty() {
        inner.changed.send_replace(());
    }
    if let Some(store) = &inner.store {
        let recorded = forgotten.iter().filter(|live| !live.only_looks);
        store.forget(recorded.map(|live| live.facts.id.clone()).collect()).await;
    }
}

/// Records what a job tells while it runs, so that whoever asks after this process was killed is told how far the job
/// was. A job that is done before the first record costs none.
async fn record_told(inner: &Inner, live: &LiveJob) -> Infallible {
    if let Some(store) = inner.store_of(live) {
        let (mut told, mut last) = (live.job.subscribe(), 0);
        // It may have told something already.
        told.mark_changed();
        // The sender lives as long as the job.
        while told.changed().await.is_ok() {
            sleep(COLLECTING).await;
            told.mark_unchanged();
            match store.try_told(live, last) {
                Some(latest) => last = latest,
                None => told.mark_changed(),
            }
        }
    }
    std::future::pending().await
}

/// Done when the end is on disk.
async fn record(inner: &Inner, live: &LiveJob, closed: Option<Closed>) {
    if let (Some(store), Some(closed)) = (inner.store_of(live), closed) {
        store.ended(live, closed).await;
        store.flush().await;
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
            () = sleep(CANCEL_GRACE) => {}
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
        Done::Returned(Err(_)) | Done::Dropped => {
            End::interrupted(live.after_interruption.as_deref())
        }
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
