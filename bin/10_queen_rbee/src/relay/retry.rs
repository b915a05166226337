//! Whether a request is tried again after a worker failed it, and when. Pure: `now` and the jitter are
//! passed in.

use std::time::{Duration, Instant};

use worker_contract::WorkerId;

/// How often in a row workers may answer a request with nonsense.
const MAX_NONSENSE: u32 = 3;
/// How often in a row connections may break before a request gets a token.
const MAX_BREAKS: u32 = 12;
/// How many workers in a row may end while a request has them to itself: then it is to blame.
const MAX_KILLED_ALONE: usize = 2;
/// How many workers in a row may end over a request that was not alone there.
const MAX_KILLED: usize = 5;
/// The pause before the second try in a row; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The tries of one request since it last got on.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: Vec<WorkerId>,
    nonsense: u32,
    breaks: u32,
    killed: Vec<WorkerId>,
    killed_alone: Vec<WorkerId>,
}

/// How a worker failed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mishap {
    /// Whether its connection broke, so that it may be gone altogether.
    pub(super) is_connection: bool,
    /// Whether the request had a slot, so that it can be what ended the worker.
    pub(super) had_a_slot: bool,
    /// Whether the request got anything from it.
    pub(super) has_moved: bool,
    /// Whether the worker had no other request all the time.
    pub(super) was_alone: bool,
}

/// What becomes of a request after a mishap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again, after a pause.
    Again(Duration),
    /// It is given up: workers cannot answer it.
    GiveUp,
    /// It is given up: it ends workers.
    Quarantine(Vec<WorkerId>),
}

impl Tries {
    /// The workers that failed the request since it last got on.
    pub(super) fn failed(&self) -> &[WorkerId] {
        &self.failed
    }

    /// Whether it may be what ends workers.
    pub(super) fn is_suspect(&self) -> bool {
        !self.killed.is_empty()
    }

    /// Takes a mishap in. `jitter`, 0 to 1, spreads the pauses of requests that fail together.
    pub(super) fn on_mishap(&mut self, worker: WorkerId, mishap: Mishap, jitter: f64) -> Verdict {
        if mishap.has_moved {
            *self = Self::default();
        }
        if mishap.is_connection {
            self.breaks += 1;
            if mishap.had_a_slot && !mishap.has_moved {
                self.killed.push(worker.clone());
                if mishap.was_alone {
                    self.killed_alone.push(worker.clone());
                }
            }
        } else {
            self.nonsense += 1;
        }
        self.failed.push(worker);
        if self.killed_alone.len() >= MAX_KILLED_ALONE {
            return Verdict::Quarantine(std::mem::take(&mut self.killed_alone));
        }
        if self.killed.len() >= MAX_KILLED {
            return Verdict::Quarantine(std::mem::take(&mut self.killed));
        }
        if self.nonsense >= MAX_NONSENSE || self.breaks >= MAX_BREAKS {
            return Verdict::GiveUp;
        }
        Verdict::Again(pause(self.nonsense + self.breaks, jitter))
    }
}

/// The first try again is at once; the others wait, half of the time at random.
fn pause(failures: u32, jitter: f64) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let whole = PAUSE.saturating_mul(1 << (failures - 2).min(16)).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// Tries that all requests together may make: each request earns a part of one, and some come with
/// time, so that failing workers do not drown in tries.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    at: Instant,
}

/// What a request earns.
const EARNED: f64 = 0.2;
/// What a second earns.
const PER_SECOND: f64 = 10.0;
/// The most that is saved up.
const MOST: f64 = 100.0;

impl Budget {
    pub(super) fn full(now: Instant) -> Self {
        Self { tokens: MOST, at: now }
    }

