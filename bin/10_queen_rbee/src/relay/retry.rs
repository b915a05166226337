//! Whether a request is tried again after a worker failed it, and when. Pure: `now` and the jitter are
//! passed in.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_contract::WorkerId;

/// How often in a row workers may answer a request with nonsense.
const MAX_NONSENSE: u32 = 3;
/// How often in a row connections may break before a request gets a token.
const MAX_BREAKS: u32 = 12;
/// How many workers in a row may end while a request has them to itself: then it is to blame.
const MAX_KILLED_ALONE: usize = 2;
/// How many workers in a row may end over a request, alone there or not.
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
    killed: Vec<Kill>,
}

/// A worker that broke off while it computed a request, before that got anything.
#[derive(Debug, Clone)]
struct Kill {
    worker: WorkerId,
    was_alone: bool,
    /// Fires when its process is known to have ended.
    died: CancellationToken,
}

/// How a worker failed a request.
#[derive(Debug, Clone)]
pub(super) struct Mishap {
    /// Whether its connection broke, so that it may be gone altogether.
    pub(super) is_connection: bool,
    /// Whether the request had a slot, so that it can be what ended the worker.
    pub(super) had_a_slot: bool,
    /// Whether the request got anything from it.
    pub(super) has_moved: bool,
    /// Whether the worker had no other request all the time.
    pub(super) was_alone: bool,
    /// Fires when the worker's process is known to have ended.
    pub(super) died: CancellationToken,
}

/// What becomes of a request after a mishap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again, after a pause.
    Again(Duration),
    /// It is given up: workers cannot answer it.
    GiveUp,
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

    /// Where so many workers broke off over it that it would be to blame if their processes ended: what
    /// tells so of each. A hang or a cut is nobody's end.
    pub(super) fn accusation(&self) -> Option<Vec<CancellationToken>> {
        let is_any = guilty(&self.killed).is_some();
        is_any.then(|| self.killed.iter().map(|kill| kill.died.clone()).collect())
    }

    /// The workers that the request has ended, where that is proven; else the accusation is dropped.
    pub(super) fn judge(&mut self) -> Option<Vec<WorkerId>> {
        let (died, cut_off): (Vec<_>, Vec<_>) =
            self.killed.drain(..).partition(|kill| kill.died.is_cancelled());
        let verdict = guilty(&died);
        if verdict.is_none() {
            // It may still be what makes workers hang: it goes on to have them to itself.
            self.killed =
                if died.is_empty() { cut_off.into_iter().take(1).collect() } else { died };
        }
        verdict
    }

    /// Has others preferred to a worker that has done nothing wrong.
    pub(super) fn avoid(&mut self, worker: WorkerId) {
        self.failed.push(worker);
    }

    /// Takes a mishap in. `jitter`, 0 to 1, spreads the pauses of requests that fail together.
    pub(super) fn on_mishap(&mut self, worker: WorkerId, mishap: Mishap, jitter: f64) -> Verdict {
        if mishap.has_moved {
            *self = Self::default();
        }
        if mishap.is_connection {
            self.breaks += 1;
            if mishap.had_a_slot && !mishap.has_moved {
                let (was_alone, died) = (mishap.was_alone, mishap.died);
                self.killed.push(Kill { worker: worker.clone(), was_alone, died });
            }
        } else {
            self.nonsense += 1;
        }
        self.failed.push(worker);
        if self.nonsense >= MAX_NONSENSE || self.breaks >= MAX_BREAKS {
            return Verdict::GiveUp;
        }
        Verdict::Again(pause(self.nonsense + self.breaks, jitter))
    }
}

/// The workers whose end a request is to blame for, if all of these have ended.
fn guilty(killed: &[Kill]) -> Option<Vec<WorkerId>> {
    let alone: Vec<_> = killed.iter().filter(|kill| kill.was_alone).collect();
    let names = |kills: &[&Kill]| kills.iter().map(|kill| kill.worker.clone()).collect();
    if alone.len() >= MAX_KILLED_ALONE {
        return Some(names(&alone));
    }
    (killed.len() >= MAX_KILLED).then(|| names(&killed.iter().collect::<Vec<_>>()))
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
/// time, so that failing workers do not drown in tries. Who finds none left waits for the next.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    at: Instant,
}

