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
/// How long a worker may take to finish what it runs. One that takes longer is used again.
const FINISHING: Duration = Duration::from_secs(120);
/// The most workers that something is known of.
const MOST: usize = 4096;

/// What is known of turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_worker: BTreeMap<WorkerId, Turn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    /// It has its place for now.
    Keeps { until: Instant },
    /// It finishes what it runs, for a worker of a model.
    MakesWay { model: ModelAlias, until: Instant },
}

impl Turns {
    /// A worker has begun, which took so long to start.
    pub(super) fn begins(&mut self, id: &WorkerId, took: Duration, now: Instant) {
        let until = now + took.clamp(TURN, LONGEST_TURN);
        self.put(id, Turn::Keeps { until });
    }

    /// A worker makes way for a model; whether it did not before.
    fn makes_way(&mut self, id: &WorkerId, model: &ModelAlias, now: Instant) -> bool {
        let is_told = self.makes_way_for(id) == Some(model);
        if !is_told {
            self.put(id, Turn::MakesWay { model: model.clone(), until: now + FINISHING });
        }
        !is_told
    }

    /// The model for which a worker makes way.
    pub(super) fn makes_way_for(&self, id: &WorkerId) -> Option<&ModelAlias> {
        match self.by_worker.get(id)? {
            Turn::MakesWay { model, .. } => Some(model),
            Turn::Keeps { .. } => None,
        }
    }

    pub(super) fn keeps_place(&self, id: &WorkerId, now: Instant) -> bool {
        matches!(self.by_worker.get(id), Some(Turn::Keeps { until }) if now < *until)
    }

    /// Those come back into use that make way for somebody who does not need it. They have another turn, so
    /// that nothing swings to and fro. Whether there was any.
    pub(super) fn come_back(
        &mut self,
        is_needed: impl Fn(&WorkerId, &ModelAlias) -> bool,
        now: Instant,
    ) -> bool {
        let mut is_any = false;
        for (id, turn) in &mut self.by_worker {
            if let Turn::MakesWay { model, .. } = turn
                && !is_needed(id, model)
            {
                tracing::info!(worker_id = %id, %model, "a worker need not make way any longer");
                *turn = Turn::Keeps { until: now + TURN };
                is_any = true;
            }
        }
        is_any
    }

    /// Ends what is over. Whether somebody comes back into use.
    pub(super) fn sweep(&mut self, now: Instant) -> bool {
        self.by_worker.retain(|_, turn| !matches!(turn, Turn::Keeps { until } if *until <= now));
        let mut is_any = false;
        for (id, turn) in &mut self.by_worker {
            if let Turn::MakesWay { model, until } = turn
                && *until <= now
            {
                tracing::info!(worker_id = %id, %model, "a worker takes long to finish: it is used again");
                *turn = Turn::Keeps { until: now + TURN };
                is_any = true;
            }
        }
        is_any
    }

    fn put(&mut self, id: &WorkerId, turn: Turn) {
        if self.by_worker.len() < MOST || self.by_worker.contains_key(id) {
            self.by_worker.insert(id.clone(), turn);
        }
    }
}

impl State {
    /// Ends turns that are over, and what nobody waits for. Whether somebody comes back into use.
    pub(super) fn sweep_turns(&mut self, is_any_waiting: bool, now: Instant) -> bool {
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
        assert!(!turns.sweep(at(239)) && turns.makes_way_for(&id) == Some(&model));
        assert!(turns.sweep(at(240)), "it takes too long");
        assert_eq!(turns.makes_way_for(&id), None);
        assert!(turns.keeps_place(&id, at(249)) && !turns.keeps_place(&id, at(250)));
        assert!(turns.makes_way(&id, &model, at(250)));
        assert!(!turns.come_back(|_, _| true, at(251)));
        assert!(turns.come_back(|_, its| *its != model, at(251)), "nobody needs it");
        assert!(turns.keeps_place(&id, at(260)));
        turns.sweep(at(261));
        assert!(turns.by_worker.is_empty());
    }
}
