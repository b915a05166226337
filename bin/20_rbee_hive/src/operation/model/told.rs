//! A job that hears how a download goes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use job_server::JobContext;
use rbee_operations::{Pace, Progress};

use crate::download::{Hears, Rate, Reached, eta};

/// The shortest time between two progress events.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Passes on what it hears as the job's events.
pub(super) struct Told {
    job: JobContext,
    doing: String,
    begun: Instant,
    last: Mutex<(Option<Duration>, Rate)>,
}

impl Told {
    pub(super) fn new(job: JobContext, doing: String) -> Self {
        Self { job, doing, begun: Instant::now(), last: Mutex::default() }
    }
}

impl Hears for Told {
    fn reached(&self, Reached { done, found, total }: Reached) {
        let now = self.begun.elapsed();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, rate) = &mut *last;
        let is_whole = total == Some(done);
        if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) && !is_whole {
            return;
        }
        *told = Some(now);
        let per_second = rate.note(now, done.saturating_sub(found));
        let pace = Pace { per_second, eta_s: eta(done, total, per_second) };
        let progress = Progress { done, total, unit: "bytes".into() };
        self.job.progress_at(self.doing.clone(), progress, pace);
    }

    fn note(&self, words: String) {
        self.job.warn(words);
    }
}