    /// A request has come.
    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + EARNED).min(MOST);
    }

    /// Whether one more try is allowed; it is counted.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * PER_SECOND).min(MOST);
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BROKE: Mishap =
        Mishap { is_connection: true, had_a_slot: false, has_moved: false, was_alone: true };
    const KILLED: Mishap = Mishap { had_a_slot: true, ..BROKE };
    const IN_COMPANY: Mishap = Mishap { was_alone: false, ..KILLED };
    const NONSENSE: Mishap = Mishap { is_connection: false, ..BROKE };
    const MOVED: Mishap = Mishap { has_moved: true, ..KILLED };

    #[test]
    fn a_request_that_ends_two_workers_in_a_row_is_quarantined() {
        let mut tries = Tries::default();
        assert!(matches!(tries.on_mishap(id("a"), KILLED, 0.5), Verdict::Again(_)));
        assert!(matches!(tries.on_mishap(id("b"), MOVED, 0.5), Verdict::Again(_)));
        assert!(matches!(tries.on_mishap(id("c"), KILLED, 0.5), Verdict::Again(_)));
        assert!(matches!(tries.on_mishap(id("d"), BROKE, 0.5), Verdict::Again(_)));
        let both = Verdict::Quarantine(vec![id("c"), id("e")]);
        assert_eq!(tries.on_mishap(id("e"), KILLED, 0.5), both);
    }

    #[test]
    fn who_was_in_company_is_suspect_and_has_a_second_chance_alone() {
        let mut tries = Tries::default();
        assert!(!tries.is_suspect());
        assert!(matches!(tries.on_mishap(id("a"), IN_COMPANY, 0.5), Verdict::Again(_)));
        assert!(tries.is_suspect());
        assert!(matches!(tries.on_mishap(id("b"), KILLED, 0.5), Verdict::Again(_)));
        let alone = Verdict::Quarantine(vec![id("b"), id("c")]);
        assert_eq!(tries.on_mishap(id("c"), KILLED, 0.5), alone);

        let mut tries = Tries::default();
        for name in ["a", "b", "c", "d"] {
            assert!(matches!(tries.on_mishap(id(name), IN_COMPANY, 0.5), Verdict::Again(_)));
        }
        assert!(matches!(tries.on_mishap(id("e"), IN_COMPANY, 0.5), Verdict::Quarantine(_)));
    }

    #[test]
    fn nonsense_is_tried_three_times_and_broken_connections_twelve_times() {
        for (mishap, most) in [(NONSENSE, 3), (BROKE, 12)] {
            let mut tries = Tries::default();
            let verdicts = (0..most).map(|_| tries.on_mishap(id("a"), mishap, 1.0));
            let verdicts: Vec<_> = verdicts.collect();
            assert_eq!(verdicts.last(), Some(&Verdict::GiveUp));
            assert!(verdicts[..most - 1].iter().all(|v| matches!(v, Verdict::Again(_))));
            assert_eq!(verdicts[0], Verdict::Again(Duration::ZERO));
        }
    }

    #[test]
    fn whoever_gets_on_may_go_on_for_ever() {
        let mut tries = Tries::default();
        for _ in 0..1000 {
            assert_eq!(tries.on_mishap(id("a"), MOVED, 0.0), Verdict::Again(Duration::ZERO));
            assert_eq!(tries.failed(), [id("a")]);
        }
    }

    proptest! {
        #[test]
        fn pauses_grow_to_a_bound(failures in 1_u32..200, jitter in 0.0..1.0_f64) {
            prop_assert!(pause(failures, jitter) <= LONGEST_PAUSE);
            prop_assert!(pause(failures + 1, 0.5) >= pause(failures, 0.5));
        }

        #[test]
        fn tries_are_bounded_by_time_and_by_requests(
            steps in prop::collection::vec((any::<bool>(), 0_u64..50), 1..300),
        ) {
            let start = Instant::now();
            let (mut budget, mut now, mut spent, mut earned) = (Budget::full(start), start, 0.0, 0.0);
            for (comes, millis) in steps {
                now += Duration::from_millis(millis);
                if comes {
                    budget.earn();
                    earned += EARNED;
                } else if budget.spend(now) {
                    spent += 1.0;
                }
            }
            let passed = now.duration_since(start).as_secs_f64();
            prop_assert!(spent <= MOST + earned + passed * PER_SECOND + 1e-6);
        }
    }

    fn id(name: &str) -> WorkerId {
        name.parse().unwrap()
    }
}
