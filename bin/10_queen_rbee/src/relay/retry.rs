//! Whether a request is tried again after a worker failed it, and when. Pure: `now` and the jitter are
//! passed in.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_contract::WorkerId;

use super::suspicion::{Conviction, End, OtherEnds, Suspicion};
use crate::registry::{Fallen, WorkerProcess};
use crate::scheduler::FailedBy;

/// How often in a row workers may answer a request with nonsense, or servers break it off as they did before.
const MAX_NONSENSE: u32 = 3;
/// How often in a row connections may break before a request gets a token.
const MAX_BREAKS: u32 = 12;
/// How many failures a request may have that nothing has made up for.
const MAX_FAILURES: u32 = 24;
/// As many tokens make up for one failure,
const TOKENS_A_FAILURE: u32 = 16;
/// and so does as much time without another one: who is failed every few seconds is failed by what
/// befalls workers, and goes on at once.
const TIME_A_FAILURE: Duration = Duration::from_secs(4);
/// A worker that breaks off so soon after another one, and has not begun to answer, may have been on its way
/// out when it was asked: processes end together where memory, a card or somebody ends them.
const FALL_TOGETHER: Duration = Duration::from_secs(1);
/// The pause before the second try in a row; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The tries of one request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Since it last got something.
    failed: Vec<FailedBy>,
    nonsense: u32,
    breaks: u32,
    /// Failures that neither tokens nor time have made up for.
    failures: u32,
    failed_at: Option<Instant>,
    /// Whose connection broke last, and when.
    broke_off: Option<(WorkerId, Instant)>,
    /// Whether a worker fell with another one, since the request last got something.
    is_one_excused: bool,
    suspicion: Suspicion,
}

/// How a worker failed a request.
#[derive(Debug, Clone)]
pub(super) struct Mishap {
    /// Whether its connection broke, so that it may be gone altogether.
    pub(super) is_connection: bool,
    /// Whether the request may be what broke it.
    pub(super) may_be_blamed: bool,
    /// Whether the worker had begun to answer.
    pub(super) has_answered: bool,
    /// Whether a server of somebody else broke it off after it had begun to answer, and the request has never
    /// got anything: one that does so again is like one that answers with nonsense.
    pub(super) is_empty: bool,
    /// How many tokens, vectors or scores the request has got beyond the most that it had at a mishap before.
    pub(super) got: u32,
    /// How many tokens of the answer the worker had computed again before.
    pub(super) again: u32,
    /// Whether the worker had no other request all the time, or none that had just come, too.
    pub(super) was_alone: bool,
    /// The worker's process, where it is known.
    pub(super) process: Option<WorkerProcess>,
    /// Fires when that is known to have ended.
    pub(super) died: CancellationToken,
    /// Who fell with it.
    pub(super) fallen: Fallen,
    /// When it was.
    pub(super) at: Instant,
    /// For how long the worker had had the request.
    pub(super) lived: Duration,
    /// Whether the worker, which reported on time when the request came, has fallen silent over it.
    pub(super) hangs: bool,
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
    /// The workers that failed the request since it last got something.
    pub(super) fn failed(&self) -> &[FailedBy] {
        &self.failed
    }

