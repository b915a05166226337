//! Workers that report and are on no hive's list: somebody has started their processes beside the hive, and ends
//! them there.

use std::time::Instant;

use job_server::JobError;
use rbee_operations::Operation;
use serde_json::Value;
use worker_contract::{HiveAlias, WorkerId};

use super::Operations;
use crate::registry::WorkerReport;
use crate::spawner::WORKER_NOT_FOUND;

/// The most of them that a list tells of.
const MOST_TOLD: usize = 8;

impl Operations {
    /// Those that are left out of a list of workers, of hives that `are_listed`.
    pub(super) fn left_out_of(
        &self,
        list: &Value,
        are_listed: impl Fn(&HiveAlias) -> bool,
    ) -> Vec<String> {
        let is_in = |id: &WorkerId| {
            let list = list.as_array().map_or(&[][..], Vec::as_slice);
            list.iter().any(|worker| worker["worker_id"] == id.as_str())
        };
        let is_left_out = |worker: &WorkerReport| {
            is_unlisted(worker)
                && are_listed(&worker.said.hive_id)
                && !is_in(&worker.said.worker_id)
        };
        let workers = self.registry.workers(Instant::now()).into_iter();
        workers.filter(is_left_out).take(MOST_TOLD).map(|worker| left_out(&worker)).collect()
    }

    /// Why an operation on a worker has failed: its hive does not know one that somebody has started beside it.
    pub(super) fn of_unlisted(&self, id: Option<&WorkerId>, error: JobError) -> JobError {
        if error.code != WORKER_NOT_FOUND {
            return error;
        }
        let mut workers = self.registry.workers(Instant::now()).into_iter();
        let is_it = |worker: &WorkerReport| Some(&worker.said.worker_id) == id;
        let Some(worker) = workers.find(|worker| is_unlisted(worker) && is_it(worker)) else {
            return error;
        };
        let (said, id) = (&worker.said, &worker.said.worker_id);
        let message = format!(
            "the hive {} has not started {id}: somebody has, as process {} beside it",
            said.hive_id, said.pid
        );
        JobError::new(WORKER_NOT_FOUND, message).hint(
            "it is ended and started again there, where its log is, too; rbee-keeper status shows what it does",
        )
    }
}

/// The worker that an operation is about, and the hive that it is sought at.
pub(super) fn worker_of(operation: &Operation) -> Option<(&HiveAlias, &WorkerId)> {
    match operation {
        Operation::WorkerGet(target)
        | Operation::WorkerDelete(target)
        | Operation::WorkerRestart(target) => Some((&target.hive_id, &target.worker_id)),
        Operation::WorkerExcuse(excuse) => Some((&excuse.hive_id, &excuse.worker_id)),
        Operation::WorkerLogs(logs) => Some((&logs.hive_id, &logs.worker_id)),
        _ => None,
    }
}

fn is_unlisted(worker: &WorkerReport) -> bool {
    !worker.is_listed && worker.server.is_none()
}

fn left_out(worker: &WorkerReport) -> String {
    let said = &worker.said;
    format!(
        "{} is left out, which takes requests for {}: the hive {} has not started it, somebody has, as process {} \
         beside it",
        said.worker_id, said.model.name, said.hive_id, said.pid
    )
}
