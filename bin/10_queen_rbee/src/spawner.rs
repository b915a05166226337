//! Starting workers on demand: one start a model at a time, which all requests for it wait on.
//!
//! Before anybody is ended to make room, and where it is not known what a model takes and that matters,
//! the hive is asked: it knows exactly. Its word is remembered in the registry, and decided upon again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{
    FitReport, Operation, WorkerExcuse, WorkerFit, WorkerSpawn, WorkerTarget, is_want_of_memory,
};
use serde::Deserialize as _;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{HiveAlias, ModelAlias, SupervisedWorker, WorkerId};

use crate::clock;
use crate::hive_client::FindHive;
use crate::policy::Policies;
use crate::registry::{Liveness, Question, Registry, Size, SpawnMark, Trial, WorkerProcess};
use crate::scheduler::Spawn;

/// How often it is looked whether a hive that was asked for something still reports.
const LOOK: Duration = Duration::from_millis(500);

/// Starts workers on demand. A clone is the same spawner.
#[derive(Debug, Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hives: Arc<dyn FindHive>,
    registry: Registry,
    policies: Policies,
    running: Mutex<HashMap<ModelAlias, Attempt>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What is started, where, and how large.
#[derive(Debug)]
struct Start {
    model: ModelAlias,
    spawn: Arc<Spawn>,
    size: Size,
    /// `None` where its hive has no such model.
    trial: Option<Trial>,
}

/// A start that is under way or has ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Whether it is the one that was begun, and not joined.
    pub is_first: bool,
    /// Where it was begun: for one that is joined, perhaps elsewhere than it would be now.
    pub spawn: Arc<Spawn>,
    end: watch::Receiver<Option<Result<Begun, JobError>>>,
}

/// What has come of a start that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// A worker.
    Worker,
    /// Its hive's word on what the model takes: where a worker is started has to be decided again.
    Word,
}

/// What a hive answers that has no worker of that name.
pub(crate) const WORKER_NOT_FOUND: &str = "worker_not_found";
/// What a hive of an earlier version answers to a question that it does not know.
const UNKNOWN_QUESTION: &str = "invalid_type";

impl Spawner {
    /// A spawner that asks `hives` and tells `registry` of the result. `stop` ends what it does.
    #[must_use]
    pub fn new(
        hives: Arc<dyn FindHive>,
        registry: Registry,
        policies: Policies,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let running = Mutex::default();
        Self { shared: Arc::new(Shared { hives, registry, policies, running, tasks, stop }) }
    }

    /// Starts a worker, or joins the start that is under way for the model. It is seen through even
    /// if nobody waits for it any longer: the next request finds the worker. `None` where a worker that
    /// is to make room has requests.
    pub fn spawn(&self, model: &ModelAlias, spawn: &Spawn) -> Option<Attempt> {
        let mut running = self.running();
        if let Some(attempt) = running.get(model) {
            return Some(Attempt { is_first: false, ..attempt.clone() });
        }
        let evict = if spawn.asks { &[][..] } else { &spawn.evict };
        if !self.shared.registry.retire_all(evict, clock::now()) {
            return None;
        }
        let (sender, end) = watch::channel(None);
        let attempt = Attempt { is_first: true, spawn: Arc::new(spawn.clone()), end };
        running.insert(model.clone(), attempt.clone());
        let size = Size::of(&self.shared.policies.of(model));
        let registry = &self.shared.registry;
        let device = spawn.device.filter(|_| !spawn.asks);
        let mark = registry.begin_spawn(model, (&spawn.hive, device), size, evict);
        let trial = registry.trial(model, spawn, size);
        let start = Start { model: model.clone(), spawn: Arc::clone(&attempt.spawn), size, trial };
        self.shared.tasks.spawn(self.clone().carry_out(start, mark, sender));
        Some(attempt)
    }

