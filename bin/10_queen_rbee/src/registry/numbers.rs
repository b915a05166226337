//! Numbers for names: a look at thousands of workers does not compare thousands of names. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use worker_contract::{HiveAlias, ModelAlias, Sha256Digest};

use super::target::next_number;
use super::worker::Worker;

/// So many names without a worker may have a number.
const FEW: usize = 64;

/// The numbers of models and of hives that have workers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    models: HashMap<ModelAlias, u64>,
    hives: HashMap<HiveAlias, u64>,
    /// The models as which workers have said that they run a file, also those that do no longer.
    files: HashMap<Sha256Digest, BTreeSet<u64>>,
}

impl Numbers {
    /// The number of a model, where a worker has it.
    pub(super) fn of_model(&self, model: &ModelAlias) -> Option<u64> {
        self.models.get(model).copied()
    }

    /// A worker runs a model.
    pub(super) fn set(&mut self, worker: &mut Worker, model: &ModelAlias) {
        if worker.hive_number.is_none() {
            let number = *self.hives.entry(worker.hive_id.clone()).or_insert_with(next_number);
            worker.hive_number = Some(number);
        }
        let is_same = worker.model_number.is_some() && worker.model == *model;
        if is_same {
            return;
        }
        let number = *self.models.entry(model.clone()).or_insert_with(next_number);
        worker.model.clone_from(model);
        worker.model_number = Some(number);
    }

    /// A worker says which file it runs.
    pub(super) fn has_file(&mut self, worker: &Worker, file: &Sha256Digest) {
        let Some(number) = worker.model_number else { return };
        match self.files.get_mut(file) {
            Some(models) => _ = models.insert(number),
            None => _ = self.files.insert(file.clone(), BTreeSet::from([number])),
        }
    }

    /// Whether some worker may run a file by another name than this one.
    pub(super) fn may_run_by_another_name(&self, file: &Sha256Digest, model: &ModelAlias) -> bool {
        let own = self.of_model(model);
        self.files.get(file).is_some_and(|models| models.iter().any(|number| Some(*number) != own))
    }

    /// Forgets the numbers that no worker has, once they are many.
    pub(super) fn forget_all_but<'a>(
        &mut self,
        workers: impl ExactSizeIterator<Item = &'a Worker> + Clone,
    ) {
        let most = 2 * workers.len() + FEW;
        if self.models.len() > most {
            let there: HashSet<_> = workers.clone().filter_map(|it| it.model_number).collect();
            self.models.retain(|_, number| there.contains(number));
        }
        if self.hives.len() > most {
            let there: HashSet<_> = workers.clone().filter_map(|it| it.hive_number).collect();
            self.hives.retain(|_, number| there.contains(number));
        }
        if self.files.values().map(BTreeSet::len).sum::<usize>() > most {
            self.files.clear();
            for (worker, file) in workers.filter_map(|it| Some((it, it.digest()?))) {
                self.has_file(worker, file);
            }
        }
    }
}
