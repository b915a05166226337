//! Whether a worker that failed is started again, and when. Pure.
//!
//! ```text
//!   Closed ── failure ──▶ Pause of 0.2 s, 0.4 s, 0.8 s, … (each up to twice as long)
//!     ▲                     │  │
//!     └── started again ────┘  └── by then as many as fill the window have not been excused
//!                                     ──▶ Open: not again until somebody asks for it
//! ```
//!
//! Ends that are excused, because a request is to blame for them, are in the way of no start; but the pauses grow
//! with them as well, so that nobody has a worker loaded again and again at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

/// The shortest pause before a worker is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before the jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest pause before a worker is given up: by then the queen has said whether a request is to blame. She
/// waits two seconds at most for the news that she needs for that; longer only where another worker hangs over it, or to
/// see whether workers end without it.
const PLEA: Duration = Duration::from_secs(3);

/// How much failing is put up with.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestartPolicy {
    /// The failure that is one too many.
    pub(super) max_failures: usize,
    /// For how long a failure counts.
    pub(super) window: Duration,
}

/// The failures of one worker within the window, those that are excused included.
#[derive(Debug)]
pub(super) struct FailureHistory {
    policy: RestartPolicy,
    /// What tells this worker's pauses from those of others that failed at the same moment.
    seed: u64,
    failures: VecDeque<Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    at: Instant,
    /// The process that ended; `None` where none could be started, or an earlier hive saw it.
    process: Option<u32>,
}

impl Failure {
    fn is_excused(&self, excused: &[u32]) -> bool {
        self.process.is_some_and(|process| excused.contains(&process))
    }
}

impl FailureHistory {
    pub(super) fn new(policy: RestartPolicy, seed: u64) -> Self {
        Self { policy, seed, failures: VecDeque::new() }
    }

    /// The same with failures of before, each so long ago.
    pub(super) fn resumed(mut self, ages: &[Duration], now: Instant) -> Self {
        let mut times: Vec<Instant> = ages.iter().filter_map(|age| now.checked_sub(*age)).collect();
        times.sort();
        self.failures = times.into_iter().map(|at| Failure { at, process: None }).collect();
        self
    }

    /// How long ago each failure was that is not excused.
    pub(super) fn ages(&self, excused: &[u32], now: Instant) -> Vec<Duration> {
        let counts = self.failures.iter().filter(|failure| !failure.is_excused(excused));
        counts.map(|failure| now.saturating_duration_since(failure.at)).collect()
    }

    /// Takes in a failure, of this process if there was one, and says after which pause it is to be decided whether
    /// the worker has failed [too often](Self::too_many) or is started again.
    pub(super) fn failed(&mut self, process: Option<u32>, now: Instant) -> Duration {
        let window = self.policy.window;
        self.failures.retain(|failure| now.saturating_duration_since(failure.at) < window);
        self.failures.push_back(Failure { at: now, process });
        let failures = self.failures.len();
        let pause = self.pause(failures);
        if failures < self.policy.max_failures { pause } else { pause.max(PLEA) }
    }

