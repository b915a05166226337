//! What must hold when all has come to rest, and what hives must never be asked for.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rbee_operations::Operation;
use tokio::time::{Instant, sleep};
use worker_contract::{SupervisedState, WorkerId, WorkerState};

use super::Shared;
use super::guests::MODELS;
use super::machine::Machine;
use crate::clock;
use crate::simulation::queen::Queen;

/// How long it may take until nothing moves any more: a start that failed is tried again after a minute.
const LONGEST: Duration = Duration::from_secs(120);

/// Sees what hives are asked for.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) queen: OnceLock<Queen>,
    pub(super) history: Shared,
}

impl Witness {
    pub(super) fn violated(&self, what: &str) {
        let told = format!("{:?} {what}", turmoil::elapsed());
        self.history.lock().unwrap().violations.push(told);
    }

    pub(super) fn tell(&self, what: &str) {
        self.history.lock().unwrap().told.push(format!("{:?} {what}", turmoil::elapsed()));
    }

    /// A hive is asked for something; gives it in words.
    pub(super) fn sees(&self, hive: &str, operation: &Operation) -> String {
        let asked = match operation {
            Operation::WorkerSpawn(spawn) => format!("{hive} start {}", spawn.model),
            Operation::WorkerDelete(target) => {
                self.sees_end(&target.worker_id);
                format!("{hive} end {}", target.worker_id)
            }
            other => format!("{hive} {}", other.name()),
        };
        self.tell(&asked);
        asked
    }

    fn sees_end(&self, id: &WorkerId) {
        let Some(queen) = self.queen.get() else { return };
        let workers = queen.registry.workers(clock::now());
        let Some(worker) = workers.iter().find(|worker| worker.said.worker_id == *id) else {
            return;
        };
        if worker.in_flight > 0 {
            self.violated(&format!("{id} is ended, which has {} requests", worker.in_flight));
        }
        let model = &worker.said.model.name;
        let is_last = || {
            let of_model = workers.iter().filter(|other| other.said.model.name == *model);
            of_model.count() == 1
        };
        if queen.policies.of(model).pin && is_last() {
            self.violated(&format!("{id} is ended, the only one of a model that is pinned"));
        }
    }
}

/// Waits until nothing moves any more; at the deadline, what is not at rest.
pub(super) async fn come(queen: &Queen, machines: &[Arc<Machine>]) -> Option<String> {
    let until = Instant::now() + LONGEST;
    loop {
        let moving = moving(queen, machines)?;
        if Instant::now() > until {
            return Some(moving);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What is not at rest.
fn moving(queen: &Queen, machines: &[Arc<Machine>]) -> Option<String> {
    let now = clock::now();
    let waiting = queen.relay.waiting();
    let workers = queen.registry.workers(now);
    let in_flight: u32 = workers.iter().map(|worker| worker.in_flight).sum();
    let (starts, claims) = (queen.spawner.under_way(), queen.registry.claims());
    let making_way = queen.registry.making_way();
    if waiting > 0 || in_flight > 0 || starts > 0 || claims > 0 || making_way > 0 {
        return Some(format!(
            "{waiting} wait, {in_flight} are in flight, {starts} starts are under way, {claims} claim \
             memory, {making_way} make way"
        ));
    }
    // Those that their hives have given up are shown, and are no more.
    let known = workers.iter().filter(|it| !matches!(it.said.state, WorkerState::Failed { .. }));
    let known: BTreeSet<_> =
        known.map(|worker| (worker.said.worker_id.to_string(), worker.said.pid)).collect();
    let there = machines.iter().flat_map(|machine| machine.living());
    let there: BTreeSet<_> =
        there.map(|knobs| (knobs.who.name.clone(), knobs.pid.load(SeqCst))).collect();
    if known != there {
        return Some(format!("the queen knows {known:?}, there are {there:?}"));
    }
    for model in MODELS {
        let policy = queen.policies.of(&model.parse().unwrap());
        let ready = machines.iter().flat_map(|machine| machine.listed()).filter(|worker| {
            worker.model.as_str() == model && worker.state == SupervisedState::Ready
        });
        let count = u32::try_from(ready.count()).unwrap();
        if count < policy.min {
            return Some(format!("{model} has {count} workers, not {}", policy.min));
        }
    }
    None
}
