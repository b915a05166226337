//! Starting workers on demand: one start a model at a time, which all requests for it wait on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use job_server::{JobContext, JobError};
use rbee_operations::{Operation, WorkerSpawn};
use serde::Deserialize as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{DeviceId, HiveAlias, ModelAlias, SupervisedWorker};

use crate::hive_client::HiveClients;
use crate::registry::{Registry, SpawnMark};

/// Starts workers on demand. A clone is the same spawner.
#[derive(Debug, Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hives: HiveClients,
    registry: Registry,
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
        hives: HiveClients,
        registry: Registry,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let running = Mutex::default();
        Self { shared: Arc::new(Shared { hives, registry, running, tasks, stop }) }
    }

    /// Starts a worker, or joins the start that is under way for the model. It is seen through even
    /// if nobody waits for it any longer: the next request finds the worker.
    pub fn spawn(&self, model: &ModelAlias, hive: HiveAlias, device: Option<DeviceId>) -> Attempt {
        let mut running = self.running();
        if let Some(attempt) = running.get(model) {
            return attempt.clone();
        }
        let (sender, end) = watch::channel(None);
        let attempt = Attempt { end };
        running.insert(model.clone(), attempt.clone());
        let mark = self.shared.registry.begin_spawn(model);
        let spawn = WorkerSpawn {
            hive_id: hive,
            model: model.clone(),
            device,
            slots: None,
            ctx_size: None,
        };
        self.shared.tasks.spawn(self.clone().carry_out(spawn, mark, sender));
        attempt
    }

    /// The start that is under way for a model.
    #[must_use]
    pub fn under_way(&self, model: &ModelAlias) -> Option<Attempt> {
        self.running().get(model).cloned()
    }

    async fn carry_out(
        self,
        spawn: WorkerSpawn,
        mark: SpawnMark,
        sender: watch::Sender<Option<Result<(), JobError>>>,
    ) {
        let (model, hive) = (spawn.model.clone(), spawn.hive_id.clone());
        tracing::info!(%model, %hive, "starting a worker on demand");
        let result = self.ask(spawn).await;
        if let Err(error) = &result {
            tracing::warn!(%model, %hive, reason = %error, "a worker could not be started on demand");
        }
        // Whoever waits looks at the result before it looks for another start.
        sender.send_replace(Some(result));
        self.running().remove(&model);
        drop(mark);
    }

    async fn ask(&self, spawn: WorkerSpawn) -> Result<(), JobError> {
        let client = self.shared.hives.get(&spawn.hive_id)?;
        let hive = spawn.hive_id.clone();
        let operation = Operation::WorkerSpawn(spawn);
        let job = JobContext::silent(&operation, "local", self.shared.stop.child_token());
        let outcome = client.execute(operation, job).await?;
        // The hive's next report says the same a moment later.
        if let Ok(worker) = SupervisedWorker::deserialize(&outcome.data) {
            self.shared.registry.started_by(&hive, &worker);
        }
        Ok(())
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
