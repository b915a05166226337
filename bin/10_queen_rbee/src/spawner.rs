//! Starting workers on demand: one start a model at a time, which all requests for it wait on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{Operation, WorkerSpawn, WorkerTarget};
use serde::Deserialize as _;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{HiveAlias, ModelAlias, SupervisedWorker, WorkerId};

use crate::clock;
use crate::hive_client::FindHive;
use crate::policy::Policies;
use crate::registry::{Liveness, Registry, SpawnMark};
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

/// A start that is under way or has ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    end: watch::Receiver<Option<Result<(), JobError>>>,
}

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
            return Some(attempt.clone());
        }
        if !self.shared.registry.retire_all(&spawn.evict, clock::now()) {
            return None;
        }
        let (sender, end) = watch::channel(None);
        let attempt = Attempt { end };
        running.insert(model.clone(), attempt.clone());
        let registry = &self.shared.registry;
        let site = spawn.device.map(|device| (&spawn.hive, device));
        let mark = registry.begin_spawn(model, site, &spawn.evict);
        self.shared.tasks.spawn(self.clone().carry_out(model.clone(), spawn.clone(), mark, sender));
        Some(attempt)
    }

    async fn carry_out(
        self,
        model: ModelAlias,
        spawn: Spawn,
        mark: SpawnMark,
        sender: watch::Sender<Option<Result<(), JobError>>>,
    ) {
        tracing::info!(%model, hive = %spawn.hive, why = %spawn, "starting a worker on demand");
        let result = self.make_room_and_start(&model, &spawn).await;
        if let Err(error) = &result {
            let hive = &spawn.hive;
            tracing::warn!(%model, %hive, reason = %error, "a worker could not be started on demand");
        }
        // Whoever waits looks at the result before it looks for another start.
        sender.send_replace(Some(result));
        self.running().remove(&model);
        drop(mark);
    }

    /// Ends what is to make room, then starts the worker.
    async fn make_room_and_start(&self, model: &ModelAlias, spawn: &Spawn) -> Result<(), JobError> {
        for worker in &spawn.evict {
            if let Err(error) = self.end(&spawn.hive, worker).await {
                spawn.evict.iter().for_each(|id| self.shared.registry.worker_stays(id));
                return Err(error);
            }
        }
        let policy = self.shared.policies.of(model);
        let operation = Operation::WorkerSpawn(WorkerSpawn {
            hive_id: spawn.hive.clone(),
            model: model.clone(),
            device: spawn.device,
            slots: policy.slots,
            ctx_size: policy.ctx_size,
        });
        let outcome = self.ask(&spawn.hive, operation).await?;
        // The hive's next report says the same a moment later.
        if let Ok(worker) = SupervisedWorker::deserialize(&outcome.data) {
            self.shared.registry.started_by(&spawn.hive, &worker, clock::now());
        }
        Ok(())
    }

    /// Ends a worker: it finishes what it runs. One that its hive does not know has ended.
    pub async fn end(&self, hive: &HiveAlias, worker: &WorkerId) -> Result<(), JobError> {
        let target = WorkerTarget { hive_id: hive.clone(), worker_id: worker.clone() };
        match self.ask(hive, Operation::WorkerDelete(target)).await {
            Err(error) if error.code != "worker_not_found" => Err(error),
            _ => Ok(()),
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

impl Attempt {
    /// Waits for the end. Dropping the returned future loses nothing.
    pub async fn ended(&mut self) -> Result<(), JobError> {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(JobError::new("interrupted", "the start of a worker was interrupted")),
        }
    }
}
