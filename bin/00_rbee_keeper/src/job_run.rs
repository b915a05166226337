//! One job from its submission to its end, cancelled when the person asks for it. A download that its queen's end has
//! interrupted is begun again when she is back.

use std::time::Duration;

use futures::{Stream, StreamExt};
use job_client::{ClientError, FollowedEvent};
use rbee_operations::{JobEvent, Operation};
use worker_contract::JobId;

use crate::failure::Failure;
use crate::interrupt::JobRuns;
use crate::live::Live;
use crate::output::Output;
use crate::queen_client::Queen;
use crate::session::Session;

/// How long the end of a cancelled job is waited for: a little more than the daemons take at most.
const CANCEL_PATIENCE: Duration = Duration::from_secs(12);
/// How long a cancellation may take that nobody waits for.
const PARTING_PATIENCE: Duration = Duration::from_secs(2);
/// For how long a queen is awaited whose end has interrupted a job, and how often she is asked.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How a job ends whose queen ends.
const INTERRUPTED: &str = "interrupted";

/// Somebody who wants a job's events.
pub(crate) trait Listener {
    /// Takes one event; an error ends the job.
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure>;
}

impl Listener for Live {
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure> {
        self.show(event);
        Ok(())
    }
}

/// Runs the operation, shows its events, and gives its outcome.
pub(crate) async fn run(
    session: &Session,
    queen: &Queen,
    operation: &Operation,
) -> Result<JobEvent, Failure> {
    run_with(session, queen, operation, &mut Live::new(session.output)).await
}

/// Runs the operation with a listener of one's own.
pub(crate) async fn run_with(
    session: &Session,
    queen: &Queen,
    operation: &Operation,
    listener: &mut impl Listener,
) -> Result<JobEvent, Failure> {
    let interruptible = session.interrupts.job_runs();
    let mut job = queen.jobs.submit(operation).await.map_err(|e| queen.failure(e))?;
    loop {
        let ended = follow(session.output, queen, &job, &interruptible, listener).await;
        if !is_interrupted_download(operation, &ended) {
            return ended;
        }
        match begin_again(session.output, queen, operation, &interruptible).await {
            Some(next) => job = next,
            None => return interruptible.interruption().map_or(ended, Err),
        }
    }
}

/// Follows a job to its end, and cancels it when the person asks for it.
async fn follow(
    output: Output,
    queen: &Queen,
    job: &JobId,
    interruptible: &JobRuns,
    listener: &mut impl Listener,
) -> Result<JobEvent, Failure> {
    let cancelled_in_vain = async {
        interruptible.asked_to_end().await;
        cancel(output, queen, job).await;
    };
    let ended = tokio::select! {
        ended = listen(queen, queen.jobs.follow(job, None), listener) => Some(ended),
        () = cancelled_in_vain => None,
    };
    if let Some(interruption) = interruptible.interruption() {
        return Err(interruption);
    }
    match ended {
        Some(Err(failure @ (Failure::JobFailed(_) | Failure::JobCancelled))) => Err(failure),
        Some(Err(failure)) => {
            // Whoever wanted the result is gone, or cannot be given it.
            let _ = tokio::time::timeout(PARTING_PATIENCE, queen.jobs.cancel(job)).await;
            Err(failure)
        }
        Some(outcome) => outcome,
        None => Err(Failure::JobCancelled),
    }
}

/// Whether this is a download that has ended because its queen has.
fn is_interrupted_download(operation: &Operation, ended: &Result<JobEvent, Failure>) -> bool {
    matches!(operation, Operation::ModelDownload(_))
        && matches!(ended, Err(Failure::JobFailed(last)) if last.code.as_deref() == Some(INTERRUPTED))
}

/// Begins a download again when the queen is back: it goes on with what is there, beside whoever does so already.
/// `None` where she does not come back, or the person does not wait for her.
async fn begin_again(
    output: Output,
    queen: &Queen,
    operation: &Operation,
    interruptible: &JobRuns,
) -> Option<JobId> {
    output.note("the queen has ended; the download is gone on with when she is back");
    let is_back = async {
        loop {
            match queen.jobs.submit(operation).await {
                Err(error) if error.is_passing() => tokio::time::sleep(RESTART_PAUSE).await,
                submitted => return submitted.ok(),
            }
        }
    };
    tokio::select! {
        job = tokio::time::timeout(RESTART_PATIENCE, is_back) => job.ok().flatten(),
        () = interruptible.asked_to_end() => None,
    }
}

/// Listens to a job to its end and gives its outcome.
pub(crate) async fn listen(
    queen: &Queen,
    events: impl Stream<Item = Result<FollowedEvent, ClientError>>,
    listener: &mut impl Listener,
) -> Result<JobEvent, Failure> {
    futures::pin_mut!(events);
    let mut last = None;
    while let Some(followed) = events.next().await {
        let event = followed.map_err(|e| queen.failure(e))?.event;
        listener.event(&event).await?;
        last = Some(event);
    }
    match last {
        None => Err(Failure::Protocol("the job ended without a word".to_owned())),
        Some(event) if event.event == "error" => Err(Failure::JobFailed(Box::new(event))),
        Some(event) if event.event == "cancelled" => Err(Failure::JobCancelled),
        Some(event) => Ok(event),
    }
}

/// Asks the queen to cancel the job, and returns when its end is overdue.
async fn cancel(output: Output, queen: &Queen, job: &JobId) {
    output.note("cancelling; Ctrl-C again leaves at once");
    match queen.jobs.cancel(job).await {
        Ok(_) => tokio::time::sleep(CANCEL_PATIENCE).await,
        Err(error) => {
            let failure = queen.failure(error);
            output.warn(&format!("job {job} could not be cancelled: {failure}"));
        }
    }
}
