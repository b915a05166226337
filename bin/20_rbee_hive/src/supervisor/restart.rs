//! Whether a worker that failed is started again, and when. Pure.
//!
//! ```text
//!   Closed ── failure ──▶ Closed: again after 0.2 s, 0.4 s, 0.8 s, … (each up to twice as long)
//!     │
//!     └── the failure that fills the window ──▶ Open: not again until somebody asks for it
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

/// The shortest pause before a worker is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before the jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How much failing is put up with.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestartPolicy {
    /// The failure that is one too many.
    pub(super) max_failures: usize,
    /// For how long a failure counts.
    pub(super) window: Duration,
}

/// The failures of one worker that count.
#[derive(Debug)]
pub(super) struct FailureHistory {
    policy: RestartPolicy,
    /// What tells this worker's pauses from those of others that failed at the same moment.
    seed: u64,
    failures: VecDeque<Instant>,
}

/// What becomes of a worker that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is started again after this time.
    Again(Duration),
    /// It has failed this often within the window: it is left alone.
    GiveUp {
        /// How often.
        failures: usize,
    },
}

impl FailureHistory {
    pub(super) fn new(policy: RestartPolicy, seed: u64) -> Self {
        Self { policy, seed, failures: VecDeque::new() }
    }

    /// The same with failures of before, each so long ago.
    pub(super) fn resumed(mut self, ages: &[Duration], now: Instant) -> Self {
        self.failures = ages.iter().filter_map(|age| now.checked_sub(*age)).collect();
        self.failures.make_contiguous().sort();
        self
    }

    /// How long ago each failure was.
    pub(super) fn ages(&self, now: Instant) -> Vec<Duration> {
        self.failures.iter().map(|at| now.saturating_duration_since(*at)).collect()
    }

    /// Takes in a failure and says what becomes of the worker.
    pub(super) fn failed(&mut self, now: Instant) -> Verdict {
        let window = self.policy.window;
        self.failures.retain(|at| now.saturating_duration_since(*at) < window);
        self.failures.push_back(now);
        let failures = self.failures.len();
        if failures >= self.policy.max_failures {
            return Verdict::GiveUp { failures };
        }
        Verdict::Again(self.pause(failures))
    }

    fn pause(&self, failures: usize) -> Duration {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(self.seed);
        pauses.build().nth(failures - 1).unwrap_or(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RestartPolicy =
        RestartPolicy { max_failures: 5, window: Duration::from_mins(10) };

    #[test]
    fn pauses_double_and_the_fifth_failure_is_the_last() {
        let (mut history, now) = (FailureHistory::new(POLICY, 1), Instant::now());
        for shortest in [200, 400, 800, 1600] {
            let Verdict::Again(pause) = history.failed(now) else { panic!("{history:?}") };
            let shortest = Duration::from_millis(shortest);
            assert!((shortest..=2 * shortest).contains(&pause), "{shortest:?}: {pause:?}");
        }
        assert_eq!(history.failed(now), Verdict::GiveUp { failures: 5 });
    }

    #[test]
    fn a_failure_counts_for_as_long_as_the_window() {
        let (mut history, mut now) = (FailureHistory::new(POLICY, 1), Instant::now());
        for _ in 0..100 {
            let verdict = history.failed(now);
            assert!(matches!(verdict, Verdict::Again(_)), "four in ten minutes: {verdict:?}");
            now += Duration::from_secs(150);
        }
        assert!(history.failures.len() <= POLICY.max_failures, "nothing piles up");
    }

    #[test]
    fn failures_of_before_count_as_if_nothing_had_been_in_between() {
        let (mut history, now) = (FailureHistory::new(POLICY, 1), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        for second in [0, 100, 200] {
            history.failed(later(second));
        }
        let ages = history.ages(later(300));
        assert_eq!(ages, [300, 200, 100].map(Duration::from_secs));
        let mut next = FailureHistory::new(POLICY, 1).resumed(&ages, later(300));
        assert!(matches!(next.failed(later(310)), Verdict::Again(_)));
        assert_eq!(next.failed(later(320)), Verdict::GiveUp { failures: 5 });
        let mut old = FailureHistory::new(POLICY, 1).resumed(&ages, later(300));
        assert!(matches!(old.failed(later(650)), Verdict::Again(_)), "the first is too long ago");
        assert!(matches!(old.failed(later(750)), Verdict::Again(_)));
    }

    #[test]
    fn workers_that_fail_together_are_not_started_together() {
        let now = Instant::now();
        let mut pauses: Vec<Verdict> = Vec::new();
        for seed in 0..20 {
            let verdict = FailureHistory::new(POLICY, seed).failed(now);
            assert!(!pauses.contains(&verdict), "{verdict:?}");
            pauses.push(verdict);
        }
    }

    proptest! {
        /// Whatever the times of the failures: the next start is due in bounded time, and no more
        /// than the policy allows are started within any window.
        #[test]
        fn no_pattern_of_failures_starts_more_often_than_the_policy_allows(
            gaps in prop::collection::vec(0u64..400_000, 1..60),
            max_failures in 1usize..12,
        ) {
            let policy = RestartPolicy { max_failures, ..POLICY };
            let (mut history, mut now) = (FailureHistory::new(policy, 7), Instant::now());
            let mut starts: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                match history.failed(now) {
                    Verdict::Again(pause) => {
                        prop_assert!(pause <= 2 * LONGEST_PAUSE);
                        starts.push(now);
                    }
                    Verdict::GiveUp { failures } => {
                        prop_assert_eq!(failures, max_failures);
                        break;
                    }
                }
                let recent = starts.iter().filter(|at| now - **at < policy.window).count();
                prop_assert!(recent < max_failures);
            }
        }
    }
}
