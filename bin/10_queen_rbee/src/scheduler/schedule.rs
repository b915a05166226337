//! The decision.

use std::cmp::Ordering;

use super::placement::place;
use super::{Decision, Demand, Readiness, RejectReason, Snapshot, WorkerView};
use crate::registry::Liveness;

/// When to try again while workers end and others may come, in seconds.
const RETRY_SOON_S: u64 = 1;
/// When to try again while a hive is gone, in seconds.
const RETRY_HIVE_S: u64 = 5;

/// What becomes of a request.
#[must_use]
pub fn schedule(snapshot: &Snapshot<'_>, demand: &Demand<'_>) -> Decision {
    let serves = |worker: &&WorkerView<'_>| {
        worker.model == demand.model && worker.liveness != Liveness::Gone
    };
    let serving: Vec<_> = snapshot.workers.iter().filter(serves).collect();
    let has_failed = |worker: &WorkerView<'_>| demand.failed.contains(worker.id);
    let ready = serving.iter().filter(|worker| worker.readiness == Readiness::Ready);

    let fresh = ready.clone().filter(|worker| !has_failed(worker));
    if let Some(best) = fresh.clone().filter(|worker| worker.has_room()).min_by(|a, b| better(a, b))
    {
        return Decision::Dispatch { worker: best.id.clone() };
    }
    let is_coming = serving.iter().any(|worker| worker.readiness == Readiness::Coming);
    if is_coming || fresh.count() > 0 || snapshot.spawning.contains(demand.model) {
        return Decision::Wait;
    }
    let returned = ready.filter(|w| has_failed(w) && w.liveness == Liveness::Alive);
    match returned.clone().filter(|worker| worker.has_room()).min_by(|a, b| better(a, b)) {
        Some(only) => return Decision::Dispatch { worker: only.id.clone() },
        None if returned.count() > 0 => return Decision::Wait,
        None => {}
    }
    if let Some((hive, device)) = place(snapshot, demand.model) {
        return Decision::Spawn { hive: hive.clone(), device };
    }
    if snapshot.warming_up {
        return Decision::Wait;
    }
    reject(snapshot, demand, !serving.is_empty())
}

/// On time before silent, then the least load for its slots, then the least requests of ours.
fn better(a: &WorkerView<'_>, b: &WorkerView<'_>) -> Ordering {
    let silent = |w: &WorkerView<'_>| w.liveness != Liveness::Alive;
    let weighed = |load: u32, slots: u32| u64::from(load) * u64::from(slots.max(1));
    silent(a)
        .cmp(&silent(b))
        .then_with(|| weighed(a.load(), b.slots).cmp(&weighed(b.load(), a.slots)))
        .then_with(|| a.in_flight.cmp(&b.in_flight))
        .then_with(|| a.id.cmp(b.id))
}

fn reject(snapshot: &Snapshot<'_>, demand: &Demand<'_>, has_workers: bool) -> Decision {
    let mut with_model = snapshot.hives.iter().filter(|hive| hive.entry(demand.model).is_some());
    let gone = with_model.by_ref().map(|hive| hive.id).min();
    let (reason, retry_after_s) = match gone {
        Some(hive) => (RejectReason::HiveGone { hive: hive.clone() }, Some(RETRY_HIVE_S)),
        None if has_workers => (RejectReason::NoWorkerLeft, Some(RETRY_SOON_S)),
        None => (RejectReason::UnknownModel, None),
    };
    Decision::Reject { reason, retry_after_s }
}
