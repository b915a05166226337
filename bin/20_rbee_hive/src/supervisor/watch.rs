//! The task that owns one worker: it feeds the machine with what happens and does what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use worker_contract::{SupervisedState, SupervisedWorker, WorkerId};

use super::Context;
use super::StartError;
use super::command::WorkerPlan;
use super::failure::{explain, says_port_taken};
use super::health::HealthPoll;
use super::ledger::LedgerEntry;
use super::log_file::LogFile;
use super::machine::{Action, End, Event, Machine};
use super::process::WorkerProcess;
use crate::catalog::InUse;
use crate::ports::{PortLease, is_free};

/// How often another port is tried when one is snatched away between choosing it and listening.
const PORT_TRIES: u32 = 4;
/// How often the size of the log is looked at.
const LOG_LOOK_EVERY: Duration = Duration::from_secs(10);

/// A process with all that belongs to it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: WorkerProcess,
    pub(super) port: PortLease,
    pub(super) machine: Machine,
}

/// A worker under watch. Its task ends when its process has ended for good.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) context: Arc<Context>,
    pub(super) id: WorkerId,
    /// How to start it again; `None` for one that was adopted.
    pub(super) plan: Option<WorkerPlan>,
    pub(super) log: LogFile,
    pub(super) state: watch::Sender<SupervisedWorker>,
    pub(super) stop: CancellationToken,
    /// Keeps the model from being deleted.
    pub(super) model_in_use: Option<InUse>,
}

impl Watch {
    /// Watches until the end. A worker that was stopped is off the list then; one that failed stays
    /// on it with its reason.
    pub(super) async fn run(self, run: Run) {
        let end = self.until_last_end(run).await;
        self.finish(end);
    }

    /// Watches one process after the other, for as long as their ports are snatched away.
    async fn until_last_end(&self, mut run: Run) -> End {
        let mut tries = 1;
        loop {
            let end = self.until_end(&mut run).await;
            if end != End::PortTaken {
                return end;
            }
            if self.stop.is_cancelled() {
                return End::Stopped;
            }
            let port = run.port.port();
            let Some(plan) = self.plan.as_ref().filter(|_| tries < PORT_TRIES) else {
                return End::Failed(format!("another program took port {port} first"));
            };
            tracing::info!(worker = %self.id, port, "another program took the port, trying another");
            match self.context.launch(plan, &self.id, &self.log) {
                Ok(next) => run = next,
                Err(error) => return End::Failed(error.to_string()),
            }
            self.publish_process(&run);
            tries += 1;
        }
    }

    fn finish(mut self, end: End) {
        self.context.ledger.remove(&self.id);
        drop(self.model_in_use.take());
        match end {
            End::Failed(reason) => {
                let first_line = reason.lines().next().unwrap_or_default();
                tracing::warn!(worker = %self.id, reason = first_line, "worker failed");
                self.publish(SupervisedState::Failed { reason });
                self.context.forget_oldest_failures();
            }
            End::Stopped | End::PortTaken => {
                tracing::info!(worker = %self.id, "worker stopped");
                self.context.forget(&self.id);
            }
        }
    }

    async fn until_end(&self, run: &mut Run) -> End {
        let port = run.port.port();
        let address = self.context.surroundings.own_address(port);
        let mut health = HealthPoll::new(self.context.client.clone(), &address, self.id.clone());
        let mut log_look = tokio::time::interval(LOG_LOOK_EVERY);
        let mut stop_seen = false;
        loop {
            if let Some(end) = run.machine.end() {
                return end.clone();
            }
            self.publish(run.machine.state());
            let event = tokio::select! {
                biased;
                exit = run.process.ended() => {
                    let log = self.log.tail();
                    let listens_on = self.context.surroundings.host;
                    let port_taken = says_port_taken(&log) || !is_free(listens_on, port);
                    Event::Exited { explanation: explain(exit, &log), port_taken }
                }
                () = self.stop.cancelled(), if !stop_seen => {
                    stop_seen = true;
                    Event::StopAsked
                }
                () = until(run.machine.wake_at()) => Event::Tick,
                said = health.next(), if run.machine.asks_for_health() => match said {
                    Some(state) => Event::Health(state),
                    None => continue,
                },
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

    fn publish(&self, state: SupervisedState) {
        let is_ready = state == SupervisedState::Ready;
        let changed = self.state.send_if_modified(|worker| {
            let changed = worker.state != state;
            worker.state = state;
            changed
        });
        if changed {
            self.context.changes.note();
        }
        if changed && is_ready {
            tracing::info!(worker = %self.id, "worker is ready");
        }
    }

    fn publish_process(&self, run: &Run) {
        self.state.send_modify(|worker| {
            worker.port = run.port.port();
            worker.address = self.context.surroundings.address(worker.port);
            worker.pid = run.process.pid();
        });
        self.context.changes.note();
    }
}

impl Context {
    /// Starts a process for the plan on a free port.
    pub(super) fn launch(
        &self,
        plan: &WorkerPlan,
        id: &WorkerId,
        log: &LogFile,
    ) -> Result<Run, StartError> {
        let port = self.ports.lease()?;
        let arguments = self.surroundings.arguments(plan, id, port.port());
        let output = log.open().map_err(StartError::Log)?;
        let process =
            WorkerProcess::start(&plan.binary, &arguments, &output).map_err(StartError::Process)?;
        self.ledger.add(LedgerEntry {
            worker_id: id.clone(),
            pid: process.pid(),
            start_time: process.start_time(),
            port: port.port(),
            model: plan.model.clone(),
            device: plan.device,
            address: self.surroundings.address(port.port()),
            started_at: super::unix_now(),
        });
        let machine = Machine::new(self.patience, Instant::now());
        let (model, device) = (&plan.model, plan.device);
        let (port_number, pid) = (port.port(), process.pid());
        tracing::info!(worker = %id, %model, %device, port = port_number, pid, "worker started");
        Ok(Run { process, port, machine })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
