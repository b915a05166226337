#![doc = include_str!("README.md")]

mod adopt;
mod command;
mod context;
mod error;
mod failure;
mod health;
mod holdings;
mod ledger;
mod log_file;
mod log_reader;
mod machine;
mod process;
mod restart;
mod restarting;
mod started;
mod token;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{
    DeviceId, MemoryNeed, ModelAlias, SupervisedState, SupervisedWorker, WorkerId,
};

use self::context::{Context, Listed, Past, unix_now};
use self::ledger::Ledger;
use self::log_file::LogFile;
use self::machine::Patience;
use self::restart::RestartPolicy;
use self::restarting::{Marks, Restarting};
use self::token::WorkerTokens;
use self::watch::Watch;
use crate::catalog::ModelUsage;
use crate::changes::Changes;
use crate::device::Reservations;
use crate::ports::PortPool;

pub(crate) use self::command::{PlannedProjector, Surroundings, WorkerPlan};
pub(crate) use self::error::{NoRestart, SetupError, StartError, UnknownWorker};
pub(crate) use self::failure::first_line;
pub(crate) use self::holdings::{Holder, Holdings};
pub(crate) use self::log_reader::LogReader;
pub(crate) use self::started::{Stage, Started};

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
    /// The folder of what the next hive finds the workers by.
    pub(crate) run: PathBuf,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_grace: Duration,
    /// How long a ready worker may be silent.
    pub(crate) silence: Duration,
    /// The failure within `failure_window` that is one too many.
    pub(crate) max_failures: usize,
    pub(crate) failure_window: Duration,
    pub(crate) changes: Changes,
}

/// The workers of one hive.
#[derive(Debug)]
pub(crate) struct Supervisor {
    context: Arc<Context>,
    tracker: TaskTracker,
    restarting: Marks,
}

impl Supervisor {
    /// An idle supervisor with the workers that an earlier one left running.
    pub(crate) async fn start(
        setup: Setup,
        usage: &ModelUsage,
        reservations: &Reservations,
    ) -> Result<Self, SetupError> {
        let tokens = WorkerTokens::open(&setup.run.join("worker-tokens"));
        let (ledger, left) = Ledger::open(setup.run.join("workers.json"));
        let patience = Patience {
            start: setup.start_timeout,
            stop: setup.stop_grace,
            stop_unready: STOP_UNREADY.min(setup.stop_grace),
            last_words: LAST_WORDS,
            silence: setup.silence,
        };
        let context = Arc::new(Context {
            surroundings: setup.surroundings,
            ports: setup.ports,
            logs: setup.logs,
            ledger,
            tokens: tokens.map_err(SetupError::Tokens)?,
            patience,
            restart_policy: RestartPolicy {
                max_failures: setup.max_failures,
                window: setup.failure_window,
            },
            client: health::client().map_err(SetupError::Client)?,
            changes: setup.changes,
            stop: CancellationToken::new(),
            leave: CancellationToken::new(),
            restarts: AtomicU64::new(0),
            workers: Mutex::default(),
            next_number: AtomicU64::new(0),
        });
        let restarting = Marks::default();
        let supervisor = Self { context, tracker: TaskTracker::new(), restarting };
        left.given_up.into_iter().for_each(|failed| supervisor.context.list_given_up(failed));
        supervisor.adopt(left.running, usage, reservations).await;
        for paused in left.waiting {
            supervisor.await_its_turn(paused, usage, reservations);
        }
        Ok(supervisor)
    }

    /// Starts a worker. It is on the list at once; [`Started`] tells when it is ready.
    ///
    /// Refused where the same model on the same device has failed too often: whoever asks for workers
    /// on demand would else go on where the supervision gave up.
    pub(crate) fn spawn(&self, plan: WorkerPlan, held: Holdings) -> Result<Started, StartError> {
        let is_the_same = |worker: &SupervisedWorker| {
            worker.is_given_up() && worker.model == plan.model && worker.device == plan.device
        };
        if let Some(worker) = self.list().into_iter().find(is_the_same)
            && let SupervisedState::Failed { reason } = worker.state
        {
            let SupervisedWorker { worker_id: worker, model, device, .. } = worker;
            return Err(StartError::GivenUp { worker, model, device, reason });
        }
        self.start_as(WorkerId::random(), plan, held)
    }