    /// That the queen's own hive is missing, and why.
    #[must_use]
    pub fn missing_hive(&self) -> Option<String> {
        self.shared.hives.missing()
    }

    async fn carry_out(
        self,
        start: Start,
        mark: SpawnMark,
        sender: watch::Sender<Option<Result<Begun, JobError>>>,
    ) {
        let Start { model, spawn, size, .. } = &start;
        let question = self.shared.registry.question(model, spawn, *size);
        let result = if spawn.asks {
            let told = self.ask_for_room(&start, question.as_ref(), &spawn.evict).await;
            told.map(|_| Begun::Word).inspect_err(|error| self.has_failed(&start, error))
        } else {
            tracing::info!(%model, hive = %spawn.hive, why = %spawn, "starting a worker on demand");
            self.make_room_and_start(&start, question.as_ref()).await
        };
        if let Err(error) = &result {
            let hive = &spawn.hive;
            let reason = error.message.as_str();
            tracing::warn!(%model, %hive, reason, "a worker could not be started on demand");
        }
        // Whoever waits looks at the result before it looks for another start.
        sender.send_replace(Some(result));
        self.running().remove(model);
        drop(mark);
    }

    /// Ends what is to make room, then starts the worker.
    async fn make_room_and_start(
        &self,
        start: &Start,
        question: Option<&Question>,
    ) -> Result<Begun, JobError> {
        let spawn = &start.spawn;
        for worker in &spawn.evict {
            if let Err(error) = self.end(&spawn.hive, worker).await {
                spawn.evict.iter().for_each(|id| self.shared.registry.worker_stays(id));
                return Err(error);
            }
        }
        let (operation, began) = (Operation::WorkerSpawn(started_with(start)), clock::now());
        match self.ask(&spawn.hive, operation).await {
            Ok(outcome) => {
                // The hive's next report says the same a moment later.
                if let Ok(worker) = SupervisedWorker::deserialize(&outcome.data) {
                    let (registry, now) = (&self.shared.registry, clock::now());
                    let took = now.saturating_duration_since(began);
                    registry.turn_begins(&worker.worker_id, took, now);
                    registry.started_by(&spawn.hive, &worker, now);
                    registry.started_as(&worker.worker_id, start.size);
                }
                Ok(Begun::Worker)
            }
            Err(error) => {
                if let Some(question) = question.filter(|_| is_want_of_memory(&error.code)) {
                    return self.has_no_room(start, question, error).await;
                }
                self.has_failed(start, &error);
                Err(error)
            }
        }
    }

    /// A start has failed, though perhaps not for want of memory: then it is remembered where.
    fn has_failed(&self, start: &Start, error: &JobError) {
        if let Some(trial) = &start.trial {
            self.shared.registry.start_failed(trial, error, clock::now());
        }
    }

    /// A hive has refused a worker for want of memory. Where it was only guessed how much that takes, the
    /// hive knows, and others may make room; else it is not asked again for a while.
    async fn has_no_room(
        &self,
        start: &Start,
        question: &Question,
        refused: JobError,
    ) -> Result<Begun, JobError> {
        let registry = &self.shared.registry;
        if !registry.knows_need(question)
            && self.ask_for_room(start, Some(question), &[]).await?.needs.is_some()
        {
            return Ok(Begun::Word);
        }
        registry.memory_refused(question, &refused, clock::now());
        Err(refused)
    }

    /// Asks a hive whether there would be room for a worker when some had ended, and remembers what it
    /// says.
    async fn ask_for_room(
        &self,
        start: &Start,
        question: Option<&Question>,
        without: &[WorkerId],
    ) -> Result<FitReport, JobError> {
        let asked = WorkerFit { start: started_with(start), without: without.to_vec() };
        let operation = Operation::WorkerFit(asked);
        let report = match self.ask(&start.spawn.hive, operation).await {
            Ok(outcome) => {
                FitReport::deserialize(&outcome.data).unwrap_or_else(|_| FitReport::unknown())
            }
            Err(error) if error.code == UNKNOWN_QUESTION => FitReport::unknown(),
            Err(error) => return Err(error),
        };
        if let Some(question) = question {
            self.shared.registry.fit_told(question, without, &report, clock::now());
        }
        Ok(report)
    }

