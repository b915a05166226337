//! Which models keep their workers where another one finds no memory: those that are pinned, or have no more than
//! their policies want at least. Pure.

use std::collections::BTreeMap;

use job_server::JobError;
use rbee_operations::NOT_ENOUGH_MEMORY;
use worker_contract::{ModelAlias, WorkerId};

use super::names::is_there;
use super::{Registry, State};
use crate::policy::Policies;

/// How many models are named.
const MOST_NAMED: usize = 3;
/// How a hive says which worker could be ended.
const ENDING: &str = "rbee-keeper worker delete ";

/// A model whose workers stay.
#[derive(Debug)]
struct Kept<'a> {
    model: &'a ModelAlias,
    workers: Vec<&'a WorkerId>,
    is_pinned: bool,
}

impl Kept<'_> {
    /// How its workers may be ended.
    fn way_out(&self) -> String {
        let (model, field) = (self.model, if self.is_pinned { "--pin false" } else { "--min 0" });
        format!("rbee-keeper model policy {model} {field}")
    }
}

impl Registry {
    /// A refusal for want of memory, which also says who has it and stays: no hive knows of policies.
    #[must_use]
    pub fn with_kept(&self, model: &ModelAlias, error: JobError) -> JobError {
        let Some(policies) = self.shared.policies.get() else { return error };
        if error.code != NOT_ENOUGH_MEMORY {
            return error;
        }
        told(error, &self.state().kept_beside(model, policies))
    }
}

impl State {
    /// Models that keep all their workers, which are on hives that have a model.
    fn kept_beside(&self, model: &ModelAlias, policies: &Policies) -> Vec<Kept<'_>> {
        let mut workers: BTreeMap<&ModelAlias, Vec<&WorkerId>> = BTreeMap::new();
        let own = self.workers.iter().filter(|(_, worker)| !worker.is_of_server);
        for (id, worker) in own.filter(|(_, worker)| is_there(worker)) {
            workers.entry(&worker.model).or_default().push(id);
        }
        let is_beside = |id: &&WorkerId| {
            let worker = self.workers.get(id);
            worker.is_some_and(|worker| self.file_at(&worker.hive_id, model).is_some())
        };
        let kept = workers.into_iter().filter_map(|(of, workers)| {
            let policy = policies.of(of);
            let is_least = u32::try_from(workers.len()).is_ok_and(|count| count <= policy.min);
            let stays = *of != *model && (policy.pin || is_least) && workers.iter().any(is_beside);
            stays.then_some(Kept { model: of, workers, is_pinned: policy.pin })
        });
        kept.collect()
    }
}

/// The refusal with the models that stay: to end their workers is no way out.
fn told(error: JobError, kept: &[Kept<'_>]) -> JobError {
    let Some(first) = kept.first() else { return error };
    let names: Vec<&str> = kept.iter().take(MOST_NAMED).map(|kept| kept.model.as_str()).collect();
    let more = match kept.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(", ");
    let message =
        format!("{}; pinned, or kept by their policies' min: {names}{more}", error.message);
    let is_kept = |way: &&str| {
        let ends = way.split_once(ENDING).map(|(_, id)| id.trim());
        !ends.is_some_and(|ends| {
            kept.iter().flat_map(|it| &it.workers).any(|id| id.as_str() == ends)
        })
    };
    let others = error.hint.as_deref().unwrap_or_default().split("; ").filter(is_kept);
    let ways = std::iter::once(format!("let one go: {}", first.way_out()));
    let hint = ways.chain(others.map(str::to_owned)).filter(|way| !way.is_empty());
    JobError { message, ..error.clone() }.hint(hint.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_models_that_stay_and_does_not_offer_to_end_their_workers() {
        let (first, second): (ModelAlias, ModelAlias) =
            ("b".parse().unwrap(), "c".parse().unwrap());
        let ids: [WorkerId; 2] = ["w-1", "w-2"].map(|id| id.parse().unwrap());
        let kept = |model, id, is_pinned| Kept { model, workers: vec![id], is_pinned };
        let refusal = || {
            let hint = "end a worker: rbee-keeper worker delete w-1; a smaller one needs less";
            JobError::new(NOT_ENOUGH_MEMORY, "CPU-0 is full").hint(hint)
        };
        assert_eq!(told(refusal(), &[]), refusal());
        let both = [kept(&first, &ids[0], true), kept(&second, &ids[1], false)];
        let error = told(refusal(), &both);
        assert_eq!(error.message, "CPU-0 is full; pinned, or kept by their policies' min: b, c");
        assert_eq!(
            error.hint.as_deref(),
            Some("let one go: rbee-keeper model policy b --pin false; a smaller one needs less")
        );
        let hint = told(refusal(), &both[1..]).hint.unwrap();
        assert!(hint.contains("model policy c --min 0; end a worker"), "w-1 may go: {hint}");
    }
}