    /// How often the worker has failed within the window before its last failure, but for the processes that are
    /// excused, where that is too often: then it is left alone.
    pub(super) fn too_many(&self, excused: &[u32]) -> Option<usize> {
        let last = self.failures.back()?.at;
        let counts = |failure: &&Failure| {
            last.saturating_duration_since(failure.at) < self.policy.window
                && !failure.is_excused(excused)
        };
        let failures = self.failures.iter().filter(counts).count();
        (failures >= self.policy.max_failures).then_some(failures)
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
            let pause = history.failed(None, now);
            let shortest = Duration::from_millis(shortest);
            assert!((shortest..=2 * shortest).contains(&pause), "{shortest:?}: {pause:?}");
            assert_eq!(history.too_many(&[]), None);
        }
        history.failed(None, now);
        assert_eq!(history.too_many(&[]), Some(5));
    }

    #[test]
    fn what_requests_have_ended_is_never_too_much_and_has_the_pauses_grow_all_the_same() {
        let (mut history, now) = (FailureHistory::new(POLICY, 1), Instant::now());
        let (mut excused, mut last) = (Vec::new(), Duration::ZERO);
        for process in 0..20 {
            let pause = history.failed(Some(process), now);
            assert!(pause > last || pause >= LONGEST_PAUSE, "{process}: {pause:?} after {last:?}");
            last = pause;
            // Each request is convicted after its second end.
            if process % 2 == 1 {
                excused.extend([process - 1, process]);
            }
            assert_eq!(history.too_many(&excused), None, "{process}");
        }
        assert!(history.ages(&excused, now).is_empty(), "the next hive knows of none");
    }

    #[test]
    fn what_nobody_excuses_counts_beside_what_is_excused_and_a_failed_start_is_no_process() {
        let (mut history, now) = (FailureHistory::new(POLICY, 1), Instant::now());
        let excused = [7, 8];
        for process in [Some(7), Some(1), Some(8), None, Some(2), None] {
            history.failed(process, now);
            assert_eq!(history.too_many(&excused), None, "{process:?}");
        }
        history.failed(Some(3), now);
        assert_eq!(history.too_many(&excused), Some(5));
        assert_eq!(history.ages(&excused, now).len(), 5);
    }

    #[test]
    fn the_queen_has_time_to_excuse_what_would_be_one_too_many() {
        let policy = RestartPolicy { max_failures: 2, ..POLICY };
        let (mut history, now) = (FailureHistory::new(policy, 1), Instant::now());
        assert!(history.failed(Some(7), now) < PLEA);
        assert!(history.failed(Some(8), now) >= PLEA);
        assert_eq!((history.too_many(&[]), history.too_many(&[7, 8])), (Some(2), None));
    }

    #[test]
    fn a_failure_counts_for_as_long_as_the_window() {
        let (mut history, mut now) = (FailureHistory::new(POLICY, 1), Instant::now());
        for _ in 0..100 {
            history.failed(None, now);
            assert_eq!(history.too_many(&[]), None, "four in ten minutes");
            now += Duration::from_secs(150);
        }
        assert!(history.failures.len() <= POLICY.max_failures, "nothing piles up");
    }

    #[test]
    fn failures_of_before_count_as_if_nothing_had_been_in_between() {
        let (mut history, now) = (FailureHistory::new(POLICY, 1), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        for second in [0, 100, 200] {
            history.failed(None, later(second));
        }
        let ages = history.ages(&[], later(300));
        assert_eq!(ages, [300, 200, 100].map(Duration::from_secs));
        let check = |seconds: [u64; 2], expected| {
            let mut next = FailureHistory::new(POLICY, 1).resumed(&ages, later(300));
            let found = seconds.map(|second| {
                next.failed(None, later(second));
                next.too_many(&[])
            });
            assert_eq!(found, expected, "{seconds:?}");
        };
        check([310, 320], [None, Some(5)]);
        // The first one is too long ago.
        check([650, 750], [None, None]);
    }

    #[test]
    fn workers_that_fail_together_are_not_started_together() {
        let now = Instant::now();
        let mut pauses: Vec<Duration> = Vec::new();
        for seed in 0..20 {
            let pause = FailureHistory::new(POLICY, seed).failed(None, now);
            assert!(!pauses.contains(&pause), "{pause:?}");
            pauses.push(pause);
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
                let pause = history.failed(None, now);
                prop_assert!(pause <= 2 * LONGEST_PAUSE);
                if let Some(failures) = history.too_many(&[]) {
                    prop_assert_eq!(failures, max_failures);
                    break;
                }
                starts.push(now);
                let recent = starts.iter().filter(|at| now - **at < policy.window).count();
                prop_assert!(recent < max_failures);
            }
        }
    }
}