    /// Ends a worker: it finishes what it runs. One that its hive does not know has ended, unless it reports again.
    pub async fn end(&self, hive: &HiveAlias, worker: &WorkerId) -> Result<(), JobError> {
        let target = WorkerTarget { hive_id: hive.clone(), worker_id: worker.clone() };
        match self.ask(hive, Operation::WorkerDelete(target)).await {
            Err(error) if error.code == WORKER_NOT_FOUND => {
                self.shared.registry.unknown_to(hive, worker);
                Ok(())
            }
            ended => ended.map(drop),
        }
    }

    /// Tells hives which processes of their workers a request has ended, so that they do not give the workers up for
    /// it. Nobody waits for that: a hive that cannot be told, or of an earlier version, counts them.
    pub fn excuse(&self, processes: &[WorkerProcess]) {
        let mut of_workers = BTreeMap::<_, Vec<u32>>::new();
        for WorkerProcess { hive, worker, pid } in processes {
            of_workers.entry((hive, worker)).or_default().push(*pid);
        }
        for ((hive, worker), processes) in of_workers {
            let (hive_id, worker_id) = (hive.clone(), worker.clone());
            let excuse = WorkerExcuse { hive_id, worker_id, processes };
            self.shared.tasks.spawn(self.clone().tell_excuse(excuse));
        }
    }

    async fn tell_excuse(self, excuse: WorkerExcuse) {
        let (hive, worker) = (excuse.hive_id.clone(), excuse.worker_id.clone());
        if let Err(error) = self.ask(&hive, Operation::WorkerExcuse(excuse)).await {
            let reason = error.message.as_str();
            tracing::warn!(%hive, %worker, reason, "a hive holds against a worker what a request has ended");
        }
    }

    async fn ask(&self, hive: &HiveAlias, operation: Operation) -> Result<Outcome, JobError> {
        let client = self.shared.hives.find(hive)?;
        let job = JobContext::silent(&operation, "local", self.shared.stop.child_token());
        // A connection to a machine that has lost its power stays open for long, and another hive could
        // do it meanwhile.
        tokio::select! {
            biased;
            outcome = client.execute(operation, job) => outcome,
            () = self.is_gone(hive) => Err(JobError::new(
                "hive_gone",
                format!("hive {hive} was asked for a worker and reports no longer"),
            )),
        }
    }

    /// Waits until a hive is known to be gone, or is forgotten that has reported.
    async fn is_gone(&self, hive: &HiveAlias) {
        let registry = &self.shared.registry;
        let mut has_reported = false;
        loop {
            let heard = registry.hive_heard(hive, clock::now());
            let liveness = heard.map(|(_, liveness)| liveness);
            if liveness == Some(Liveness::Gone) || (has_reported && liveness.is_none()) {
                return;
            }
            has_reported |= liveness.is_some();
            sleep(LOOK).await;
        }
    }

    /// How many starts are under way.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        self.running().len()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ModelAlias, Attempt>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker is started with.
fn started_with(Start { model, spawn, size, .. }: &Start) -> WorkerSpawn {
    WorkerSpawn {
        hive_id: spawn.hive.clone(),
        model: model.clone(),
        device: spawn.device,
        slots: size.slots,
        ctx_size: size.ctx_size,
    }
}

impl Attempt {
    /// Waits for the end. Dropping the returned future loses nothing.
    pub async fn ended(&mut self) -> Result<Begun, JobError> {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(Begun::Worker)),
            Err(_) => Err(JobError::new("interrupted", "the start of a worker was interrupted")),
        }
    }
}
