//! Operations that the hive carries out which owns the worker or the model.

use std::time::Instant;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{Operation, WorkerSpawn};
use serde::Deserialize as _;
use worker_contract::{HiveAlias, ModelEntry, SupervisedWorker};

use super::Operations;
use super::unlisted::worker_of;
use crate::registry::Size;

impl Operations {
    pub(super) async fn forward(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> Result<Outcome, JobError> {
        debug_assert!(operation.should_forward_to_hive());
        let hive = operation.hive_id().cloned().unwrap_or_else(HiveAlias::localhost);
        let client = self.hives.get(&hive)?;
        let size = match &operation {
            Operation::WorkerSpawn(WorkerSpawn { slots, ctx_size, .. }) => {
                Some(Size { slots: *slots, ctx_size: *ctx_size })
            }
            _ => None,
        };
        let starts = match &operation {
            Operation::WorkerSpawn(spawn) => {
                Some((spawn.model.clone(), spawn.device, size.unwrap_or_default()))
            }
            Operation::WorkerRestart(target) => {
                let model = self.registry.model_of(&target.worker_id);
                model.map(|model| (model, None, Size::default()))
            }
            _ => None,
        };
        // Requests for the model wait for this worker instead of starting another one.
        let _mark = starts.map(|(model, device, size)| {
            self.registry.begin_spawn(&model, (&hive, device), size, &[])
        });
        if let Some(note) = self.comes_back(&operation) {
            job.warn(note);
        }
        let removes = matches!(operation, Operation::ModelDelete(_));
        let adds = matches!(
            operation,
            Operation::ModelDownload(_)
                | Operation::ModelImport(_)
                | Operation::ModelUpdate(_)
                | Operation::ModelAlias(_)
        );
        let worker = worker_of(&operation).map(|(_, worker)| worker.clone());
        let outcome = client.execute(operation, job.clone()).await;
        let outcome = outcome.map_err(|error| self.of_unlisted(worker.as_ref(), error))?;
        // Who has just added a model, or started a worker, wants to use it before the hive's next report.
        if let Ok(worker) = SupervisedWorker::deserialize(&outcome.data) {
            self.registry.started_by(&hive, &worker, Instant::now());
            if let Some(size) = size {
                self.registry.started_as(&worker.worker_id, size);
            }
        } else if let (false, Ok(model)) = (removes, ModelEntry::deserialize(&outcome.data)) {
            if let Some(note) = adds.then(|| self.other_files(&hive, &model)).flatten() {
                job.warn(note);
            }
            self.registry.catalogued(&hive, model);
        }
        Ok(outcome)
    }
}
