//! The names of models: who runs what by which name.

use worker_contract::{ModelAlias, WorkerId};

use super::worker::Worker;
use super::{Liveness, Registry};
use crate::clock;
use crate::policy::Policies;
use crate::rules::Rules;
use crate::scheduler::{Circuit, Readiness};

impl Registry {
    /// Whether a worker of a hive runs a model, or is about to.
    #[must_use]
    pub fn runs(&self, model: &ModelAlias) -> bool {
        self.state().runs(model)
    }

    /// The name by which the file of a model runs, where no worker runs it by this name, and nobody wants
    /// workers for this name in particular.
    #[must_use]
    pub fn running_as(&self, model: &ModelAlias) -> Option<ModelAlias> {
        // Somebody's rules are about the names that are asked for.
        if self.shared.rules.get().is_some_and(Rules::are_there) {
            return None;
        }
        let state = self.state();
        let lives = |worker: &Worker| worker.readiness_for_requests() != Readiness::Ending;
        if state.workers.of_model(model).any(|(_, worker)| lives(worker)) {
            return None;
        }
        let entries = || state.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let digest = &entries().find(|entry| entry.alias == *model)?.sha256;
        let now = clock::now();
        let is_well = |worker: &Worker| {
            let hive = || state.hives.liveness(&worker.hive_id, now);
            worker.liveness(self.shared.interval, hive, now) == Liveness::Alive
                && worker.breaker.circuit(now) == Circuit::Closed
                && !worker.target.gone.is_cancelled()
        };
        let runs_it = |worker: &&Worker| {
            worker.digest() == Some(digest)
                && !worker.is_of_server
                && worker.readiness_for_requests() == Readiness::Ready
                && is_well(worker)
        };
        let running = state.workers.iter().map(|(_, worker)| worker).find(runs_it)?.model.clone();
        drop(state);
        let has_wishes = |policies: &Policies| policies.all().contains_key(model);
        (!self.shared.policies.get().is_some_and(has_wishes)).then_some(running)
    }

    /// What a worker runs.
    #[must_use]
    pub fn model_of(&self, id: &WorkerId) -> Option<ModelAlias> {
        self.state().workers.get(id).map(|worker| worker.model.clone())
    }

    /// Whether some worker runs the model, or some catalog has it.
    #[must_use]
    pub fn knows_model(&self, model: &ModelAlias) -> bool {
        let state = self.state();
        state.workers.iter().any(|(_, worker)| worker.model == *model)
            || state.hives.iter().any(|hive| hive.beat.catalog.iter().any(|e| e.alias == *model))
    }
}