/// What a request earns.
const EARNED: f64 = 0.2;
/// What a second earns.
const PER_SECOND: f64 = 50.0;
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

    /// After which pause one more try is made; it is counted.
    pub(super) fn spend(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * PER_SECOND).min(MOST);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn broke() -> Mishap {
        let died = CancellationToken::new();
        let is_connection = true;
        Mishap { is_connection, had_a_slot: false, has_moved: false, was_alone: true, died }
    }

    /// A worker whose process ended, as its hive says.
    fn killed() -> Mishap {
        let died = CancellationToken::new();
        died.cancel();
        Mishap { had_a_slot: true, died, ..broke() }
    }

    fn cut_off() -> Mishap {
        Mishap { had_a_slot: true, ..broke() }
    }

    fn in_company() -> Mishap {
        Mishap { was_alone: false, ..killed() }
    }

    fn nonsense() -> Mishap {
        Mishap { is_connection: false, ..broke() }
    }

    fn moved() -> Mishap {
        Mishap { has_moved: true, ..killed() }
    }

    /// What becomes of a request after each of some mishaps.
    fn check(mishaps: &[(&str, Mishap)], expected: Option<&[&str]>) {
        let mut tries = Tries::default();
        let mut verdict = None;
        for (worker, mishap) in mishaps {
            assert_eq!(verdict, None, "before {worker}");
            assert!(matches!(tries.on_mishap(id(worker), mishap.clone(), 0.5), Verdict::Again(_)));
            verdict = tries.accusation().and_then(|_| tries.judge());
        }
        assert_eq!(verdict, expected.map(|names| names.iter().map(|name| id(name)).collect()));
    }

    #[test]
    fn a_request_that_ends_two_workers_in_a_row_is_quarantined() {
        check(&[("a", killed()), ("b", moved()), ("c", killed()), ("d", broke())], None);
        let rest = [("c", killed()), ("d", broke()), ("e", killed())];
        check(&rest, Some(&["c", "e"]));
    }

    #[test]
    fn cuts_and_hangs_are_not_the_requests_doing() {
        check(&[("a", cut_off()), ("b", cut_off()), ("c", cut_off()), ("d", killed())], None);
        check(&[("a", cut_off()), ("b", killed()), ("c", killed())], Some(&["b", "c"]));
        check(&[("a", killed()), ("b", cut_off()), ("c", killed())], Some(&["a", "c"]));
    }

    #[test]
    fn who_was_in_company_is_suspect_and_has_a_second_chance_alone() {
        let mut tries = Tries::default();
        assert!(!tries.is_suspect());
        assert!(matches!(tries.on_mishap(id("a"), in_company(), 0.5), Verdict::Again(_)));
        assert!(tries.is_suspect());
        let mishaps = [("a", in_company()), ("b", killed()), ("c", killed())];
        check(&mishaps, Some(&["b", "c"]));
        let five = ["a", "b", "c", "d", "e"];
        check(&five.map(|name| (name, in_company())), Some(&five));
    }

    #[test]
    fn nonsense_is_tried_three_times_and_broken_connections_twelve_times() {
        for (mishap, most) in [(nonsense(), 3), (broke(), 12)] {
            let mut tries = Tries::default();
            let verdicts = (0..most).map(|_| tries.on_mishap(id("a"), mishap.clone(), 1.0));
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
            assert_eq!(tries.on_mishap(id("a"), moved(), 0.0), Verdict::Again(Duration::ZERO));
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
            let (mut budget, mut now, mut earned) = (Budget::full(start), start, 0.0);
            let mut begun = Vec::new();
            for (comes, millis) in steps {
                now += Duration::from_millis(millis);
                if comes {
                    budget.earn();
                    earned += EARNED;
                } else {
                    begun.push(now + budget.spend(now));
                }
            }
            begun.sort_unstable();
            for (count, at) in begun.iter().enumerate() {
                let passed = at.duration_since(start).as_secs_f64();
                let most = MOST + earned + passed * PER_SECOND + 1.0;
                prop_assert!((u32::try_from(count).map_or(f64::MAX, f64::from)) <= most);
            }
        }
    }

    #[test]
    fn after_the_death_of_many_at_once_the_tries_of_their_requests_are_spread() {
        let now = Instant::now();
        let mut budget = Budget::full(now);
        let pauses: Vec<_> = (0..1000).map(|_| budget.spend(now)).collect();
        assert_eq!(pauses.iter().filter(|pause| pause.is_zero()).count(), 100);
        assert!(pauses.is_sorted() && pauses[999] <= Duration::from_secs(18), "{:?}", pauses[999]);
    }

    fn id(name: &str) -> WorkerId {
        name.parse().unwrap()
    }
}
