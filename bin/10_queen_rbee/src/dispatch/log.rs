//! What the dispatcher records of its decisions.

use worker_contract::WorkerId;

use super::{Dispatcher, Wait, Waiting, Wanted};
use crate::decisions::{Because, Decided, Kind};
use crate::registry::Place;
use crate::scheduler::{MakeWay, Spawn, WaitReason};

/// How often it is recorded that a request waits for something else than before.
const MOST_CHANGES: u8 = 16;

impl Dispatcher {
    /// A request has its place. That there is none is recorded by who knows what follows from it: it may
    /// be gone on with in another way.
    pub(super) fn log_placed(&self, wanted: &Wanted, place: &Place) {
        let why = Because::Why(place.why.clone());
        let decided = Decided::new(Kind::Dispatch, why).worker(&place.worker_id);
        self.decisions.record(wanted.concern(decided));
    }

    /// A request has no place yet.
    pub(super) fn log_wait(&self, wanted: &Wanted, wait: &Wait) {
        let decided = Decided::told(Kind::Wait, wait.as_str(), wait.to_string());
        self.decisions.record(wanted.concern(decided));
    }

    /// A request is found to wait for something, perhaps for something else than before.
    pub(super) fn log_change(&self, waiting: &Waiting, reason: WaitReason) {
        let (told, changes) = waiting.told.get();
        if told.covers(reason) || changes == MOST_CHANGES {
            return;
        }
        let wait = Wait::For(reason);
        waiting.told.set((wait, changes + 1));
        self.log_wait(&waiting.wanted, &wait);
    }

    /// A worker is started for a request, and others make room for it.
    pub(super) fn log_spawn(&self, wanted: &Wanted, spawn: &Spawn) {
        if spawn.asks {
            return;
        }
        for worker in &spawn.evict {
            let of = self.registry.model_of(worker);
            let decided = Decided::evict(worker, of.as_ref(), &wanted.model, &spawn.hive);
            self.decisions.record(decided.asked(&wanted.request_id, &wanted.caller));
        }
        let decided = Decided::new(Kind::Spawn, Because::Spawn(spawn.clone()));
        self.decisions.record(wanted.concern(decided));
    }
}

impl Dispatcher {
    /// A worker makes way for one of another model.
    pub(super) fn log_way(&self, wanted: &Wanted, way: &MakeWay, worker: &WorkerId) {
        let (model, MakeWay { hive, device, .. }) = (&wanted.model, way);
        tracing::info!(worker_id = %worker, %model, %hive, %device, "a worker makes way for a model");
        let why = format!(
            "{model} has waited for memory: {worker} gets no further request, and gives its place on \
             {hive} {device} up when it has finished"
        );
        let decided = Decided::told(Kind::MakeWay, "waited", why).worker(worker);
        self.decisions.record(wanted.concern(decided));
    }
}

impl Wanted {
    fn concern(&self, decided: Decided) -> Decided {
        decided.asked(&self.request_id, &self.caller).model(&self.model)
    }
}
