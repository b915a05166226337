//! What a registry keeps and admits.

use std::time::Duration;

use crate::job::time_text;

/// So many of the latest ended jobs are not forgotten for their age: a clock that is years ahead makes all
/// of them old.
pub(crate) const LATEST: usize = 100;

/// What a [`JobRegistry`](crate::JobRegistry) keeps and admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many ended jobs are remembered; the oldest is forgotten first. At least one is.
    pub keep_jobs: usize,
    /// For how long ended jobs are remembered; the latest hundred are in any case.
    pub keep_for: Duration,
    /// How many events a job keeps for replay; the oldest is dropped first.
    pub events_per_job: usize,
    /// How many bytes of JSON a job's kept events may have together.
    pub bytes_per_job: usize,
    /// How many bytes of JSON the events of all ended jobs may have together. Past it, the job that
    /// ended first keeps only its final event, without data where that is large; the one that ended last
    /// keeps all.
    pub bytes_of_ended_jobs: usize,
    /// How many jobs run at once: so many that [drain](crate::Executor::drains), and so many others. One more is
    /// refused.
    pub running: usize,
}

impl Limits {
    /// What has ended before is forgotten for its age: a time as jobs have it.
    pub(crate) fn oldest(&self) -> String {
        time_text(
            jiff::Timestamp::now().saturating_sub(self.keep_for).unwrap_or(jiff::Timestamp::MIN),
        )
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_jobs: 1000,
            keep_for: Duration::from_secs(30 * 24 * 3600),
            events_per_job: 4096,
            bytes_per_job: 4 << 20,
            bytes_of_ended_jobs: 64 << 20,
            running: 256,
        }
    }
}
