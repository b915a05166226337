//! The task that owns one worker: it feeds the machine with what happens and does what it says.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narration::with_causes;
use sysinfo::System;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use worker_contract::{Restarts, SupervisedState, SupervisedWorker, WorkerId};

use super::command::WorkerPlan;
use super::context::{Context, Past, unix_now};
use super::failure::{Exit, explain, given_up, says_port_taken};
use super::health::HealthPoll;
use super::holdings::Holdings;
use super::ledger::{GivenUp, Waiting};
use super::log_file::LogFile;
use super::machine::{Action, End, Event, Interest, Machine};
use super::process::WorkerProcess;
use super::restart::FailureHistory;
use crate::ports::{PortLease, is_free};

/// How often another port is tried when one is snatched away between choosing it and listening.
const PORT_TRIES: u32 = 4;
/// How often the size of the log is looked at. More than the health poll takes for one question, which
/// each look interrupts.
const LOG_LOOK_EVERY: Duration = Duration::from_secs(10);

/// A process with all that belongs to it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: WorkerProcess,
    pub(super) port: PortLease,
    pub(super) machine: Machine,
    /// Where its lines begin in the log.
    pub(super) log_start: u64,
}

/// A worker under watch. Its task ends when its process has ended for good.
#[derive(Debug)]
pub(super) struct Watch {
    context: Arc<Context>,
    id: WorkerId,
    /// How to start it again; `None` for one that a hive started which kept no plans.
    plan: Option<WorkerPlan>,
    holdings: Holdings,
    log: LogFile,
    state: watch::Sender<SupervisedWorker>,
    stop: CancellationToken,
    /// Whether it is worth another start: what keeps a worker from ever being ready is not mended by
    /// trying again, and whoever asked for it is told.
    was_ready: bool,
    failures: FailureHistory,
}

/// Why nothing is left to watch.
enum Last {
    /// As somebody wished.
    Stopped,
    /// It failed, and is not started again.
    Failed {
        reason: String,
        /// Whether it was started again before, and too often.
        given_up: bool,
    },
    /// The next hive takes over.
    Left,
}

impl Watch {
    pub(super) fn new(
        context: Arc<Context>,
        id: WorkerId,
        plan: Option<WorkerPlan>,
        holdings: Holdings,
        state: watch::Sender<SupervisedWorker>,
        stop: CancellationToken,
    ) -> Self {
        let log = LogFile::of(&context.logs, &id);
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let failures = FailureHistory::new(context.restart_policy, hasher.finish());
        Self { context, id, plan, holdings, log, state, stop, was_ready: false, failures }
    }

    /// The same, of a worker that was adopted. Its failures count on, as the ledger has them.
    pub(super) fn adopted(mut self, was_ready: bool, failures: &[u64]) -> Self {
        self.was_ready = was_ready;
        let (uptime, now) = (System::uptime(), Instant::now());
        let ages = failures.iter().map(|at| Duration::from_secs(uptime.saturating_sub(*at)));
        self.failures = self.failures.resumed(&ages.collect::<Vec<_>>(), now);
        self
    }

    /// Watches until the end. A worker that was stopped is off the list then; one that failed for good
    /// stays on it with its reason.
    pub(super) async fn run(mut self, run: Run) {
        let last = self.until_last_end(run).await;
        self.end(last);
    }

    /// The same of a worker that has no process and is due in a while. What ended the last one the hive before may
    /// have heard, so that only the next end decides whether it has failed too often.
    pub(super) async fn run_after(mut self, pause: Duration) {
        let run = match self.rest(pause).await.map(|()| self.launch()) {
            Ok(Ok(run)) => Ok(run),
            Ok(Err(reason)) => self.again(reason, None).await,
            Err(last) => Err(last),
        };
        match run {
            Ok(run) => self.run(run).await,
            Err(last) => self.end(last),
        }
    }

    fn end(self, last: Last) {
        match last {
            Last::Stopped => self.stopped(),
            Last::Failed { reason, given_up } => self.failed(reason, given_up),
            Last::Left => tracing::info!(worker = %self.id, "worker is left to the next hive"),
        }
    }

