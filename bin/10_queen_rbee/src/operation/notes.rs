//! What an operator is told beside a result: what of it does not count yet, or will surprise.

use std::collections::BTreeMap;
use std::time::Instant;

use rbee_operations::{ModelPolicy, ModelPolicySet, Operation, Wished};
use serde_json::Value;
use worker_contract::{
    DeviceId, HiveAlias, ModelAlias, ModelEntry, WorkerHeartbeat, WorkerId, WorkerState,
};

use super::Operations;
use crate::registry::WorkerReport;

/// The most names of models that are told in one note.
const MOST_NAMES: usize = 8;

impl Operations {
    /// What of a policy that was set does not count for the workers that run.
    pub(super) fn unlike_running(&self, change: &ModelPolicySet) -> Vec<String> {
        let ModelPolicySet { model, policy: wanted, .. } = change;
        let running = self.running(model);
        let policy = self.policies.of(model);
        let mut notes = Vec::new();
        if wanted.slots.is_some() || wanted.ctx_size.is_some() {
            let trained = self.registry.trained_context(model).filter(|trained| *trained > 0);
            let mut by_size: BTreeMap<(u32, u32), Vec<&WorkerId>> = BTreeMap::new();
            for worker in running.iter().filter(|worker| is_unlike(wanted, worker, trained)) {
                let said = &worker.said;
                let size = (said.slots.total, said.kv_cache.capacity_tokens);
                by_size.entry(size).or_default().push(&said.worker_id);
            }
            for ((slots, tokens), workers) in by_size {
                notes.push(stay_as(&format!("with {slots} slots, {tokens} tokens"), &workers));
            }
        }
        let mut by_place: BTreeMap<(&HiveAlias, DeviceId), Vec<&WorkerId>> = BTreeMap::new();
        for said in running.iter().map(|worker| &worker.said) {
            if is_elsewhere(wanted, said) {
                by_place.entry((&said.hive_id, said.device)).or_default().push(&said.worker_id);
            }
        }
        for ((hive, device), workers) in by_place {
            notes.push(stay_as(&format!("on {hive} {device}"), &workers));
        }
        let count = u32::try_from(running.len()).unwrap_or(u32::MAX);
        if wanted.max.is_some() && count > policy.max {
            notes.push(format!(
                "{}, and max is {}: no other is started, and those that are there stay until they have been \
                 idle for a while",
                run(running.len()),
                policy.max
            ));
        }
        notes
    }

    /// That a worker which is to be ended comes back, for the policy of its model.
    pub(super) fn comes_back(&self, operation: &Operation) -> Option<String> {
        let Operation::WorkerDelete(target) = operation else { return None };
        let model = self.registry.model_of(&target.worker_id)?;
        let min = self.policies.of(&model).min;
        let replicas = self.registry.replicas(Instant::now());
        let count = replicas.iter().filter(|replica| replica.model == model).count();
        (count <= usize::try_from(min).unwrap_or(usize::MAX) && min > 0).then(|| {
            format!(
                "the policy of {model} wants {min} at least: another worker is started. For none: \
                 rbee-keeper model policy {model} --min 0"
            )
        })
    }

    /// That other hives have another file by the name of a model that a hive has got.
    pub(super) fn other_files(&self, hive: &HiveAlias, model: &ModelEntry) -> Option<String> {
        let hives = self.registry.hives(Instant::now()).into_iter().map(|known| known.said);
        let others = hives.filter(|other| {
            let is_other =
                |entry: &ModelEntry| entry.alias == model.alias && entry.sha256 != model.sha256;
            other.hive_id != *hive && other.catalog.iter().any(is_other)
        });
        let others: Vec<_> = others.map(|other| other.hive_id.to_string()).collect();
        (!others.is_empty()).then(|| one_name(&model.alias, &others.join(", ")))
    }

