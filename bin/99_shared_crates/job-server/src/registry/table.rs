//! Which jobs are known, how many run, and which ended ones are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use worker_contract::JobId;

use crate::Limits;
use crate::context::LiveJob;
use crate::job::Job;
use crate::limits::Keep;

/// The jobs of a registry.
#[derive(Default)]
pub(super) struct Table {
    jobs: Jobs,
    inserted: u64,
    running: usize,
    /// How many of those are waited for when the daemon stops.
    draining: usize,
    /// Whether no more jobs are taken.
    is_closed: bool,
    /// Ended jobs,
    kept: Retired,
    /// and those of them that only looked, which push none of the others out.
    looks: Retired,
}

type Jobs = HashMap<JobId, Numbered>;

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

    /// Puts an ended job with those that may be forgotten, and forgets what is over the limits. Gives the forgotten
    /// ones.
    pub(super) fn retire(&mut self, id: &JobId, limits: &Limits) -> Vec<Arc<LiveJob>> {
        let Some(job) = self.jobs.get(id) else { return Vec::new() };
        let bytes = job.live.job.borrow().log().bytes();
        let retired = if job.live.only_looks { &mut self.looks } else { &mut self.kept };
        retired.push(id.clone(), bytes);
        let mut forgotten = self.kept.forget(&mut self.jobs, &limits.keep(false));
        forgotten.extend(self.looks.forget(&mut self.jobs, &limits.keep(true)));
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
}

/// Ended jobs of one kind, the one that ended first in front.
#[derive(Default)]
struct Retired {
    ids: VecDeque<JobId>,
    /// Those of them that still have all their events, with the events' bytes.
    whole: VecDeque<(JobId, usize)>,
    whole_bytes: usize,
}

impl Retired {
    fn push(&mut self, id: JobId, bytes: usize) {
        self.ids.push_back(id.clone());
        self.whole.push_back((id, bytes));
        self.whole_bytes += bytes;
    }

    /// Forgets the jobs that are over a limit, and the events that are. Gives the forgotten jobs.
    fn forget(&mut self, jobs: &mut Jobs, keep: &Keep) -> Vec<Arc<LiveJob>> {
        let many = self.ids.len().saturating_sub(keep.jobs);
        let forgotten = self.forget_first(many.max(self.too_old(jobs, keep)), jobs);
        self.shrink_over(keep.bytes, jobs);
        forgotten
    }

    /// How many in front have ended too long ago; none of the latest.
    fn too_old(&self, jobs: &Jobs, keep: &Keep) -> usize {
        let is_old = |id: &&JobId| {
            let job = jobs.get(*id).map(|job| job.live.job.borrow());
            job.is_some_and(|job| job.ended_at().is_some_and(|at| at < keep.oldest.as_str()))
        };
        let over = self.ids.len().saturating_sub(keep.latest);
        self.ids.iter().take(over).take_while(is_old).count()
    }

    fn forget_first(&mut self, count: usize, jobs: &mut Jobs) -> Vec<Arc<LiveJob>> {
        let mut forgotten = Vec::with_capacity(count);
        for id in self.ids.drain(..count).collect::<Vec<_>>() {
            forgotten.extend(jobs.remove(&id).map(|job| job.live));
            // Both queues are in the order of the ends, so a whole forgotten job is in front.
            if self.whole.front().is_some_and(|(whole, _)| *whole == id) {
                self.pop_whole();
            }
        }
        forgotten
    }

    fn shrink_over(&mut self, max_bytes: usize, jobs: &Jobs) {
        // Whoever follows the last one may still have to read its result.
        while self.whole_bytes > max_bytes && self.whole.len() > 1 {
            let Some(id) = self.pop_whole() else { return };
            if let Some(job) = jobs.get(&id) {
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
