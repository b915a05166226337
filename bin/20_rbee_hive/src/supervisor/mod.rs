#![doc = include_str!("README.md")]

mod adopt;
mod command;
mod failure;
mod health;
mod ledger;
mod log_file;
mod machine;
mod process;
mod started;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{ModelAlias, SupervisedState, SupervisedWorker, WorkerId};

use self::ledger::Ledger;
use self::log_file::LogFile;
use self::machine::Patience;
use self::watch::Watch;
use crate::catalog::{InUse, ModelUsage};
use crate::changes::Changes;
use crate::ports::{NoFreePort, PortPool};

pub(crate) use self::command::{Surroundings, WorkerPlan};
pub(crate) use self::started::{Stage, Started};

/// How many workers that failed stay on the list.
const KEPT_FAILURES: usize = 20;
/// How long a worker that was never ready has to end.
const STOP_UNREADY: Duration = Duration::from_secs(1);
/// How long a worker that said that it failed has to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a supervisor is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) surroundings: Surroundings,
    pub(crate) ports: PortPool,
    /// The folder of the workers' logs.
    pub(crate) logs: PathBuf,
    /// The list of processes for the next hive.
    pub(crate) ledger: PathBuf,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) changes: Changes,
}

/// The workers of one hive.
#[derive(Debug)]
pub(crate) struct Supervisor {
    context: Arc<Context>,
    tracker: TaskTracker,
}

/// What the tasks of all workers share.
#[derive(Debug)]
struct Context {
    surroundings: Surroundings,
    ports: PortPool,
    logs: PathBuf,
    ledger: Ledger,
    patience: Patience,
    client: Client,
    changes: Changes,
    /// Ends all workers.
    stop: CancellationToken,
    workers: Mutex<BTreeMap<WorkerId, Listed>>,
    next_number: AtomicU64,
}

/// A worker as others see it; its task has the other end.
#[derive(Debug, Clone)]
struct Listed {
    number: u64,
    state: tokio::sync::watch::Receiver<SupervisedWorker>,
    stop: CancellationToken,
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The hive ends.
    #[error("the hive is stopping")]
    Stopping,
    /// No port is left.
    #[error(transparent)]
    Ports(#[from] NoFreePort),
    /// Its log file cannot be made.
    #[error("the worker's log file cannot be written")]
    Log(#[source] io::Error),
    /// The system refused the process.
    #[error("the worker's process cannot be started")]
    Process(#[source] io::Error),
}

/// There is no such worker.
#[derive(Debug, thiserror::Error)]
#[error("there is no worker {0} on this hive")]
pub(crate) struct UnknownWorker(pub(crate) WorkerId);

impl Supervisor {
    /// An idle supervisor with the workers that an earlier one left running.
    pub(crate) async fn start(setup: Setup, usage: &ModelUsage) -> reqwest::Result<Self> {
        let (ledger, left) = Ledger::open(setup.ledger);
        let patience = Patience {
            start: setup.start_timeout,
            stop: setup.stop_grace,
            stop_unready: STOP_UNREADY.min(setup.stop_grace),
            last_words: LAST_WORDS,
        };
        let context = Arc::new(Context {
            surroundings: setup.surroundings,
            ports: setup.ports,
            logs: setup.logs,
            ledger,
            patience,
            client: health::client()?,
            changes: setup.changes,
            stop: CancellationToken::new(),
            workers: Mutex::default(),
            next_number: AtomicU64::new(0),
        });
        let supervisor = Self { context, tracker: TaskTracker::new() };
        supervisor.adopt(left, usage).await;
        Ok(supervisor)
    }

    /// Starts a worker. It is on the list at once; [`Started`] tells when it is ready.
    pub(crate) fn spawn(&self, plan: WorkerPlan, model: InUse) -> Result<Started, StartError> {
        // While the token exists, `stop_all` waits: a worker cannot slip in behind it.
        let _open = self.tracker.token();
        let context = &self.context;
        if context.stop.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let listed: Vec<String> = context.workers().keys().map(ToString::to_string).collect();
        let is_listed = |worker: &str| listed.iter().any(|id| id == worker);
        if let Err(error) = log_file::forget_old(&context.logs, is_listed) {
            tracing::debug!(%error, "old worker logs cannot be removed");
        }
        let id = WorkerId::random();
        let log = LogFile::of(&context.logs, &id);
        let run = context.launch(&plan, &id, &log)?;
        let worker = SupervisedWorker {
            worker_id: id.clone(),
            hive_id: context.surroundings.hive_id.clone(),
            model: plan.model.clone(),
            device: plan.device,
            address: context.surroundings.address(run.port.port()),
            port: run.port.port(),
            pid: run.process.pid(),
            started_at: unix_now(),
            state: run.machine.state(),
        };
        let (state, seen) = tokio::sync::watch::channel(worker);
        let stop = context.list(&id, seen.clone());
        let watch = Watch {
            context: Arc::clone(context),
            id,
            plan: Some(plan),
            log,
            state,
            stop: stop.clone(),
            model_in_use: Some(model),
        };
        self.tracker.spawn(watch.run(run));
        Ok(Started::new(seen, stop))
    }

    /// All workers, those that failed included, in the order of their start.
    pub(crate) fn list(&self) -> Vec<SupervisedWorker> {
        let mut listed: Vec<Listed> = self.context.workers().values().cloned().collect();
        listed.sort_by_key(|listed| listed.number);
        listed.iter().map(|listed| listed.state.borrow().clone()).collect()
    }

    /// One worker.
    pub(crate) fn get(&self, id: &WorkerId) -> Result<SupervisedWorker, UnknownWorker> {
        self.context.find(id).map(|listed| listed.state.borrow().clone())
    }

    /// The workers that have a process with this model.
    pub(crate) fn users_of(&self, model: &ModelAlias) -> Vec<WorkerId> {
        let uses = |worker: &SupervisedWorker| {
            worker.model == *model && !matches!(worker.state, SupervisedState::Failed { .. })
        };
        self.list().into_iter().filter(uses).map(|worker| worker.worker_id).collect()
    }

    /// Stops a worker and takes it off the list, in whatever state it is; done when its process is
    /// gone. Goes on when the caller does not wait for it.
    pub(crate) async fn delete(&self, id: &WorkerId) -> Result<(), UnknownWorker> {
        let mut listed = self.context.find(id)?;
        listed.stop.cancel();
        while listed.state.changed().await.is_ok() {}
        self.context.forget(id);
        Ok(())
    }

    /// Stops all workers at once and lets no other start; done when the last process is gone, which
    /// takes no longer than the grace.
    pub(crate) async fn stop_all(&self) {
        self.context.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Context {
    fn list(
        &self,
        id: &WorkerId,
        state: tokio::sync::watch::Receiver<SupervisedWorker>,
    ) -> CancellationToken {
        let stop = self.stop.child_token();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        self.workers().insert(id.clone(), Listed { number, state, stop: stop.clone() });
        self.changes.note();
        stop
    }

    fn find(&self, id: &WorkerId) -> Result<Listed, UnknownWorker> {
        self.workers().get(id).cloned().ok_or_else(|| UnknownWorker(id.clone()))
    }

    fn forget(&self, id: &WorkerId) {
        self.workers().remove(id);
        self.changes.note();
    }

    fn forget_oldest_failures(&self) {
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
        }
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Listed>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
