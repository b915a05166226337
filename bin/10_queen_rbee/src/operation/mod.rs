//! The three paths of an operation: carried out by the queen herself, by the hive that it concerns,
//! or as inference.

mod attached;
mod forward;
mod hive_inventory;
mod hive_lifecycle;
mod hive_logs;
#[cfg(not(feature = "local-hive"))]
mod hive_process;
mod infer;
mod list_all;
mod model_copy;
mod model_policy;
mod notes;
mod unlisted;

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, Outcome};
use rbee_operations::{Operation, WorkerSpawn};

use crate::attached::Servers;
use crate::hive_client::HiveClients;
use crate::inventory::Inventory;
use crate::keyring::Keyring;
use crate::policy::Policies;
use crate::registry::Registry;
use crate::relay::Relay;
use crate::remote_hive::RemoteHives;

#[cfg(not(feature = "local-hive"))]
pub(crate) use self::hive_process::HiveProcess;

/// Carries out the operations of all jobs. A clone shares its parts.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    pub(crate) relay: Relay,
    pub(crate) registry: Registry,
    pub(crate) policies: Policies,
    pub(crate) hives: HiveClients,
    pub(crate) http: reqwest::Client,
    pub(crate) remote: RemoteHives,
    pub(crate) inventory: Inventory,
    pub(crate) keyring: Keyring,
    pub(crate) servers: Servers,
    /// Where the logs of this machine's daemons are.
    pub(crate) logs: PathBuf,
    pub(crate) request_timeout: Duration,
    #[cfg(not(feature = "local-hive"))]
    pub(crate) hive_process: HiveProcess,
}

impl Executor for Operations {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let parts = self.clone();
        Box::pin(async move { parts.route(operation, job).await })
    }

    /// An answer is one, whether it is given over HTTP or as a job.
    fn drains(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::Infer(_))
    }

    fn only_looks(&self, operation: &Operation) -> bool {
        operation.only_looks()
    }

    fn after_interruption(&self, operation: &Operation) -> Option<String> {
        self.hives.after_end(operation)
    }
}

impl Operations {
    async fn route(&self, operation: Operation, job: JobContext) -> Result<Outcome, JobError> {
        if let Some(answer) = self.of_attached_worker(&operation) {
            return answer;
        }
        if operation.should_forward_to_hive() && !matches!(operation, Operation::WorkerList(_)) {
            self.refuse_server(&operation)?;
        }
        match operation {
            Operation::HiveList {} => Ok(self.hive_list().await),
            Operation::HiveStart(target) => self.hive_start(&target.hive_id, &job).await,
            Operation::HiveStop(target) => self.hive_stop(&target.hive_id, &job).await,
            Operation::HiveRestart(target) => self.hive_restart(&target.hive_id, &job).await,
            Operation::HiveStatus(target) => self.hive_status(&target.hive_id, &job).await,
            Operation::HiveRefresh(target) => self.hive_refresh(&target.hive_id, job).await,
            Operation::HiveAdd(add) => self.hive_add(add),
            Operation::HiveRemove(target) => self.hive_remove(&target.hive_id),
            Operation::HiveInstall(install) => self.hive_install(install, &job).await,
            Operation::HiveUninstall(uninstall) => self.hive_uninstall(&uninstall, &job).await,
            Operation::HiveLogs(logs) => self.hive_logs(&logs, &job).await,
            Operation::HiveDiscover(discover) => self.hive_discover(&discover, &job).await,
            Operation::HiveSshHosts {} => self.hive_ssh_hosts(),
            Operation::ListAll(list) => self.list_all(list, &job).await,
            Operation::ModelCopy(copy) => self.model_copy(copy, job).await,
            Operation::ModelPolicySet(change) => self.model_policy_set(change, &job).await,
            Operation::ModelPolicyList {} => Ok(self.model_policy_list()),
            Operation::Infer(infer) => self.infer(*infer, &job).await,
            Operation::WorkerAttach(attach) => self.worker_attach(attach, &job).await,
            Operation::WorkerDetach(detach) => self.worker_detach(&detach).await,
            Operation::WorkerList(target) => self.worker_list(target, job).await,
            Operation::WorkerSpawn(spawn) => {
                let spawn = self.as_wanted(spawn);
                self.forward(Operation::WorkerSpawn(spawn), job).await
            }
            forwarded @ (Operation::WorkerFit(_)
            | Operation::WorkerGet(_)
            | Operation::WorkerDelete(_)
            | Operation::ModelDownload(_)
            | Operation::ModelDownloadCancel(_)
            | Operation::WorkerRestart(_)
            | Operation::WorkerExcuse(_)
            | Operation::WorkerLogs(_)
            | Operation::ModelFetch(_)
            | Operation::ModelImport(_)
            | Operation::ModelImportStore(_)
            | Operation::ModelList(_)
            | Operation::ModelGet(_)
            | Operation::ModelDelete(_)
            | Operation::ModelVerify(_)
            | Operation::ModelUpdate(_)
            | Operation::ModelPin(_)
            | Operation::ModelProjectorSet(_)
            | Operation::ModelAlias(_)
            | Operation::ModelGarbage(_)) => self.forward(forwarded, job).await,
        }
    }
}

impl Operations {
    /// A worker of the size that the model's policy wants, as far as nobody said otherwise.
    fn as_wanted(&self, spawn: WorkerSpawn) -> WorkerSpawn {
        let policy = self.policies.of(&spawn.model);
        let (slots, ctx_size) = (spawn.slots.or(policy.slots), spawn.ctx_size.or(policy.ctx_size));
        WorkerSpawn { slots, ctx_size, ..spawn }
    }
}

/// A result of plain data.
fn outcome(message: impl Into<String>, data: &impl serde::Serialize) -> Outcome {
    let data = serde_json::to_value(data).expect("a report is plain data");
    Outcome::new(message, data)
}
