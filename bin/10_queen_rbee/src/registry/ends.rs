//! Which processes of workers have ended lately, whether requests were there or not, but for those that were to end.
//! Pure: `now` is passed in.
//!
//! Where workers end at which a request was not, somebody ends them from outside.

use std::collections::VecDeque;
use std::time::Instant;

use worker_contract::ModelAlias;

use super::Registry;
use super::prefixes::Holder;
use crate::scheduler::FailedBy;

/// How many are remembered, the latest.
const MOST: usize = 256;

/// The latest ends, the first first.
#[derive(Debug, Default)]
pub(super) struct Ends(VecDeque<End>);

/// The end of a process, or of what is known of it.
#[derive(Debug)]
struct End {
    process: Holder,
    model: ModelAlias,
    at: Instant,
}

impl Ends {
    /// One has ended, or is gone; it counts once.
    pub(super) fn add(&mut self, process: Holder, model: &ModelAlias, now: Instant) {
        if self.0.iter().any(|end| end.process == process) {
            return;
        }
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(End { process, model: model.clone(), at: now });
    }

    /// How many others have ended since a time, of the models of these.
    fn others(&self, since: Instant, own: &[Holder]) -> usize {
        let is_own = |end: &&End| own.contains(&end.process);
        let models: Vec<_> = self.0.iter().filter(is_own).map(|end| &end.model).collect();
        let is_other = |end: &&End| end.at >= since && !is_own(end) && models.contains(&&end.model);
        self.0.iter().filter(is_other).count()
    }
}

#[cfg(test)]
impl Ends {
    /// The last one.
    pub(super) fn last(&self) -> Option<Holder> {
        self.0.back().map(|end| end.process)
    }
}

impl Registry {
    /// How many workers of the same models have ended since a time, or are gone, beside those whose processes these
    /// were.
    #[must_use]
    pub fn other_ends(&self, since: Instant, own: &[u64]) -> usize {
        self.state().workers.ends.others(since, own)
    }

    /// Whether a worker is still silent in the process in which it failed a request.
    #[must_use]
    pub fn hangs(&self, by: &FailedBy) -> bool {
        let state = self.state();
        state.workers.get(&by.worker).is_some_and(|worker| worker.is_silent_in(by.process))
    }

    /// It is known what has ended these: they speak for nobody.
    pub fn explain_ends(&self, these: &[u64]) {
        self.state().workers.ends.0.retain(|end| !these.contains(&end.process));
    }
}
