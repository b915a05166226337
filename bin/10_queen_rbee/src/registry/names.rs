//! The names of models: who runs what by which name.

use std::time::Instant;

use worker_contract::{HiveAlias, ModelAlias, ModelKind, Sha256Digest, Task, WorkerId};

use super::worker::Worker;
use super::{Liveness, Registry, State};
use crate::admission::QueueKey;
use crate::policy::Policies;
use crate::scheduler::Readiness;

/// What Ollama puts behind a name that has no tag.
pub(crate) const LATEST: &str = ":latest";

impl State {
    /// Whether some hive's catalog has the model.
    pub(super) fn is_in_catalog(&self, model: &ModelAlias) -> bool {
        self.hives.catalogs().have(model)
    }

    fn knows_model(&self, model: &ModelAlias) -> bool {
        self.workers.of_model(model).next().is_some() || self.is_in_catalog(model)
    }

    /// The files of a model, where workers that run them by other names answer for it, too: nobody wants workers
    /// for this name in particular. An answer that must go on with its file does so with whoever has it, whatever
    /// the name, unless the name has wishes and a worker of its own that can.
    pub(super) fn shared_files<'a>(
        &'a self,
        model: &ModelAlias,
        needed: Option<&'a Sha256Digest>,
        policies: Option<&Policies>,
    ) -> Vec<&'a Sha256Digest> {
        let is_apart = policies.is_some_and(|policies| policies.speak_of(model));
        match needed {
            Some(needed) if is_apart && self.serves_itself(model, needed) => Vec::new(),
            Some(needed) => vec![needed],
            None if is_apart => Vec::new(),
            None => self.hives.catalogs().files_of(model).collect(),
        }
    }

    /// Whether requests for its model's name go to a worker: where a hive has a model of that name, a server's one
    /// is another file, unless somebody said that it may stand for it.
    pub(super) fn answers_to_its_name(&self, worker: &Worker) -> bool {
        !worker.is_of_server || worker.is_named || !self.is_in_catalog(&worker.model)
    }

    /// Whether a worker of this name serves that may have a file.
    fn serves_itself(&self, model: &ModelAlias, file: &Sha256Digest) -> bool {
        let serves = |id: &WorkerId, worker: &Worker| {
            worker.readiness_for_requests() == Readiness::Ready
                && !worker.target.gone.is_cancelled()
                && self.turns.makes_way_for(id).is_none()
                && self.answers_to_its_name(worker)
        };
        let has_file = |worker: &Worker| worker.digest().is_none_or(|its| its == file);
        self.workers.of_model(model).any(|(id, worker)| serves(id, worker) && has_file(worker))
    }

    /// With whom the requests for a model wait: its names that share workers share a queue. Where hives have
    /// several files by its name, it is that of one of them.
    fn queue_of(&self, model: &ModelAlias, policies: Option<&Policies>) -> QueueKey {
        let file = self.shared_files(model, None, policies).into_iter().min();
        file.map_or_else(|| QueueKey::Name(model.clone()), |file| QueueKey::File(file.clone()))
    }

    /// The workers that answer for a model: its own, and then those that run one of the files by another name.
    pub(super) fn answering<'a, 'b>(
        &'a self,
        model: &'b ModelAlias,
        files: &'b [&'b Sha256Digest],
    ) -> impl Iterator<Item = (&'a WorkerId, &'a Worker)> + use<'a, 'b> {
        // Nearly every file has one name: then nobody else is looked at.
        let may_be_others = files.iter().any(|file| {
            self.hives.catalogs().is_also_called(file, model)
                || self.workers.may_run_by_another_name(file, model)
        });
        let all = may_be_others.then(|| self.workers.iter());
        let has_one = move |worker: &Worker| {
            !worker.is_of_server
                && self.file_of(worker).is_some_and(|file| files.contains(&file))
                && worker.model != *model
                && is_there(worker)
        };
        let others = all.into_iter().flatten().filter(move |(_, worker)| has_one(worker));
        self.workers.of_model(model).chain(others)
    }

    /// Whether a hive's worker that answers for a model is coming.
    pub(super) fn is_coming(&self, model: &ModelAlias, files: &[&Sha256Digest]) -> bool {
        let mut own = self.answering(model, files).filter(|(_, worker)| !worker.is_of_server);
        self.starts.is_any_of(model)
            || self.starts.is_any_with(files)
            || own.any(|(_, worker)| worker.readiness_for_requests() == Readiness::Coming)
    }

    /// What a model is that cannot do a task, by catalogs and hives' workers; `None` where one may do it, or
    /// nobody knows.
    fn unable_kind_here(&self, model: &ModelAlias, task: &Task) -> Option<ModelKind> {
        let is_able = |worker: &Worker| {
            let said = worker.said.as_ref().filter(|_| !worker.is_of_server);
            said.is_some_and(|said| said.beat.model.kind.serves(task))
        };
        if self.workers.of_model(model).any(|(_, worker)| is_able(worker)) {
            return None;
        }
        let entries = self.hives.iter().flat_map(|hive| &hive.beat.catalog);
        let mut kinds = entries.filter(|entry| entry.alias == *model).map(|entry| entry.gguf.kind);
        let is_unable = |kind: &ModelKind| !kind.serves(task);
        let first = kinds.next().flatten().filter(is_unable)?;
        kinds.all(|kind| kind.as_ref().is_some_and(is_unable)).then_some(first)
    }

    /// The file that a worker runs, as it says itself, or that its hive has by its model's name.
    fn file_of<'a>(&'a self, worker: &'a Worker) -> Option<&'a Sha256Digest> {
        match &worker.said {
            Some(_) => worker.digest(),
            None => self.file_at(&worker.hive_id, &worker.model),
        }
    }

    /// The file that a hive has by a name.
    pub(super) fn file_at(&self, hive: &HiveAlias, model: &ModelAlias) -> Option<&Sha256Digest> {
        let catalog = &self.hives.get(hive)?.beat.catalog;
        Some(&catalog.iter().find(|entry| entry.alias == *model)?.sha256)
    }
}

