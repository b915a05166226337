//! The names of models: who runs what by which name.

use std::time::Instant;

use worker_contract::{ModelAlias, ModelKind, Task, WorkerId};

use super::worker::Worker;
use super::{Due, Liveness, Registry, State};
use crate::clock;
use crate::policy::Policies;
use crate::rules::Rules;
use crate::scheduler::{Circuit, Readiness};

/// What Ollama puts behind a name that has no tag.
pub(super) const LATEST: &str = ":latest";

impl State {
    /// Whether some hive's catalog has the model.
    pub(super) fn is_in_catalog(&self, model: &ModelAlias) -> bool {
        self.hives.iter().any(|hive| hive.beat.catalog.iter().any(|entry| entry.alias == *model))
    }

    fn knows_model(&self, model: &ModelAlias) -> bool {
        self.workers.of_model(model).next().is_some() || self.is_in_catalog(model)
    }
}

impl Registry {
    /// Whether a hive that reports on time has a model.
    #[must_use]
    pub fn is_at_hand(&self, model: &ModelAlias, now: Instant) -> bool {
        let state = self.state();
        let mut alive = state.hives.iter().filter(|hive| hive.liveness(now) == Liveness::Alive);
        alive.any(|hive| hive.beat.catalog.iter().any(|entry| entry.alias == *model))
    }

    /// The model that is meant by a name: the one that has it, else the one that has it with `:latest`
    /// behind it.
    #[must_use]
    pub fn meant(&self, name: &ModelAlias) -> ModelAlias {
        let state = self.state();
        if state.knows_model(name) {
            return name.clone();
        }
        let latest = format!("{name}{LATEST}").parse().ok();
        latest.filter(|latest| state.knows_model(latest)).unwrap_or_else(|| name.clone())
    }

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
        // A server's model of this name is another file, unless somebody said that it may stand for it.
        let lives = |worker: &Worker| {
            worker.readiness_for_requests() != Readiness::Ending
                && (!worker.is_of_server || worker.is_named || !state.is_in_catalog(model))
        };
        if state.workers.of_model(model).any(|(_, worker)| lives(worker)) {
            return None;
        }
        let entries = || state.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let digest = &entries().find(|entry| entry.alias == *model)?.sha256;
        let now = clock::now();
        let due = Due::at(now, self.shared.interval);
        let is_well = |worker: &Worker| {
            let hive = || state.hives.liveness(&worker.hive_id, now);
            worker.liveness(due, hive) == Liveness::Alive
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

    /// What a model is that cannot do a task, wherever it lies and runs; `None` where somebody may do it, or
    /// nobody knows.
    #[must_use]
    pub fn unable_kind(&self, model: &ModelAlias, task: &Task) -> Option<ModelKind> {
        let state = self.state();
        let says_so = |worker: &Worker| {
            worker.said.as_ref().is_some_and(|said| said.beat.model.kind.serves(task))
        };
        let mut workers = state.workers.of_model(model);
        // What models of other servers are for is not told.
        if workers.any(|(_, worker)| worker.is_of_server || says_so(worker)) {
            return None;
        }
        let entries = state.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let mut kinds = entries.filter(|entry| entry.alias == *model).map(|entry| entry.gguf.kind);
        let is_unable = |kind: &ModelKind| !kind.serves(task);
        let first = kinds.next().flatten().filter(is_unable)?;
        kinds.all(|kind| kind.as_ref().is_some_and(is_unable)).then_some(first)
    }

    /// What a worker runs.
    #[must_use]
    pub fn model_of(&self, id: &WorkerId) -> Option<ModelAlias> {
        self.state().workers.get(id).map(|worker| worker.model.clone())
    }

    /// Whether some worker runs the model, or some catalog has it.
    #[must_use]
    pub fn knows_model(&self, model: &ModelAlias) -> bool {
        self.state().knows_model(model)
    }
}