    /// Whether it may be what ends workers.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspicion.is_any()
    }

    /// Whether a worker broke off where it was alone.
    pub(super) fn fell_alone(&self) -> bool {
        self.suspicion.fell_alone()
    }

    /// Where it would be to blame if the processes of all workers ended that broke off over it, and it has not got on with
    /// the tokens that it `got` since: what tells so of each.
    pub(super) fn accusation(
        &self,
        got: u32,
        others: OtherEnds<'_>,
    ) -> Option<Vec<CancellationToken>> {
        self.suspicion.accusation(got, others)
    }

    /// Until when it takes hives to end those that still hang, as `hangs` tells, where it would be convicted if they did.
    pub(super) fn hangs_until(
        &mut self,
        hangs: &dyn Fn(&FailedBy) -> bool,
        others: OtherEnds<'_>,
    ) -> Option<Instant> {
        self.suspicion.hangs_until(hangs, others)
    }

    /// Until when it is kept from workers, to see whether they end without it, before it is convicted.
    pub(super) fn watched_until(&self, others: OtherEnds<'_>) -> Option<Instant> {
        self.suspicion.watched_until(others)
    }

    /// What the request has ended, where that is proven; else the accusation is dropped, but for workers that hang.
    pub(super) fn judge(&mut self, others: OtherEnds<'_>) -> Option<Conviction> {
        self.suspicion.judge(others)
    }

    /// What stands for the processes that ended over it.
    pub(super) fn ended(&self) -> Vec<u64> {
        self.suspicion.processes()
    }

    /// Has others preferred to a worker that has done nothing wrong.
    pub(super) fn avoid(&mut self, by: FailedBy) {
        self.failed.push(by);
    }

    /// Takes a mishap in. `jitter`, 0 to 1, spreads the pauses of requests that fail together.
    pub(super) fn on_mishap(&mut self, by: FailedBy, mishap: Mishap, jitter: f64) -> Verdict {
        let worker = &by.worker;
        if mishap.got > 0 {
            self.failed.clear();
            (self.nonsense, self.breaks) = (0, 0);
            self.is_one_excused = false;
        }
        let fell_together = self.fell_together(worker, &mishap);
        if mishap.is_connection {
            self.broke_off = Some((worker.clone(), mishap.at));
        }
        let is_soon = self.makes_up(mishap.got, mishap.at);
        self.suspicion.got(mishap.got, mishap.again);
        self.failures += 1;
        let is_empty_again = mishap.is_empty && self.failed.iter().any(|it| it.worker == by.worker);
        if mishap.is_connection && !is_empty_again {
            self.breaks += 1;
            self.is_one_excused |= fell_together;
            if mishap.may_be_blamed {
                let Mishap { was_alone, process, died, fallen, at, lived, hangs, .. } = mishap;
                let end = End::new(by.clone(), was_alone, died, fallen, at);
                let end = end.of_process(process).after(lived).hanging(hangs);
                self.suspicion.ended(if fell_together { end.excused() } else { end });
            }
        } else {
            self.nonsense += 1;
        }
        self.failed.push(by);
        let is_enough = self.nonsense >= MAX_NONSENSE
            || self.breaks >= MAX_BREAKS
            || self.failures >= MAX_FAILURES;
        if is_enough {
            return Verdict::GiveUp;
        }
        let in_row = self.nonsense + self.breaks + u32::from(is_soon && mishap.got > 0);
        Verdict::Again(pause(self.failures.max(in_row), jitter))
    }

    /// Whether the worker may have ended for the same reason as the one before it, once: a request that ends
    /// workers before they answer costs one more.
    fn fell_together(&self, worker: &WorkerId, mishap: &Mishap) -> bool {
        let has_another_fallen = self.broke_off.as_ref().is_some_and(|(other, at)| {
            other != worker && mishap.at.saturating_duration_since(*at) < FALL_TOGETHER
        });
        !self.is_one_excused && mishap.may_be_blamed && !mishap.has_answered && has_another_fallen
    }

    /// Takes off what tokens and time have made up for. Whether the last failure was a moment ago.
    fn makes_up(&mut self, got: u32, now: Instant) -> bool {
        let passed = self.failed_at.replace(now).map(|at| now.saturating_duration_since(at));
        let passed_s = passed.map_or(0, |passed| passed.as_secs());
        let by_time = u32::try_from(passed_s / TIME_A_FAILURE.as_secs()).unwrap_or(u32::MAX);
        let made_up = (got / TOKENS_A_FAILURE).saturating_add(by_time);
        self.failures = self.failures.saturating_sub(made_up);
        passed.is_some_and(|passed| passed < TIME_A_FAILURE)
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
/// time, so that failing workers do not drown in tries. Who finds none left waits for the next. Answers
/// that have begun have tries of their own, far more of them: somebody watches them.
#[derive(Debug)]
pub(super) struct Budget {
    fresh: Purse,
    begun: Purse,
}

#[derive(Debug)]
struct Purse {
    tokens: f64,
    at: Instant,
    /// The most that is saved up.
    most: f64,
    /// What a second earns.
    per_second: f64,
}

/// What a request earns.
const EARNED: f64 = 0.2;
/// What a second earns.
const PER_SECOND: f64 = 50.0;
/// The most that is saved up.
const MOST: f64 = 100.0;
/// The same for answers that have begun: all streams of a machine go on at once.
const BEGUN_PER_SECOND: f64 = 200.0;
const MOST_BEGUN: f64 = 1000.0;

impl Budget {
    pub(super) fn full(now: Instant) -> Self {
        let purse = |most, per_second| Purse { tokens: most, at: now, most, per_second };
        Self { fresh: purse(MOST, PER_SECOND), begun: purse(MOST_BEGUN, BEGUN_PER_SECOND) }
    }

    /// A request has come.
    pub(super) fn earn(&mut self) {
        self.fresh.tokens = (self.fresh.tokens + EARNED).min(self.fresh.most);
    }

    /// After which pause one more try is made; it is counted.
    pub(super) fn spend(&mut self, has_begun: bool, now: Instant) -> Duration {
        if has_begun { self.begun.spend(now) } else { self.fresh.spend(now) }
    }
}

impl Purse {
    fn spend(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn broke(at: Instant) -> Mishap {
        let died = CancellationToken::new();
        Mishap {
            is_connection: true,
            may_be_blamed: false,
            has_answered: true,
            is_empty: false,
            got: 0,
            again: 0,
            was_alone: true,
            process: None,
            died,
            fallen: Fallen::default(),
            at,
            lived: Duration::ZERO,
            hangs: false,
        }
    }

    fn by(name: &str) -> FailedBy {
        FailedBy { worker: id(name), process: 0 }
    }

    /// A worker whose process ended, as its hive says.
    fn killed(at: Instant) -> Mishap {
        let died = CancellationToken::new();
        died.cancel();
        Mishap { may_be_blamed: true, died, ..broke(at) }
    }

    /// A server that breaks off after the head of its answer.
    fn empty(at: Instant) -> Mishap {
        Mishap { is_empty: true, ..broke(at) }
    }

    fn nonsense(at: Instant) -> Mishap {
        Mishap { is_connection: false, ..broke(at) }
    }

    fn after(got: u32, mishap: Mishap) -> Mishap {
        Mishap { got, ..mishap }
    }

    #[test]
    fn a_request_that_ends_two_workers_in_a_row_is_quarantined_though_it_gets_tokens() {
        let now = Instant::now();
        for (mishaps, is_guilty) in [
            ([killed(now), killed(now)], true),
            ([after(1, killed(now)), after(2, killed(now))], true),
            ([killed(now), after(1000, killed(now))], false),
            ([killed(now), broke(now)], false),
            ([killed(now), nonsense(now)], false),
        ] {
            let mut tries = Tries::default();
            for (name, mishap) in ["a", "b"].into_iter().zip(mishaps.clone()) {
                assert!(matches!(tries.on_mishap(by(name), mishap, 0.5), Verdict::Again(_)));
            }
            let judged = tries.accusation(0, &|_, _| 0).and_then(|_| tries.judge(&|_, _| 0));
            let judged = judged.map(|it| it.workers);
            assert_eq!(judged, is_guilty.then(|| vec![id("a"), id("b")]), "{mishaps:?}");
        }
    }

    #[test]
    fn a_worker_that_falls_with_another_one_is_held_against_nobody_once() {
        let start = Instant::now();
        let silent = |ms| {
            let at = start + Duration::from_millis(ms);
            Mishap { has_answered: false, ..killed(at) }
        };
        // How workers broke off, and who of them is held against the request.
        let rows: [(Vec<Mishap>, Option<&[&str]>); 7] = [
            (vec![killed(start), silent(30)], None),
            (vec![silent(0), silent(30)], None),
            (vec![killed(start), silent(30), silent(60)], Some(&["a", "c"])),
            (vec![killed(start), silent(30), after(1, silent(60))], None),
            (vec![killed(start), silent(1500)], Some(&["a", "b"])),
            (vec![killed(start), nonsense(start), silent(1500)], Some(&["a", "c"])),
            (vec![nonsense(start), silent(0), killed(start)], Some(&["b", "c"])),
        ];
        for (mishaps, expected) in rows {
            let mut tries = Tries::default();
            for (name, mishap) in ["a", "b", "c"].into_iter().zip(mishaps.clone()) {
                tries.on_mishap(by(name), mishap, 0.5);
            }
            let judged = tries.accusation(0, &|_, _| 0).and_then(|_| tries.judge(&|_, _| 0));
            let judged = judged.map(|it| it.workers);
            let expected = expected.map(|names| names.iter().map(|name| id(name)).collect());
            assert_eq!(judged, expected, "{mishaps:?}");
        }
    }

    #[test]
    fn nonsense_is_tried_three_times_and_broken_connections_twelve_times() {
        let now = Instant::now();
        for (mishap, most) in [(nonsense(now), 3), (broke(now), 12), (empty(now), 4)] {
            let mut tries = Tries::default();
            let verdicts = (0..most).map(|_| tries.on_mishap(by("a"), mishap.clone(), 1.0));
            let verdicts: Vec<_> = verdicts.collect();
            assert_eq!(verdicts.last(), Some(&Verdict::GiveUp));
            assert!(verdicts[..most - 1].iter().all(|v| matches!(v, Verdict::Again(_))));
            assert_eq!(verdicts[0], Verdict::Again(Duration::ZERO));
        }
    }

    #[test]
    fn servers_that_break_off_once_each_are_no_nonsense() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for number in 1..12 {
            let verdict = tries.on_mishap(by(&format!("s-{number}")), empty(now), 1.0);
            assert!(matches!(verdict, Verdict::Again(_)), "{number}");
        }
    }

    #[test]
    fn whoever_gets_on_may_go_on_for_ever() {
        for (tokens, seconds) in [(TOKENS_A_FAILURE, 4), (1, 4), (100, 60)] {
            let (mut tries, mut now) = (Tries::default(), Instant::now());
            for _ in 0..1000 {
                let verdict = tries.on_mishap(by("a"), after(tokens, killed(now)), 0.0);
                assert_eq!(verdict, Verdict::Again(Duration::ZERO), "{tokens} in {seconds} s");
                assert_eq!(tries.failed(), [by("a")]);
                now += Duration::from_secs(seconds);
            }
        }
    }

    #[test]
    fn whoever_gets_a_token_before_each_failure_waits_ever_longer_and_is_given_up() {
        for mishap in [nonsense, broke] {
            let (mut tries, start) = (Tries::default(), Instant::now());
            let (mut now, mut count) = (start, 0);
            while let Verdict::Again(pause) = tries.on_mishap(by("a"), after(1, mishap(now)), 0.0) {
                now += pause;
                count += 1;
            }
            assert_eq!(count + 1, MAX_FAILURES);
            assert!(now - start > Duration::from_secs(10), "{:?}", now - start);
        }
    }

    #[test]
    fn whoever_fails_again_a_moment_later_waits_whatever_it_got() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for number in 0..1000 {
            let verdict = tries.on_mishap(by("a"), after(1000, broke(now)), 1.0);
            let expected = if number == 0 { Duration::ZERO } else { PAUSE };
            assert_eq!(verdict, Verdict::Again(expected));
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
                    begun.push(now + budget.spend(false, now));
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
        let pauses: Vec<_> = (0..1000).map(|_| budget.spend(false, now)).collect();
        assert_eq!(pauses.iter().filter(|pause| pause.is_zero()).count(), 100);
        assert!(pauses.is_sorted() && pauses[999] <= Duration::from_secs(18), "{:?}", pauses[999]);
        let begun: Vec<_> = (0..2000).map(|_| budget.spend(true, now)).collect();
        assert_eq!(begun.iter().filter(|pause| pause.is_zero()).count(), 1000, "they go first");
        assert!(begun.is_sorted() && !begun[1999].is_zero(), "but not without end");
    }

    fn id(name: &str) -> WorkerId {
        name.parse().unwrap()
    }
}