/// Whether a worker serves requests, now or soon.
pub(super) fn is_there(worker: &Worker) -> bool {
    !worker.target.gone.is_cancelled() && worker.readiness_for_requests() != Readiness::Ending
}

impl Registry {
    /// Whether a hive that reports on time has a model.
    #[must_use]
    pub fn is_at_hand(&self, model: &ModelAlias, now: Instant) -> bool {
        let state = self.state();
        let mut alive = state.hives.iter().filter(|hive| hive.liveness(now) == Liveness::Alive);
        alive.any(|hive| hive.beat.catalog.iter().any(|entry| entry.alias == *model))
    }

    /// Whether a worker gets no requests by its model's name, since a hive has a model of that name.
    #[must_use]
    pub fn is_passed_over(&self, worker: &WorkerId) -> bool {
        let state = self.state();
        state.workers.get(worker).is_some_and(|worker| !state.answers_to_its_name(worker))
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

    /// With whom the requests for a model wait.
    #[must_use]
    pub fn queue_of(&self, model: &ModelAlias) -> QueueKey {
        self.state().queue_of(model, self.shared.policies.get())
    }

    /// Whether a worker of a hive runs a model, or is about to.
    #[must_use]
    pub fn runs(&self, model: &ModelAlias) -> bool {
        self.state().runs(model)
    }

    /// Whether a worker is coming whose answers a model's requests wait for: one of its own, or of its file by
    /// another name. A server of somebody else that is full or loads is no reason to start none.
    #[must_use]
    pub fn is_coming(&self, model: &ModelAlias) -> bool {
        let state = self.state();
        let files = state.shared_files(model, None, self.shared.policies.get());
        state.is_coming(model, &files)
    }

    /// Whether a worker is being started whose answers a model's requests wait for, by whatever name.
    #[must_use]
    pub fn is_starting_for(&self, model: &ModelAlias) -> bool {
        let state = self.state();
        let files = state.shared_files(model, None, self.shared.policies.get());
        state.starts.is_any_of(model) || state.starts.is_any_with(&files)
    }

    /// The other name by which hives' workers answer for a model that has none of its own.
    #[must_use]
    pub fn answers_as(&self, model: &ModelAlias) -> Option<ModelAlias> {
        let state = self.state();
        let files = state.shared_files(model, None, self.shared.policies.get());
        let is_of_hive =
            |(_, worker): &(&WorkerId, &Worker)| !worker.is_of_server && is_there(worker);
        let (_, first) = state.answering(model, &files).find(is_of_hive)?;
        (first.model != *model).then(|| first.model.clone())
    }

    /// What a model is that cannot do a task, wherever it lies and runs; `None` where somebody may do it, or
    /// nobody knows.
    #[must_use]
    pub fn unable_kind(&self, model: &ModelAlias, task: &Task) -> Option<ModelKind> {
        let state = self.state();
        // What models of other servers are for is not told.
        if state.workers.of_model(model).any(|(_, worker)| worker.is_of_server) {
            return None;
        }
        state.unable_kind_here(model, task)
    }

    /// The same of what hives have of it alone.
    #[must_use]
    pub fn unable_kind_here(&self, model: &ModelAlias, task: &Task) -> Option<ModelKind> {
        self.state().unable_kind_here(model, task)
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
