//! What the tasks of all workers share: the list of workers, and how to start one's process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reqwest::Client;
use tokio_util::sync::CancellationToken;
use worker_contract::{Restarts, SupervisedState, SupervisedWorker, WorkerId};

use super::command::{Surroundings, WorkerPlan};
use super::error::{StartError, UnknownWorker};
use super::ledger::{GivenUp, Ledger, LedgerEntry};
use super::log_file::LogFile;
use super::machine::{Machine, Patience};
use super::process::WorkerProcess;
use super::restart::RestartPolicy;
use super::token::WorkerTokens;
use super::watch::Run;
use crate::changes::Changes;
use crate::ports::PortPool;

/// How many workers that failed stay on the list.
const KEPT_FAILURES: usize = 20;
/// How many processes of a worker are remembered that requests have ended: more than end within the time in which
/// failures count, as the pauses between them grow.
const KEPT_EXCUSED: usize = 256;

/// What the tasks of all workers share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) surroundings: Surroundings,
    pub(super) ports: PortPool,
    pub(super) logs: PathBuf,
    pub(super) ledger: Ledger,
    pub(super) tokens: WorkerTokens,
    pub(super) patience: Patience,
    pub(super) restart_policy: RestartPolicy,
    pub(super) client: Client,
    pub(super) changes: Changes,
    /// Ends all workers.
    pub(super) stop: CancellationToken,
    /// Ends all watching and no worker.
    pub(super) leave: CancellationToken,
    /// How often a worker was started again since this hive began.
    pub(super) restarts: AtomicU64,
    pub(super) workers: Mutex<BTreeMap<WorkerId, Listed>>,
    pub(super) next_number: AtomicU64,
}

/// A worker as others see it; its task has the other end.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) plan: Option<WorkerPlan>,
    pub(super) state: tokio::sync::watch::Receiver<SupervisedWorker>,
    pub(super) stop: CancellationToken,
    /// Its processes that requests have ended, as the queen says.
    pub(super) excused: Vec<u32>,
}

/// What was before a process of a worker. All of it is new where nothing was.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Whether the worker has ever been ready.
    pub(super) was_ready: bool,
    /// When its processes failed, as the ledger counts.
    pub(super) failures: Vec<u64>,
    pub(super) restarts: Option<Restarts>,
}

impl Context {
    /// Starts a process for the plan on a free port.
    pub(super) fn launch(
        &self,
        plan: &WorkerPlan,
        id: &WorkerId,
        log: &LogFile,
        past: Past,
    ) -> Result<Run, StartError> {
        let port = self.ports.lease()?;
        let arguments = self.surroundings.arguments(plan, id, port.port());
        let (output, log_start) = log.open().map_err(StartError::Log)?;
        let token = self.tokens.make();
        let variables = self.surroundings.variables(plan);
        let process = WorkerProcess::start(&plan.binary, &arguments, &token, variables, &output)
            .map_err(StartError::Process)?;
        // Where a path is no text it cannot be written down, and the rest must be.
        self.ledger.add(LedgerEntry {
            worker_id: id.clone(),
            pid: process.pid(),
            start_time: process.start_time(),
            port: port.port(),
            model: plan.model.clone(),
            device: plan.device,
            address: self.surroundings.address(port.port()),
            started_at: unix_now(),
            token: Some(token),
            was_ready: past.was_ready,
            failures: past.failures,
            restarts: past.restarts,
            plan: plan.is_text().then(|| plan.clone()),
        });
        let machine = Machine::new(self.patience, Instant::now());
        let (model, device) = (&plan.model, plan.device);
        let (port_number, pid) = (port.port(), process.pid());
        tracing::info!(worker = %id, %model, %device, port = port_number, pid, "worker started");
        Ok(Run { process, port, machine, log_start })
    }

    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn list(
        &self,
        id: &WorkerId,
        plan: Option<WorkerPlan>,
        state: tokio::sync::watch::Receiver<SupervisedWorker>,
    ) -> CancellationToken {
        let stop = self.stop.child_token();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { number, plan, state, stop: stop.clone(), excused: Vec::new() };
        self.workers().insert(id.clone(), listed);
        self.changes.note();
        stop
    }

    /// Lists a worker that an earlier hive has given up.
    pub(super) fn list_given_up(&self, failed: GivenUp) {
        let GivenUp { worker, plan } = failed;
        let id = worker.worker_id.clone();
        tracing::info!(worker = %id, "worker stays given up");
        // Nobody has the other end, as after the task of a worker has ended.
        let (_, state) = tokio::sync::watch::channel(worker);
        self.list(&id, plan, state);
    }

    pub(super) fn find(&self, id: &WorkerId) -> Result<Listed, UnknownWorker> {
        self.workers().get(id).cloned().ok_or_else(|| UnknownWorker(id.clone()))
    }

    /// Remembers processes of a worker that requests have ended. Its task looks at them when it decides.
    pub(super) fn excuse(&self, id: &WorkerId, processes: &[u32]) -> Result<(), UnknownWorker> {
        let mut workers = self.workers();
        let listed = workers.get_mut(id).ok_or_else(|| UnknownWorker(id.clone()))?;
        listed.excused.extend(processes);
        let surplus = listed.excused.len().saturating_sub(KEPT_EXCUSED);
        listed.excused.drain(..surplus);
        Ok(())
    }

    /// The processes of a worker that requests have ended.
    pub(super) fn excused(&self, id: &WorkerId) -> Vec<u32> {
        self.workers().get(id).map(|listed| listed.excused.clone()).unwrap_or_default()
    }

    pub(super) fn forget(&self, id: &WorkerId) {
        self.workers().remove(id);
        self.ledger.forget(id);
        self.changes.note();
    }

    pub(super) fn forget_oldest_failures(&self) {
        let mut workers = self.workers();
        let mut failed: Vec<(u64, WorkerId)> = workers
            .iter()
            .filter(|(_, listed)| {
                matches!(listed.state.borrow().state, SupervisedState::Failed { .. })
            })
            .map(|(id, listed)| (listed.number, id.clone()))
            .collect();
        failed.sort();
        let surplus = failed.len().saturating_sub(KEPT_FAILURES);
        for (_, id) in failed.into_iter().take(surplus) {
            workers.remove(&id);
            self.ledger.forget(&id);
        }
    }

    pub(super) fn workers(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Listed>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