    /// Keeps others from restarting the worker, and gives the plan to start it by.
    pub(crate) fn restarting(&self, id: &WorkerId) -> Result<Restarting, NoRestart> {
        let plan = self.context.find(id)?.plan.ok_or_else(|| NoRestart::NoPlan(id.clone()))?;
        self.restarting.mark(id, plan).ok_or_else(|| NoRestart::Busy(id.clone()))
    }

    /// Starts a worker again that was [taken off the list](Self::delete), with nothing held against it.
    pub(crate) fn start_again(
        &self,
        restarting: &Restarting,
        plan: WorkerPlan,
        held: Holdings,
    ) -> Result<Started, StartError> {
        self.start_as(restarting.worker.clone(), plan, held)
    }

    fn start_as(
        &self,
        id: WorkerId,
        plan: WorkerPlan,
        held: Holdings,
    ) -> Result<Started, StartError> {
        // While the token exists, `stop_all` waits: a worker cannot slip in behind it.
        let _open = self.tracker.token();
        let context = &self.context;
        if context.stop.is_cancelled() || context.leave.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let listed: Vec<String> = context.workers().keys().map(ToString::to_string).collect();
        let is_listed = |worker: &str| listed.iter().any(|id| id == worker);
        if let Err(error) = log_file::forget_old(&context.logs, is_listed) {
            tracing::debug!(%error, "old worker logs cannot be removed");
        }
        let run = context.launch(&plan, &id, &LogFile::of(&context.logs, &id), Past::default())?;
        held.being_taken();
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
            restarts: None,
            memory_bytes: plan.memory_bytes(),
        };
        let (state, seen) = tokio::sync::watch::channel(worker);
        let stop = context.list(&id, Some(plan.clone()), seen.clone());
        let watch = Watch::new(Arc::clone(context), id, Some(plan), held, state, stop.clone());
        self.tracker.spawn(watch.run(run));
        Ok(Started::new(seen, stop))
    }

    /// Those arguments of a planned worker that its memory depends on.
    pub(crate) fn fit_arguments(&self, plan: &WorkerPlan) -> Vec<std::ffi::OsString> {
        self.context.surroundings.fit_arguments(plan)
    }

    /// How a worker was started; `None` where nobody knows.
    pub(crate) fn plan_of(&self, id: &WorkerId) -> Option<WorkerPlan> {
        self.context.find(id).ok()?.plan
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

    /// What a worker has written; of one that is off the list as long as its log is kept.
    pub(crate) fn log(&self, id: &WorkerId) -> Result<LogReader, UnknownWorker> {
        let log = LogFile::of(&self.context.logs, id);
        if !log.path().exists() {
            return Err(UnknownWorker(id.clone()));
        }
        Ok(LogReader::new(log))
    }

    /// The workers that have, or are promised, memory of a device.
    pub(crate) fn holders(&self, device: DeviceId) -> Vec<Holder> {
        let holder = |listed: &Listed| {
            let worker = listed.state.borrow();
            let is_over = matches!(worker.state, SupervisedState::Failed { .. });
            let plan = listed.plan.as_ref().filter(|_| !is_over)?;
            let needs = plan.memory.iter().filter(|need| need.device == device);
            let bytes = needs.map(MemoryNeed::total_bytes).sum();
            let (worker, model) = (worker.worker_id.clone(), worker.model.clone());
            (bytes > 0).then_some(Holder { worker, model, bytes })
        };
        self.context.workers().values().filter_map(holder).collect()
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

    /// Does not count the ends of these processes of a worker towards giving it up.
    pub(crate) fn excuse(&self, id: &WorkerId, processes: &[u32]) -> Result<(), UnknownWorker> {
        self.context.excuse(id, processes)
    }

    /// How often workers were started again since this hive began.
    pub(crate) fn restarts(&self) -> u64 {
        self.context.restarts.load(Ordering::Relaxed)
    }

    /// Ends the watching and no worker, and lets no other start: the next hive adopts them.
    pub(crate) async fn leave_all(&self) {
        self.context.leave.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Stops all workers at once and lets no other start; done when the last process is gone, which
    /// takes no longer than the grace.
    pub(crate) async fn stop_all(&self) {
        self.context.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
