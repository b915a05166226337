//! What the dispatcher records of its decisions.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use worker_contract::WorkerId;

use super::{Dispatcher, Wait, Waiting, Wanted};
use crate::decisions::{Because, Decided, Kind};
use crate::registry::Place;
use crate::scheduler::{MakeWay, Spawn, WaitReason};

/// How often it is recorded that a request waits for something else than before.
const MOST_CHANGES: u8 = 16;
/// After how many refusals of servers that are full it is not recorded any more at once that another one, or
/// the same again, is asked.
const TOLD_BOUNCES: u8 = 3;

/// How often it was recorded that a request waits. A clone counts the same: a request that is sent back, and
/// waits anew, has no more records than others.
#[derive(Debug, Clone, Default)]
pub struct WaitsTold(Arc<AtomicU8>);

impl WaitsTold {
    /// Whether it has waited at all.
    pub(crate) fn is_any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// Counts one more. False where there are enough.
    fn one_more(&self) -> bool {
        let more = |told: u8| (told <= MOST_CHANGES).then(|| told + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

/// Whether the place of a request is recorded when it gets it, after so many refusals of full servers, and not
/// only once it is answered there.
pub(crate) fn is_told_at_once(bounces: u8) -> bool {
    bounces < TOLD_BOUNCES
}

impl Dispatcher {
    /// A request has its place. That there is none is recorded by who knows what follows from it: it may
    /// be gone on with in another way.
    pub(super) fn log_placed(&self, wanted: &Wanted, place: &Place) {
        if !is_told_at_once(wanted.bounces) {
            return;
        }
        let why = Because::Why(place.why.clone());
        let decided = Decided::new(Kind::Dispatch, why).worker(&place.worker_id);
        self.decisions.record(wanted.concern(decided));
    }

    /// A request has no place yet.
    pub(super) fn log_wait(&self, wanted: &Wanted, wait: &Wait) {
        if !wanted.waits_told.one_more() {
            return;
        }
        let decided = Decided::told(Kind::Wait, wait.as_str(), wait.to_string());
        self.decisions.record(wanted.concern(decided));
    }

    /// A request is found to wait for something, perhaps for something else than before.
    pub(super) fn log_change(&self, waiting: &Waiting, reason: WaitReason) {
        let wait = Wait::For(reason);
        if !waiting.told.replace(wait).covers(reason) {
            self.log_wait(&waiting.wanted, &wait);
        }
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
