//! One answer: found a worker, read, passed on; tried again while the client has got nothing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use worker_contract::{InferenceRequest, ModelAlias, TokenId, Usage, WorkerId};

use super::failure::Trouble;
use super::progress::{Progress, Step};
use super::worker::{WorkerClient, WorkerEvents};
use super::{Failure, Part};
use crate::dispatch::Dispatcher;
use crate::registry::{Place, Registry};

/// One answer, part by part. Dropping it ends the request, wherever it is.
#[derive(Debug)]
pub struct Answer {
    dispatcher: Dispatcher,
    workers: WorkerClient,
    model: ModelAlias,
    request: InferenceRequest,
    deadline: Instant,
    /// One timer for the whole answer.
    alarm: Pin<Box<Sleep>>,
    progress: Progress,
    state: State,
    ready: VecDeque<Part>,
    record: Record,
}

#[derive(Debug)]
enum State {
    Seeking,
    Reading(WorkerEvents, Place),
    /// Complete; the connection can be given back.
    Complete(WorkerEvents),
    Ended,
}

/// What is logged when it is over: who, what, how; never the text.
#[derive(Debug)]
struct Record {
    caller: String,
    began: Instant,
    worker_id: Option<WorkerId>,
    usage: Option<Usage>,
    outcome: &'static str,
}

impl Answer {
    pub(super) fn new(
        dispatcher: Dispatcher,
        workers: WorkerClient,
        model: ModelAlias,
        mut request: InferenceRequest,
        deadline: Instant,
        caller: &str,
    ) -> Self {
        request.model = Some(model.clone());
        let progress = Progress::of(&request);
        let record = Record {
            caller: caller.to_owned(),
            began: Instant::now(),
            worker_id: None,
            usage: None,
            outcome: "cancelled",
        };
        Self {
            dispatcher,
            workers,
            model,
            request,
            deadline,
            alarm: Box::pin(sleep_until(deadline)),
            progress,
            state: State::Seeking,
            ready: VecDeque::new(),
            record,
        }
    }

    /// The next part; `None` after `Done` or a failure.
    ///
    /// Dropping the returned future can lose the place in the queue: to wait for a part together with
    /// something else, keep the future.
    pub async fn next(&mut self) -> Option<Result<Part, Failure>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(Ok(part));
            }
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return None,
                State::Complete(events) => events.finish().await,
                State::Seeking => {
                    if let Err(failure) = self.seek().await {
                        return Some(Err(self.fail(failure)));
                    }
                }
                State::Reading(events, place) => {
                    if let Err(failure) = self.read(events, place).await {
                        return Some(Err(self.fail(failure)));
                    }
                }
            }
        }
    }

    /// The tokens of one of the answers that were passed on.
    #[must_use]
    pub fn tokens(&self, choice: usize) -> &[TokenId] {
        self.progress.given(choice)
    }

    /// Finds a worker and sends it the request.
    async fn seek(&mut self) -> Result<(), Failure> {
        let (model, failed) = (&self.model, self.progress.failed());
        let place = self
            .dispatcher
            .place(model, failed, self.record.worker_id.is_some(), self.deadline.into_std())
            .await?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.request.deadline_ms = Some(millis(left).max(1));
        self.record.worker_id = Some(place.worker_id.clone());
        let sent = self.workers.send(place.target.clone(), &self.request, self.deadline).await;
        match sent {
            Ok(events) => {
                self.state = State::Reading(events, place);
                Ok(())
            }
            Err(trouble) => self.recover(trouble, place),
        }
    }

    /// Reads until there is a part, or the answer is over.
    async fn read(&mut self, mut events: WorkerEvents, place: Place) -> Result<(), Failure> {
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = &mut self.alarm => Err(Trouble::Deadline),
            };
            let step = match event {
                Ok(event) => self.progress.on_event(event),
                Err(trouble) => return self.recover(trouble, place),
            };
            let part = match step {
                Step::Nothing => continue,
                Step::Give(part) => part,
                Step::Fail(error) if error.code.as_deref() == Some("deadline_exceeded") => {
                    return self.recover(Trouble::Deadline, place);
                }
                Step::Fail(error) => {
                    return self.recover(Trouble::garbage(error.message), place);
                }
                Step::OutOfOrder => {
                    let trouble = Trouble::garbage("it sent events in the wrong order");
                    return self.recover(trouble, place);
                }
            };
            if self.progress.begin() {
                self.ready.push_back(Part::Started { worker_id: place.worker_id.clone() });
            }
            self.state = if let Part::Done { usage, .. } = &part {
                self.record.usage = Some(*usage);
                self.record.outcome = "done";
                drop(place);
                State::Complete(events)
            } else {
                State::Reading(events, place)
            };
            self.ready.push_back(part);
            return Ok(());
        }
    }

    /// After trouble with a worker: the next try, or the failure.
    fn recover(&mut self, trouble: Trouble, place: Place) -> Result<(), Failure> {
        let registry: &Registry = self.dispatcher.registry();
        let worker_id = place.worker_id.clone();
        let (reason, is_connection) = match trouble {
            Trouble::Refused { status, detail } => return Err(Failure::Refused { status, detail }),
            Trouble::Deadline => {
                return Err(Failure::Deadline { tokens: self.progress.tokens() });
            }
            Trouble::Busy { reason, rest } => {
                tracing::debug!(%worker_id, reason, "a worker is busy");
                registry.worker_rests(&worker_id, (Instant::now() + rest).into_std());
                self.progress.reset();
                self.state = State::Seeking;
                return Ok(());
            }
            Trouble::Failed { reason, is_connection } => (reason, is_connection),
        };
        if is_connection {
            registry.worker_failed(&worker_id);
        }
        drop(place);
        let may_retry = self.progress.on_failure(worker_id.clone());
        tracing::warn!(
            request_id = %self.request.request_id,
            %worker_id,
            reason,
            may_retry,
            "a worker failed a request"
        );
        if may_retry {
            self.state = State::Seeking;
            return Ok(());
        }
        Err(Failure::WorkerFailed { worker_id, reason })
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.state = State::Ended;
        self.record.outcome = match &failure {
            Failure::NoPlace(_) => "no worker",
            Failure::Refused { .. } => "refused",
            Failure::WorkerFailed { .. } => "worker failed",
            Failure::Deadline { .. } => "deadline",
        };
        failure
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Record { caller, began, worker_id, usage, outcome } = &self.record;
        tracing::info!(
            request_id = %self.request.request_id,
            caller,
            model = %self.model,
            worker_id = worker_id.as_ref().map(tracing::field::display),
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            tokens = usage.map_or(self.progress.tokens(), |u| u.completion_tokens as usize),
            ms = millis(began.elapsed()),
            outcome,
            "inference ended"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
