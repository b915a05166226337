//! Which jobs are known, how many run, and which ended ones are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use worker_contract::JobId;

use crate::Limits;
use crate::context::LiveJob;
use crate::job::Job;
use crate::limits::LATEST;

/// The jobs of a registry.
#[derive(Default)]
pub(super) struct Table {
    jobs: HashMap<JobId, Numbered>,
    inserted: u64,
    running: usize,
    /// How many of those are waited for when the daemon stops.
    draining: usize,
    /// Whether no more jobs are taken.
    is_closed: bool,
    /// Retired jobs, the one that ended first in front.
    retired: VecDeque<JobId>,
    /// Those of them that still have all their events, with the events' bytes.
    whole: VecDeque<(JobId, usize)>,
    whole_bytes: usize,
}

struct Numbered {
    number: u64,
    live: Arc<LiveJob>,
}

impl Table {
    /// Adds a job, which counts as running until it has ended.
    pub(super) fn insert(&mut self, live: Arc<LiveJob>) {
        self.inserted += 1;
        if !live.job.borrow().has_ended() {
            self.running += 1;
            self.draining += usize::from(live.drains);
        }
        self.jobs.insert(live.facts.id.clone(), Numbered { number: self.inserted, live });
    }

    /// A running job has ended.
    pub(super) fn ended(&mut self, live: &LiveJob) {
        self.running = self.running.saturating_sub(1);
        self.draining = self.draining.saturating_sub(usize::from(live.drains));
    }

    /// Takes no more jobs.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn draining(&self) -> usize {
        self.draining
    }

    /// Puts an ended job with those that may be forgotten, and forgets what is over the limits.
    /// Gives the ids of the forgotten ones.
    pub(super) fn retire(&mut self, id: &JobId, limits: &Limits) -> Vec<JobId> {
        let Some(job) = self.jobs.get(id) else { return Vec::new() };
        let bytes = job.live.job.borrow().log().bytes();
        self.retired.push_back(id.clone());
        self.whole.push_back((id.clone(), bytes));
        self.whole_bytes += bytes;
        let mut forgotten = self.forget_over(limits.keep_jobs.max(1));
        forgotten.extend(self.forget_older(&limits.oldest()));
        self.shrink_over(limits.bytes_of_ended_jobs);
        forgotten
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Arc<LiveJob>> {
        self.jobs.get(id).map(|job| Arc::clone(&job.live))
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn latest_first(&self) -> Vec<Arc<LiveJob>> {
        let mut jobs: Vec<_> = self.jobs.values().collect();
        jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.number));
        jobs.into_iter().map(|job| Arc::clone(&job.live)).collect()
    }

    /// Forgets what has ended before a time, but none of the latest.
    fn forget_older(&mut self, oldest: &str) -> Vec<JobId> {
        let is_old = |id: &&JobId| {
            let job = self.jobs.get(*id).map(|job| job.live.job.borrow());
            job.is_some_and(|job| job.ended_at().is_some_and(|at| at < oldest))
        };
        let over = self.retired.len().saturating_sub(LATEST);
        let old = self.retired.iter().take(over).take_while(is_old).count();
        self.forget_over(self.retired.len() - old)
    }

    fn forget_over(&mut self, keep: usize) -> Vec<JobId> {
        let over = self.retired.len().saturating_sub(keep);
        let forgotten: Vec<_> = self.retired.drain(..over).collect();
        for id in &forgotten {
            self.jobs.remove(id);
            // Both queues are in the order of the ends, so a whole forgotten job is in front.
            if self.whole.front().is_some_and(|(whole, _)| whole == id) {
                self.pop_whole();
            }
        }
        forgotten
    }

    fn shrink_over(&mut self, max_bytes: usize) {
        // Whoever follows the last one may still have to read its result.
        while self.whole_bytes > max_bytes && self.whole.len() > 1 {
            let Some(id) = self.pop_whole() else { return };
            if let Some(job) = self.jobs.get(&id) {
                job.live.job.send_modify(Job::forget_events);
            }
        }
    }

    fn pop_whole(&mut self) -> Option<JobId> {
        let (id, bytes) = self.whole.pop_front()?;
        self.whole_bytes -= bytes;
        Some(id)
    }
}
