//! Who restarts which worker by hand: one at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_contract::WorkerId;

use super::command::WorkerPlan;

/// The workers that somebody is restarting. A clone is the same list.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks(Arc<Mutex<BTreeSet<WorkerId>>>);

/// Nobody else restarts the worker while this exists.
#[derive(Debug)]
pub(crate) struct Restarting {
    /// How the worker was started.
    pub(crate) plan: WorkerPlan,
    pub(super) worker: WorkerId,
    marks: Marks,
}

impl Marks {
    /// `None` while somebody else is at it.
    pub(super) fn mark(&self, worker: &WorkerId, plan: WorkerPlan) -> Option<Restarting> {
        let is_first = self.workers().insert(worker.clone());
        is_first.then(|| Restarting { plan, worker: worker.clone(), marks: self.clone() })
    }

    fn workers(&self) -> MutexGuard<'_, BTreeSet<WorkerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Restarting {
    fn drop(&mut self) {
        self.marks.workers().remove(&self.worker);
    }
}
