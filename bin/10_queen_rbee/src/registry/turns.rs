//! Whose turn it is: who makes way for others, and who has just begun and keeps its place for a while.
//! Pure: `now` is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worker_contract::{ModelAlias, WorkerId};

use super::{Registry, State};
use crate::scheduler::MakeWay;

/// How long a worker that has begun keeps its place at least, however many wait for it: this long, or as long
/// as it took to start,
const TURN: Duration = Duration::from_secs(10);
/// and no longer than that.
const LONGEST_TURN: Duration = Duration::from_secs(120);
/// How long a worker may take to finish what it runs: as long as a request may take where nobody has set it
/// otherwise. One that takes longer is used again.
const FINISHING: Duration = Duration::from_secs(600);
/// The most workers that something is known of.
const MOST: usize = 4096;

/// What is known of turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those that have their places for now.
    keeping: BTreeMap<WorkerId, Instant>,
    /// Those that finish what they run, for a worker of a model. Few, since each request looks.
    making_way: BTreeMap<WorkerId, (ModelAlias, Instant)>,
}

impl Turns {
    /// A worker has begun, which took so long to start.
    pub(super) fn begins(&mut self, id: &WorkerId, took: Duration, now: Instant) {
        self.keeps(id, now + took.clamp(TURN, LONGEST_TURN));
    }

    /// A worker makes way for a model; whether it did not before.
    fn makes_way(&mut self, id: &WorkerId, model: &ModelAlias, now: Instant) -> bool {
        if self.makes_way_for(id) == Some(model) || self.making_way.len() >= MOST {
            return false;
        }
        self.keeping.remove(id);
        self.making_way.insert(id.clone(), (model.clone(), now + FINISHING));
        true
    }

    /// The model for which a worker makes way.
    pub(super) fn makes_way_for(&self, id: &WorkerId) -> Option<&ModelAlias> {
        self.making_way.get(id).map(|(model, _)| model)
    }

    /// It is being ended.
    pub(super) fn forget(&mut self, id: &WorkerId) {
        self.keeping.remove(id);
        self.making_way.remove(id);
    }

    pub(super) fn keeps_place(&self, id: &WorkerId, now: Instant) -> bool {
        self.keeping.get(id).is_some_and(|until| now < *until)
    }

    /// Those come back into use that make way for somebody who does not need it. They have another turn, so
    /// that nothing swings to and fro. Whether there was any.
    pub(super) fn come_back(
        &mut self,
        is_needed: impl Fn(&WorkerId, &ModelAlias) -> bool,
        now: Instant,
    ) -> bool {
        let back = self.back(|id, model, _| !is_needed(id, model), now);
        for (id, model) in &back {
            tracing::info!(worker_id = %id, %model, "a worker need not make way any longer");
        }
        !back.is_empty()
    }

    /// Ends what is over. Whether somebody comes back into use.
    pub(super) fn sweep(&mut self, now: Instant) -> bool {
        self.keeping.retain(|_, until| now < *until);
        let back = self.back(|_, _, until| until <= now, now);
        for (id, model) in &back {
            tracing::info!(worker_id = %id, %model, "a worker takes long to finish: it is used again");
        }
        !back.is_empty()
    }

    /// Some of those that make way have another turn instead: gives them, and for which model they did.
    fn back(
        &mut self,
        comes: impl Fn(&WorkerId, &ModelAlias, Instant) -> bool,
        now: Instant,
    ) -> Vec<(WorkerId, ModelAlias)> {
        let mut back = Vec::new();
        self.making_way.retain(|id, (model, until)| {
            let stays = !comes(id, model, *until);
            if !stays {
                back.push((id.clone(), model.clone()));
            }
            stays
        });
        for (id, _) in &back {
            self.keeps(id, now + TURN);
        }
        back
    }

    fn keeps(&mut self, id: &WorkerId, until: Instant) {
        if self.keeping.len() < MOST || self.keeping.contains_key(id) {
            self.keeping.insert(id.clone(), until);
        }
    }
}

impl State {
    /// Ends turns that are over, and what nobody waits for. Whether somebody comes back into use.
    pub(super) fn sweep_turns(&mut self, is_any_waiting: bool, now: Instant) -> bool {
        self.turns.making_way.retain(|id, _| self.workers.get(id).is_some());
        let is_over = self.turns.sweep(now);
        is_over | (!is_any_waiting && self.turns.come_back(|_, _| false, now))
    }
}

impl Registry {
    /// Workers get no further request, and make way for one of a model; gives those that did not before.
    pub fn make_way(&self, way: &MakeWay, model: &ModelAlias, now: Instant) -> Vec<WorkerId> {
        let state = &mut *self.state();
        let is_there = |id: &&WorkerId| state.workers.get(id).is_some();
        let there = way.workers.iter().filter(is_there);
        there.filter(|id| state.turns.makes_way(id, model, now)).cloned().collect()
    }

    /// Workers that make way for a model that does not need it are used again, by what is said of each.
    pub fn come_back(&self, is_needed: impl Fn(&WorkerId, &ModelAlias) -> bool, now: Instant) {
        if self.state().turns.come_back(is_needed, now) {
            self.touch();
        }
    }

    /// A worker has begun that was started for those who wait, which took so long.
    pub fn turn_begins(&self, id: &WorkerId, took: Duration, now: Instant) {
        self.state().turns.begins(id, took, now);
    }

    /// How many workers make way for others.
    #[cfg(test)]
    pub(crate) fn making_way(&self) -> usize {
        let state = self.state();
        let is_told =
            |(id, _): &(&WorkerId, &super::Worker)| state.turns.makes_way_for(id).is_some();
        state.workers.iter().filter(is_told).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_as_long_as_the_start_and_who_comes_back_has_another_one() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (id, model): (WorkerId, ModelAlias) = ("w-1".parse().unwrap(), "m".parse().unwrap());
        for (took, kept) in [(0, 10), (30, 30), (4_000, 120)] {
            turns.begins(&id, Duration::from_secs(took), start);
            assert!(turns.keeps_place(&id, at(kept - 1)), "{took} s");
            assert!(!turns.keeps_place(&id, at(kept)), "{took} s");
        }
        assert!(turns.makes_way(&id, &model, at(120)) && !turns.makes_way(&id, &model, at(121)));
        assert!(!turns.sweep(at(719)) && turns.makes_way_for(&id) == Some(&model));
        assert!(turns.sweep(at(720)), "it takes too long");
        assert_eq!(turns.makes_way_for(&id), None);
        assert!(turns.keeps_place(&id, at(729)) && !turns.keeps_place(&id, at(730)));
        assert!(turns.makes_way(&id, &model, at(730)));
        assert!(!turns.come_back(|_, _| true, at(731)));
        assert!(turns.come_back(|_, its| *its != model, at(731)), "nobody needs it");
        assert!(turns.keeps_place(&id, at(740)));
        turns.sweep(at(741));
        assert!(turns.keeping.is_empty() && turns.making_way.is_empty());
    }
}