    /// Watches one process after the other.
    async fn until_last_end(&mut self, mut run: Run) -> Last {
        let mut port_tries = 1;
        loop {
            let Some(end) = self.until_end(&mut run).await else { return Last::Left };
            let port = run.port.port();
            // Its process is gone, and so its port is free.
            drop(run);
            let failure = match end {
                End::Stopped => return Last::Stopped,
                End::PortTaken if self.stop.is_cancelled() => return Last::Stopped,
                End::PortTaken if port_tries < PORT_TRIES => {
                    port_tries += 1;
                    tracing::info!(worker = %self.id, port, "another program took the port, trying another");
                    match self.launch() {
                        Ok(next) => {
                            run = next;
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
                End::PortTaken => format!("another program took port {port} first"),
                End::Failed(reason) => reason,
            };
            let process = Some(self.state.borrow().pid);
            run = match self.again(failure, process).await {
                Ok(next) => next,
                Err(last) => return last,
            };
            port_tries = 1;
        }
    }

    /// Starts the worker again after a failure, of this process if there was one, when it is time, if that is worth
    /// trying.
    async fn again(&mut self, mut failure: String, mut process: Option<u32>) -> Result<Run, Last> {
        loop {
            let Some(plan) = self.plan.clone().filter(|_| self.was_ready) else {
                return Err(Last::Failed { reason: failure, given_up: false });
            };
            let pause = self.failures.failed(process, Instant::now());
            let what_follows = match self.too_many() {
                Some(_) => "giving it up unless requests turn out to be to blame",
                None => "starting it again",
            };
            let first_line = failure.lines().next().unwrap_or_default();
            tracing::warn!(worker = %self.id, reason = first_line, ?pause, "worker failed, {what_follows}");
            // First, so that who sees it in its pause knows that it is not lost.
            self.note_pause(plan, pause, &failure);
            self.publish_between(failure);
            match self.launch_after(pause).await? {
                Ok(run) => return Ok(run),
                Err(reason) => (failure, process) = (reason, None),
            }
        }
    }

    /// Writes down that the worker is to be started again: a hive that is killed before would else forget
    /// it.
    fn note_pause(&self, plan: WorkerPlan, pause: Duration, failure: &str) {
        if !plan.is_text() {
            return self.context.ledger.remove(&self.id);
        }
        let due = System::uptime().saturating_add(pause.as_secs());
        let (mut worker, failures) = (self.state.borrow().clone(), self.failed_at());
        put_between(&mut worker, failure.to_owned());
        self.context.ledger.wait(Waiting { worker, plan, failures, due });
    }

    /// Starts another process in a while, unless nobody wants it any longer by then, or the worker has failed too
    /// often, whatever has been excused meanwhile.
    async fn launch_after(&self, pause: Duration) -> Result<Result<Run, String>, Last> {
        self.rest(pause).await?;
        match self.too_many() {
            Some(failures) => Err(self.given_up(failures)),
            None => Ok(self.launch()),
        }
    }

    /// Waits for a while, unless nobody wants it any longer.
    async fn rest(&self, pause: Duration) -> Result<(), Last> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Last::Stopped),
            () = self.context.leave.cancelled() => Err(Last::Left),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// How often it has failed, where that is too often.
    fn too_many(&self) -> Option<usize> {
        self.failures.too_many(&self.context.excused(&self.id))
    }

    fn given_up(&self, failures: usize) -> Last {
        let last = self.state.borrow().restarts.as_ref().map(|restarts| restarts.reason.clone());
        let window = self.context.restart_policy.window;
        let reason = given_up(failures, window, &last.unwrap_or_default());
        Last::Failed { reason, given_up: true }
    }

    /// Starts another process.
    fn launch(&self) -> Result<Run, String> {
        let Some(plan) = &self.plan else { return Err("nobody knows how it was started".into()) };
        let run = self.context.launch(plan, &self.id, &self.log, self.past());
        let run = run.map_err(|error| with_causes(&error))?;
        self.publish_process(&run);
        Ok(run)
    }

    /// What the next process has behind it.
    fn past(&self) -> Past {
        let mut restarts = self.state.borrow().restarts.clone();
        if let Some(restarts) = restarts.as_mut().filter(|restarts| restarts.waiting) {
            restarts.count += 1;
            restarts.waiting = false;
        }
        Past { was_ready: self.was_ready, failures: self.failed_at(), restarts }
    }

    /// When its processes failed, as the ledger counts, but for those that requests have ended.
    fn failed_at(&self) -> Vec<u64> {
        let ages = self.failures.ages(&self.context.excused(&self.id), Instant::now());
        let uptime = System::uptime();
        ages.iter().map(|age| uptime.saturating_sub(age.as_secs())).collect()
    }

    /// Watches one process to its end; `None` if it is left to the next hive.
    async fn until_end(&mut self, run: &mut Run) -> Option<End> {
        let address = self.context.surroundings.own_address(run.port.port());
        let silence = self.context.patience.silence;
        let client = self.context.client.clone();
        let mut health = HealthPoll::new(client, &address, self.id.clone(), silence);
        let mut log_look = tokio::time::interval(LOG_LOOK_EVERY);
        let mut stop_seen = false;
        loop {
            if let Some(end) = run.machine.end() {
                return Some(end.clone());
            }
            self.publish(run.machine.state());
            let interest = run.machine.interest();
            let event = tokio::select! {
                biased;
                exit = run.process.ended() => self.exited(exit, run),
                () = self.stop.cancelled(), if !stop_seen => {
                    stop_seen = true;
                    Event::StopAsked
                }
                () = self.context.leave.cancelled() => return None,
                () = until(run.machine.wake_at()) => Event::Tick,
                said = health.next(interest.unwrap_or(Interest::SignOfLife)), if interest.is_some() => {
                    said.map_or(Event::NoAnswer, Event::Health)
                }
                _ = log_look.tick() => {
                    if let Err(error) = self.log.cap() {
                        tracing::debug!(worker = %self.id, %error, "the log cannot be cut");
                    }
                    continue;
                }
            };
            if let Some(action) = run.machine.step(event, Instant::now()) {
                if action == Action::Kill {
                    tracing::warn!(worker = %self.id, "worker does not end, killing it");
                }
                run.process.signal(action);
            }
        }
    }

    fn exited(&self, exit: Exit, run: &Run) -> Event {
        let log = self.log.tail(run.log_start);
        let listens_on = self.context.surroundings.host;
        let port_taken = says_port_taken(&log) || !is_free(listens_on, run.port.port());
        let has_own_arguments = !self.context.surroundings.arguments.is_empty();
        Event::Exited { explanation: explain(exit, &log, has_own_arguments), port_taken }
    }

    /// Shows a state of the process. That it failed is told only when it is clear what becomes of the
    /// worker, if it may be started again.
    fn publish(&mut self, state: SupervisedState) {
        match state {
            SupervisedState::Failed { reason } if self.was_ready && self.plan.is_some() => {
                self.publish_between(reason);
            }
            SupervisedState::Ready => {
                if !self.was_ready {
                    self.was_ready = true;
                    self.context.ledger.ready(&self.id);
                }
                if self.change(|worker| worker.state = SupervisedState::Ready) {
                    self.holdings.taken();
                    tracing::info!(worker = %self.id, "worker is ready");
                }
            }
            state => {
                self.change(|worker| worker.state = state);
            }
        }
    }

    /// Shows a worker whose process failed and that will be started again.
    fn publish_between(&self, reason: String) {
        self.holdings.to_be_taken();
        self.change(|worker| put_between(worker, reason));
    }

    fn publish_process(&self, run: &Run) {
        self.holdings.being_taken();
        self.change(|worker| {
            worker.port = run.port.port();
            worker.address = self.context.surroundings.address(worker.port);
            worker.pid = run.process.pid();
            worker.started_at = unix_now();
            if let Some(restarts) = worker.restarts.as_mut().filter(|restarts| restarts.waiting) {
                restarts.count += 1;
                restarts.waiting = false;
                self.context.count_restart();
            }
        });
    }

    /// Whether that changed anything.
    fn change(&self, change: impl FnOnce(&mut SupervisedWorker)) -> bool {
        let changed = self.state.send_if_modified(|worker| {
            let before = worker.clone();
            change(worker);
            *worker != before
        });
        if changed {
            self.context.changes.note();
        }
        changed
    }

    fn stopped(self) {
        let Self { context, id, holdings, .. } = self;
        drop(holdings);
        tracing::info!(worker = %id, "worker stopped");
        context.forget(&id);
    }

    fn failed(self, reason: String, is_given_up: bool) {
        let Self { context, id, plan, holdings, state, .. } = self;
        drop(holdings);
        let first_line = reason.lines().next().unwrap_or_default();
        tracing::warn!(worker = %id, reason = first_line, "worker failed");
        state.send_modify(|worker| {
            let count = worker.restarts.as_ref().map_or(0, |restarts| restarts.count);
            worker.restarts =
                is_given_up.then(|| Restarts { count, reason: reason.clone(), waiting: false });
            worker.state = SupervisedState::Failed { reason };
        });
        if is_given_up {
            let plan = plan.filter(WorkerPlan::is_text);
            context.ledger.give_up(GivenUp { worker: state.borrow().clone(), plan });
        } else {
            context.ledger.remove(&id);
        }
        context.changes.note();
        context.forget_oldest_failures();
    }
}

/// The worker without a process, before its next one.
fn put_between(worker: &mut SupervisedWorker, reason: String) {
    let count = worker.restarts.as_ref().map_or(0, |restarts| restarts.count);
    worker.state = SupervisedState::Starting { progress: 0.0 };
    worker.restarts = Some(Restarts { count, reason, waiting: true });
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