    /// The workers of a model that are ready.
    fn running(&self, model: &ModelAlias) -> Vec<WorkerReport> {
        let workers = self.registry.workers(Instant::now()).into_iter();
        let own = workers.filter(|worker| worker.server.is_none());
        let is_it =
            |said: &WorkerHeartbeat| said.model.name == *model && said.state == WorkerState::Ready;
        own.filter(|worker| is_it(&worker.said)).collect()
    }
}

/// Whether a worker is of another size than it would be with a policy. What was started as it says is like it, however
/// many tokens came of that: no sequence is longer than the model was trained for.
fn is_unlike(wanted: &ModelPolicy, worker: &WorkerReport, trained: Option<u32>) -> bool {
    let (said, size) = (&worker.said, worker.size.unwrap_or_default());
    let is_other = |wanted: u32, started: Option<u32>, comes_of_it: u32, has: u32| {
        started != Some(wanted) && comes_of_it != has
    };
    if said.slots.total == 0 {
        // It has not said yet how large it is.
        return false;
    }
    let slots = wanted.slots.unwrap_or(said.slots.total);
    let most = trained.map_or(u32::MAX, |trained| trained.saturating_mul(slots));
    let (has_slots, has_tokens) = (said.slots.total, said.kv_cache.capacity_tokens);
    wanted.slots.is_some_and(|wanted| is_other(wanted, size.slots, wanted, has_slots))
        || wanted
            .ctx_size
            .is_some_and(|wanted| is_other(wanted, size.ctx_size, wanted.min(most), has_tokens))
}

/// Whether a worker is elsewhere than a policy prefers it to be.
fn is_elsewhere(wanted: &ModelPolicy, said: &WorkerHeartbeat) -> bool {
    let (hive, device) = (wanted.hive.as_ref(), wanted.device);
    hive.and_then(Wished::as_one).is_some_and(|hive| *hive != said.hive_id)
        || device.and_then(Wished::one).is_some_and(|device| device != said.device)
}

/// That workers stay as they are, and how to end them.
fn stay_as(what: &str, workers: &[&WorkerId]) -> String {
    let ends: Vec<_> = workers.iter().map(|id| format!("rbee-keeper worker delete {id}")).collect();
    format!(
        "{} {what}: the policy counts for those that start later, and a restart keeps what a worker has. \
         To end them: {}",
        run(workers.len()),
        ends.join("; ")
    )
}

/// Which models of a list have one name and are several files.
pub(super) fn ambiguous(models: &Value) -> Option<String> {
    let mut files: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for model in models.as_array()? {
        let Some(alias) = model["alias"].as_str() else { continue };
        let of_name = files.entry(alias).or_default();
        if !of_name.contains(&&model["sha256"]) {
            of_name.push(&model["sha256"]);
        }
    }
    let several = files.into_iter().filter(|(_, files)| files.len() > 1).map(|(alias, _)| alias);
    let several: Vec<_> = several.take(MOST_NAMES).collect();
    (!several.is_empty()).then(|| one_name(&several.join(", "), "several hives"))
}

fn one_name(model: &(impl std::fmt::Display + ?Sized), others: &str) -> String {
    format!(
        "{model} is another file on {others}: one name is taken to be one model, and any of the files \
         answers. Give one of them another name, or the same file to both: rbee-keeper model copy"
    )
}

fn run(workers: usize) -> String {
    match workers {
        1 => "1 worker runs".to_owned(),
        workers => format!("{workers} workers run"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn models_of_one_name_and_several_files_are_told() {
        let model = |alias: &str, digest: &str| json!({ "alias": alias, "sha256": digest });
        for (models, expected) in [
            (vec![model("a", "1"), model("b", "2"), model("a", "1")], None),
            (vec![model("a", "1"), model("b", "2"), model("a", "3")], Some("a is another file")),
            (Vec::new(), None),
        ] {
            let told = ambiguous(&models.into());
            assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
            assert!(told.unwrap_or_default().starts_with(expected.unwrap_or_default()));
        }
    }
}
