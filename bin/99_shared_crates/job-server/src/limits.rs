//! What a registry keeps and admits.

use std::time::Duration;

use crate::job::time_text;

/// So many of the latest ended jobs are not forgotten for their age: a clock that is years ahead makes all
/// of them old.
pub(crate) const LATEST: usize = 100;
/// The same for looks.
const LATEST_LOOKS: usize = 16;
/// How many bytes of JSON the events of all ended looks may have together.
const BYTES_OF_LOOKS: usize = 16 << 20;

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
    /// How many ended looks (see [`Executor::only_looks`](crate::Executor::only_looks)) are remembered, apart from the
    /// other jobs: as long as a client needs to come for the result, and to come again.
    pub keep_looks: usize,
    /// For how long ended looks are remembered; the latest sixteen are in any case.
    pub keep_looks_for: Duration,
}

/// What of one kind of ended jobs is kept at a time.
pub(crate) struct Keep {
    pub(crate) jobs: usize,
    /// What has ended before is forgotten for its age: a time as jobs have it.
    pub(crate) oldest: String,
    /// So many of the latest are not forgotten for their age.
    pub(crate) latest: usize,
    pub(crate) bytes: usize,
}

impl Limits {
    /// What has ended before is forgotten for its age: a time as jobs have it.
    pub(crate) fn oldest(&self) -> String {
        ago(self.keep_for)
    }

    /// What is kept of ended jobs, by whether they are looks.
    pub(crate) fn keep(&self, looks: bool) -> Keep {
        if looks {
            let (jobs, oldest) = (self.keep_looks.max(1), ago(self.keep_looks_for));
            return Keep { jobs, oldest, latest: LATEST_LOOKS, bytes: BYTES_OF_LOOKS };
        }
        let (jobs, oldest) = (self.keep_jobs.max(1), self.oldest());
        Keep { jobs, oldest, latest: LATEST, bytes: self.bytes_of_ended_jobs }
    }
}

/// A time as jobs have it.
fn ago(age: Duration) -> String {
    time_text(jiff::Timestamp::now().saturating_sub(age).unwrap_or(jiff::Timestamp::MIN))
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
            // No more than may run at once, so that none of those is forgotten before its reader has come.
            keep_looks: 256,
            keep_looks_for: Duration::from_secs(10 * 60),
        }
    }
}
