//! The decision.

use std::time::Duration;

use worker_contract::HiveAlias;

use super::placement::{NoSite, is_long_enough, place};
use super::turns::make_way;
use super::{
    Ahead, Circuit, Decision, Demand, Estimate, Lack, Readiness, Reason, RejectReason, Snapshot,
    Spawn, WaitReason, WarmUp, Ways, Why, WorkerView,
};
use crate::registry::Liveness;

/// Expectations that differ by no more are alike, in microseconds.
const CLOSE_US: u64 = 250_000;
/// So are those that differ by no more than this part of an answer's time.
const CLOSE_PART: u64 = 4;
/// In how many parts the load of a worker is told apart.
const PARTS: u64 = 1_000;
/// Where an answer takes less, it is not worth waiting for a faster worker, in microseconds.
const WORTH_WAITING_US: u64 = 1_000_000;
/// By how much a full worker must be faster, the time until it has a place included.
const MUCH_FASTER: u64 = 2;
/// How often the only worker may fail a request, without a token, until another one is started for it.
const TRIES: usize = 3;
/// When to try again while workers end and others may come, in seconds.
const RETRY_SOON_S: u64 = 1;
/// When to try again while a hive is gone, in seconds.
const RETRY_HIVE_S: u64 = 5;

/// What becomes of a request.
#[must_use]
pub fn schedule(snapshot: &Snapshot<'_>, demand: &Demand<'_>) -> Decision {
    let serving = || snapshot.workers.iter().filter(|worker| worker.serves(demand));
    // One that has not told its file yet may have it. Who goes on after a text needs none.
    let is_known = |worker: &WorkerView<'_>| {
        demand.digest.is_none() || worker.digest.is_some() || !worker.ways.meet(Ways::TOKENS)
    };
    let is_ready =
        |worker: &WorkerView<'_>| worker.readiness == Readiness::Ready && is_known(worker);
    let is_coming = |worker: &WorkerView<'_>| match worker.readiness {
        Readiness::Coming => true,
        Readiness::Ready => !is_known(worker),
        Readiness::Resting | Readiness::MakesWay | Readiness::Ending => false,
    };
    let ready = || serving().filter(|worker| is_ready(worker));
    let has_failed = |worker: &&WorkerView<'_>| demand.was_failed_by(worker.id);
    // Where a connection to one of rbee's has broken, its process has most likely ended, which is told at once.
    let has_fallen =
        |worker: &&WorkerView<'_>| worker.is_in_doubt && worker.ways.meet(Ways::TOKENS);
    let trials = Trials::of(snapshot, demand);
    let is_free = |worker: &&WorkerView<'_>| trials.may_begin_at(worker, demand);
    let fresh = || ready().filter(|worker| !has_failed(worker) && !has_fallen(worker));
    if let Some(chosen) = choose(fresh().filter(is_free), demand, None) {
        return chosen;
    }
    // It may have been started again since, and one that is coming may take long.
    let returned = || ready().filter(|w| has_failed(w) && w.liveness == Liveness::Alive);
    let is_tired = |worker: &&WorkerView<'_>| {
        demand.failed.iter().filter(|by| by.worker == *worker.id).count() >= TRIES
    };
    let is_reborn = |worker: &&WorkerView<'_>| {
        !is_tired(worker) && !demand.failed.iter().any(|by| by.process == worker.process)
    };
    if let Some(chosen) = choose(returned().filter(is_reborn).filter(is_free), demand, None) {
        return chosen;
    }
    if let Some(held) = trials.hold(fresh().chain(returned().filter(is_reborn)), demand) {
        return held;
    }
    if fresh().any(|worker| worker.circuit == Circuit::Closed) {
        return Decision::Wait(WaitReason::Room);
    }
    let last_resort = |is_hopeful: &dyn Fn(&&WorkerView<'_>) -> bool| {
        // What waits in a worker's queue is better off there.
        let may_be = |worker: &&WorkerView<'_>| {
            demand.leaves_with.is_none() && is_hopeful(worker) && is_free(worker)
        };
        choose(returned().filter(may_be), demand, Some(Reason::LastResort))
    };
    if let Some(only) = last_resort(&|worker| !is_tired(worker)) {
        return only;
    }
    if let Some(held) = trials.hold(returned().filter(|worker| !is_tired(worker)), demand) {
        return held;
    }
    if snapshot.is_spawning || serving().any(is_coming) {
        return Decision::Wait(WaitReason::Coming);
    }
    if returned().any(|worker| !is_tired(&worker) && worker.circuit == Circuit::Closed) {
        return Decision::Wait(WaitReason::Room);
    }
    if serving().any(|worker| worker.is_in_doubt) {
        return Decision::Wait(WaitReason::News);
    }
    // It may run where nobody has been heard yet: a second one could cost others their workers.
    if snapshot.warm_up == WarmUp::Expected {
        return Decision::Wait(WaitReason::WarmUp);
    }
    let none = match place(&snapshot.fleet, demand) {
        Ok(spawn) => return Decision::Spawn(Spawn { lack: lack(snapshot, demand), ..spawn }),
        Err(none) => none,
    };
    let rests = rests_least(snapshot, demand);
    if rests.is_some_and(|worker| worker.rests_for <= demand.left) {
        return Decision::Wait(WaitReason::Resting);
    }
    if let Some(only) = last_resort(&|_| true) {
        return only;
    }
    if returned().any(|worker| worker.circuit == Circuit::Closed) {
        return Decision::Wait(WaitReason::Room);
    }
    if ready().any(|worker| worker.circuit != Circuit::Closed) {
        return Decision::Wait(WaitReason::Circuit);
    }
    match (without_place(snapshot, demand, none), rests) {
        (Decision::Reject { .. }, Some(worker)) => rests_too_long(worker),
        (decision, _) => decision,
    }
}

/// The workers that requests have to themselves that may be what ends workers: half of those that are ready at most,
/// and one at least. The others serve everybody.
#[derive(Debug, Clone, Copy, Default)]
struct Trials {
    most: usize,
    /// How many such a request has,
    taken: usize,
    /// and with those that are held for one.
    kept: usize,
}

impl Trials {
    /// As they bear on a request.
    fn of(snapshot: &Snapshot<'_>, demand: &Demand<'_>) -> Self {
        if !demand.alone {
            return Self::default();
        }
        let ready = || {
            let all = snapshot.workers.iter().filter(|worker| worker.is_of_rbee());
            all.filter(|worker| worker.readiness == Readiness::Ready)
        };
        let most = (ready().count() / 2).max(1);
        let taken = ready().filter(|worker| worker.is_taken).count();
        Self { most, taken, kept: ready().filter(|worker| is_kept(worker)).count() }
    }

    /// Whether a request may begin at a worker, as far as it is to do that alone.
    fn may_begin_at(&self, worker: &WorkerView<'_>, demand: &Demand<'_>) -> bool {
        !demand.alone || !worker.is_of_rbee() || self.taken < self.most
    }

    /// The worker that takes nobody else until it has a request that is to begin alone: one that such a request has or
    /// waits for already, if there is one. Or it waits, and nobody is kept out for it.
    fn hold<'a>(
        &self,
        workers: impl Iterator<Item = &'a WorkerView<'a>>,
        demand: &Demand<'_>,
    ) -> Option<Decision> {
        // What waits in a worker's queue keeps nobody out of another one.
        if !demand.alone || demand.leaves_with.is_some() {
            return None;
        }
        // Rules may refuse one about which they were not asked.
        let may_come = |worker: &&WorkerView<'_>| {
            worker.circuit == Circuit::Closed && !worker.is_unjudged && worker.is_of_rbee()
        };
        let rank = |worker: &&WorkerView<'_>| {
            let is_refused = !worker.may_be_kept_for(demand);
            (is_refused, worker.liveness != Liveness::Alive, !is_kept(worker), worker.load())
        };
        let best = workers
            .filter(may_come)
            .min_by(|one, other| (rank(one), one.id).cmp(&(rank(other), other.id)))?;
        let may_hold = best.may_be_kept_for(demand) && (is_kept(best) || self.kept < self.most);
        Some(if may_hold {
            Decision::Hold(best.id.clone())
        } else {
            Decision::Wait(WaitReason::Alone)
        })
    }
}

fn is_kept(worker: &WorkerView<'_>) -> bool {
    worker.is_held || worker.is_taken
}

/// The server that takes the request first, of those that rest.
fn rests_least<'a>(snapshot: &'a Snapshot<'_>, demand: &Demand<'_>) -> Option<&'a WorkerView<'a>> {
    let serving = snapshot.workers.iter().filter(|worker| worker.serves(demand));
    let resting = serving.filter(|worker| worker.readiness == Readiness::Resting);
    resting.min_by_key(|worker| (worker.rests_for, worker.id))
}

/// Nobody is left but a server that rests until the request's time is over.
fn rests_too_long(worker: &WorkerView<'_>) -> Decision {
    let left = worker.rests_for;
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let reason = RejectReason::Resting { worker: worker.id.clone() };
    Decision::Reject { reason, retry_after_s: Some(seconds.max(1)) }
}

/// What becomes of a request that no worker takes and for which none can be started.
fn without_place(snapshot: &Snapshot<'_>, demand: &Demand<'_>, none: NoSite) -> Decision {
    let serving = || snapshot.workers.iter().filter(|worker| worker.serves(demand));
    // It has its turn again when the other model has had its own.
    let makes_way = serving().any(|worker| worker.readiness == Readiness::MakesWay);
    // One that has just fallen silent counts until the next look. Those that cannot take it will never do.
    // Of one that rests there is no news either.
    let is_other = |worker: &WorkerView<'_>| {
        worker.is_there() && (!worker.serves(demand) || worker.readiness == Readiness::Resting)
    };
    match none {
        NoSite::Enough if makes_way => return Decision::Wait(WaitReason::NextTurn),
        NoSite::Enough if !snapshot.workers.iter().all(is_other) => {
            return Decision::Wait(WaitReason::News);
        }
        // Nobody would be started with a context as long as that of one that is silent, and may be back.
        NoSite::TooShort if snapshot.workers.iter().any(|worker| worker.may_be_back(demand)) => {
            return Decision::Wait(WaitReason::News);
        }
        NoSite::Refused if demand.is_news_due => return Decision::Wait(WaitReason::News),
        NoSite::Full => {
            let reason = if makes_way { WaitReason::NextTurn } else { WaitReason::Memory };
            let way = make_way(&snapshot.fleet, demand);
            return way.map_or(Decision::Wait(reason), Decision::MakeWay);
        }
        _ if makes_way => return Decision::Wait(WaitReason::NextTurn),
        _ => {}
    }
    if snapshot.workers.iter().any(|worker| worker.may_return(demand)) {
        return Decision::Wait(WaitReason::News);
    }
    let is_short =
        |worker: &WorkerView<'_>| worker.is_there() && !demand.may_fit(worker.context_tokens);
    let are_short = none == NoSite::TooShort || snapshot.workers.iter().any(is_short);
    let is_any_there = snapshot.workers.iter().any(WorkerView::is_there);
    let too_short = RejectReason::TooShort { tokens: demand.too_short };
    let (reason, retry_after_s) = match gone_hive(snapshot, demand) {
        _ if none == NoSite::Enough && are_short => (too_short, None),
        _ if none == NoSite::Enough => (RejectReason::Unable, None),
        _ if none == NoSite::Refused => (RejectReason::NowhereToStart, Some(RETRY_HIVE_S)),
        Some(hive) => (RejectReason::HiveGone { hive }, Some(RETRY_HIVE_S)),
        None if serving().next().is_some() => (RejectReason::NoWorkerLeft, Some(RETRY_SOON_S)),
        None if are_short => (too_short, None),
        None if none == NoSite::OtherFile => (RejectReason::OtherFile, None),
        None if is_any_there => (RejectReason::Unable, None),
        None if snapshot.warm_up == WarmUp::Others => return Decision::Wait(WaitReason::WarmUp),
        None => (RejectReason::UnknownModel, None),
    };
    Decision::Reject { reason, retry_after_s }
}

/// Why a worker is started, whatever workers of the model are there.
fn lack(snapshot: &Snapshot<'_>, demand: &Demand<'_>) -> Lack {
    let there = || snapshot.workers.iter().filter(|worker| worker.is_there());
    let serving = there().filter(|worker| worker.serves(demand));
    let of_one = |worker: &WorkerView<'_>| match worker.readiness {
        Readiness::Resting => Lack::Resting,
        Readiness::Coming | Readiness::Ready => Lack::Failing,
        Readiness::MakesWay => Lack::MakesWay,
        Readiness::Ending => Lack::Ending,
    };
    if let Some(lack) = serving.map(of_one).min() {
        return lack;
    }
    if there().any(|worker| !demand.may_fit(worker.context_tokens)) {
        Lack::TooShort
    } else if there().next().is_some() {
        Lack::Unfit
    } else if snapshot.is_ruled_out {
        Lack::Refused
    } else if snapshot.is_elsewhere {
        Lack::Elsewhere
    } else {
        Lack::NoWorker
    }
}

/// The best of some workers for a request, if it does not wait for a better one. `reason` is told instead of what
/// decided between them; who comes to a last one does not wait.
fn choose<'a>(
    workers: impl Iterator<Item = &'a WorkerView<'a>>,
    demand: &Demand<'_>,
    reason: Option<Reason>,
) -> Option<Decision> {
    let mut ranked = Vec::with_capacity(workers.size_hint().1.unwrap_or(0));
    let (mut is_ruled, mut full) = (false, Vec::new());
    for worker in workers {
        if !worker.takes(demand) {
            full.push(worker);
            continue;
        }
        is_ruled |= worker.extra_us != 0;
        ranked.push(Ranked::new(worker, demand));
    }
    let [best, next] = if is_ruled { best_two_of_ruled(&ranked) } else { best_two(ranked.iter()) };
    let best = best?;
    if reason.is_none() {
        let kept = || are_kept(&ranked, best, demand).then_some(WaitReason::Kept);
        if let Some(wait) = sooner(&full, best, demand).or_else(kept) {
            return Some(Decision::Wait(wait));
        }
    }
    let reason = match (reason, next) {
        (Some(reason), _) => reason,
        (None, None) => Reason::OnlyOne,
        (None, Some(next)) => best.comes_before(next, demand),
    };
    let (chosen, next, candidates) = (best.estimate(), next.map(Ranked::estimate), ranked.len());
    let worker = chosen.worker.clone();
    Some(Decision::Dispatch { worker, why: Why { reason, chosen, next, candidates } })
}

/// Whether a request had better wait for one of those that are `full` than take a place at once, because that is at a
/// much slower worker. What is expected may be wrong, so that nobody waits longer than for half of the slow answer, nor
/// until its deadline is too near for that.
fn sooner(full: &[&WorkerView<'_>], slow: &Ranked<'_>, demand: &Demand<'_>) -> Option<WaitReason> {
    if full.is_empty() || slow.expected_us < WORTH_WAITING_US || demand.alone {
        return None;
    }
    // Whoever is to be tried again, or is wished for, is not passed by.
    if slow.worker.circuit != Circuit::Closed || slow.worker.extra_us != 0 || slow.is_session() {
        return None;
    }
    let spare = demand.left.saturating_sub(slow.needed());
    let half = Duration::from_micros(slow.expected_us / MUCH_FASTER);
    let patience = half.saturating_sub(demand.queued).min(spare);
    if patience.is_zero() {
        return None;
    }
    let limit = u64::try_from(half.min(spare).as_micros()).unwrap_or(u64::MAX);
    let is_sound = |it: &&&WorkerView<'_>| {
        it.circuit == Circuit::Closed
            && it.liveness == Liveness::Alive
            && it.extra_us == 0
            && !it.is_unjudged
            && !it.is_taken
            && !it.is_held
    };
    let places = full.iter().filter(is_sound).map(|it| it.answers_by(limit, demand));
    let most = places.fold(0, u32::saturating_add);
    let has_a_share = u32::try_from(demand.ahead.len()).is_ok_and(|ahead| ahead < most);
    has_a_share.then_some(WaitReason::Sooner { most, patience })
}

/// Whether the places that are left are for those before a request who wait for a faster worker: each of them finds one
/// when its patience ends. Who is expected to have given its own back by then keeps nobody from that; and nobody is
/// kept for longer than its answer takes, where others come and wait before it all the time. Among equals it is
/// believed for a while that the faster worker takes them in time: else slow ones would be idle beside every crowd.
/// So it is for who has just the time left for an answer there: it would be late beside a place that nobody takes.
fn are_kept(ranked: &[Ranked<'_>], best: &Ranked<'_>, demand: &Demand<'_>) -> bool {
    let answered = Duration::from_micros(best.expected_us);
    if demand.queued >= answered {
        return false;
    }
    let overdue = Duration::from_micros(best.expected_us / (2 * MUCH_FASTER));
    let is_near = demand.left <= best.needed();
    let keeps_one = |ahead: &&Ahead| {
        let is_believed = is_near || ahead.priority == demand.priority;
        ahead.patience < if is_believed { overdue } else { answered }
    };
    let kept = demand.ahead.iter().filter(keeps_one).count();
    if kept == 0 {
        return false;
    }
    // They have passed none by that is much slower than this one.
    let limit = best.answer_us.saturating_mul(MUCH_FASTER);
    let near = ranked.iter().filter(|one| one.answer_us <= limit);
    let places = near.map(|one| one.worker.places(demand.priority)).fold(0, u32::saturating_add);
    usize::try_from(places).is_ok_and(|places| places <= kept)
}

/// The best, and the next best, as far as there are any.
type Two<'r, 'a> = [Option<&'r Ranked<'a>>; 2];

/// The best two of workers of which somebody's rules say different things. What they say is exact: it is weighed
/// against what is expected, and only among those of which they say the same the less loaded one comes first.
fn best_two_of_ruled<'r, 'a>(ranked: &'r [Ranked<'a>]) -> Two<'r, 'a> {
    let extra_us = |one: &&Ranked<'_>| one.worker.extra_us;
    let mut by_extra: Vec<&Ranked<'_>> = ranked.iter().collect();
    by_extra.sort_by_key(extra_us);
    let alike = by_extra.chunk_by(|one, other| extra_us(one) == extra_us(other));
    let mut best = [None; 2];
    // Those of which the same is said come in their order.
    let is_before = |one: &'r Ranked<'a>, other: &'r Ranked<'a>| {
        extra_us(&one) != extra_us(&other)
            && (one.class, one.ruled_us) < (other.class, other.ruled_us)
    };
    for one in alike.flat_map(|alike| best_two(alike.iter().copied())).flatten() {
        put(&mut best, one, is_before);
    }
    best
}

/// The best two, in two passes: there may be a thousand. Of those that are alike, the one that is shown first: those
/// of the model's own name come first, in the order of their ids.
fn best_two<'r, 'a: 'r>(ranked: impl Iterator<Item = &'r Ranked<'a>> + Clone) -> Two<'r, 'a> {
    let mut best = [None; 2];
    let Some(limit) = Limit::of(ranked.clone()) else { return [None; 2] };
    for one in ranked {
        let key = one.key(limit);
        // Most of a thousand are neither.
        if best[1].is_none_or(|(second, _)| key < second) {
            put(&mut best, (key, one), |(key, _), (other, _)| key < other);
        }
    }
    best.map(|one| one.map(|(_, one)| one))
}

/// Puts one among the best two, where it belongs there.
fn put<T: Copy>(best: &mut [Option<T>; 2], one: T, is_before: impl Fn(T, T) -> bool) {
    let [first, second] = *best;
    let is_better = |other: Option<T>| other.is_none_or(|other| is_before(one, other));
    if is_better(first) {
        *best = [Some(one), first];
    } else if is_better(second) {
        *best = [first, Some(one)];
    }
}

/// Up to when an answer is expected of one that is as good as the soonest.
///
/// Whatever does not depend on load must decide what is close, or more load could speak for a worker.
#[derive(Clone, Copy)]
struct Limit(i64);

impl Limit {
    fn of<'r, 'a: 'r>(mut all: impl Iterator<Item = &'r Ranked<'a>>) -> Option<Self> {
        let first = all.next()?;
        let (mut class, mut soonest) = (first.class, first.ruled_us);
        let mut fastest = first.answer_us;
        for one in all {
            if one.class < class {
                (class, soonest, fastest) = (one.class, one.ruled_us, one.answer_us);
            } else if one.class == class {
                (soonest, fastest) = (soonest.min(one.ruled_us), fastest.min(one.answer_us));
            }
        }
        Some(Self(soonest.saturating_add_unsigned(CLOSE_US.max(fastest / CLOSE_PART))))
    }
}

/// A worker and what speaks for it.
struct Ranked<'a> {
    worker: &'a WorkerView<'a>,
    class: Class,
    /// How many requests it has for each of its slots, in parts.
    part: u64,
    expected_us: u64,
    /// The same with what somebody's rules add to it.
    ruled_us: i64,
    /// What its answer takes alone.
    answer_us: u64,
}

/// What comes before all expectations, the better first: on time before silent; one that is to be tried
/// again, since nobody would else find out whether it works; an empty one for a request that should be
/// alone; the session's. One bit for each, since a thousand of them are compared for a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Class(u8);

impl Class {
    const SILENT: u8 = 8;
    const NO_PROBE: u8 = 4;
    const IN_COMPANY: u8 = 2;
    const NOT_OF_SESSION: u8 = 1;

    fn of(worker: &WorkerView<'_>, demand: &Demand<'_>) -> Self {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let is_alive = worker.liveness == Liveness::Alive;
        let is_of_session = is_alive && demand.session == Some(worker.id);
        let is_to_be_alone = demand.alone && worker.is_of_rbee();
        Self(
            bit(!is_alive, Self::SILENT)
                | bit(worker.circuit != Circuit::HalfOpen, Self::NO_PROBE)
                | bit(is_to_be_alone && worker.load() > 0, Self::IN_COMPANY)
                | bit(!is_of_session, Self::NOT_OF_SESSION),
        )
    }
}

impl<'a> Ranked<'a> {
    #[expect(
        clippy::inline_always,
        reason = "to copy a thousand takes longer than to fill them in"
    )]
    #[inline(always)]
    fn new(worker: &'a WorkerView<'a>, demand: &Demand<'_>) -> Self {
        let class = Class::of(worker, demand);
        let expected_us = worker.expected_us(demand.prompt_bytes, demand.answer_tokens);
        let ruled_us =
            i64::try_from(expected_us).unwrap_or(i64::MAX).saturating_add(worker.extra_us);
        let part = u64::from(worker.load()) * PARTS / u64::from(worker.slots.max(1));
        let answer_us = worker.speed.answer_us(demand.answer_tokens);
        Self { worker, class, part, expected_us, ruled_us, answer_us }
    }

    /// The better first. What is expected is no more than a guess: of those of the best class that are
    /// expected by `limit`, the less loaded one.
    fn key(&self, limit: Limit) -> impl Ord + Copy + use<> {
        let is_late = self.ruled_us > limit.0;
        let part = if is_late { 0 } else { self.part };
        (self.class, is_late, part, self.ruled_us, self.worker.in_flight)
    }

    /// How much time a request must have left for its answer here: it may take somewhat longer than expected.
    fn needed(&self) -> Duration {
        Duration::from_micros(self.expected_us.saturating_add(self.expected_us / CLOSE_PART))
    }

    fn is_session(&self) -> bool {
        self.class.0 & Class::NOT_OF_SESSION == 0
    }

    /// Why it comes before the next best.
    fn comes_before(&self, next: &Self, demand: &Demand<'_>) -> Reason {
        if self.is_session() {
            return Reason::Session;
        }
        let differs = |bit: u8| (self.class.0 ^ next.class.0) & bit != 0;
        if differs(Class::SILENT) {
            Reason::OnTime
        } else if differs(Class::NO_PROBE) {
            Reason::Probe
        } else if differs(Class::IN_COMPANY) {
            Reason::Alone
        } else if self.is_ruled_before(next) {
            Reason::Rules
        } else if self.is_before_by_prefix(next, demand) {
            Reason::Prefix
        } else {
            Reason::Soonest
        }
    }

    /// Whether it comes before another one only because somebody's rules want it.
    fn is_ruled_before(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.worker.extra_us, other.worker.extra_us);
        ours < theirs && self.expected_us >= other.expected_us
    }

    /// Whether it comes before another one only because of what it holds of the prompt: if neither held
    /// anything, the other one would be as good at least, or as good as that, and it is not.
    fn is_before_by_prefix(&self, other: &Self, demand: &Demand<'_>) -> bool {
        if self.worker.held_bytes <= other.worker.held_bytes {
            return false;
        }
        let bare = [self, other].map(|one| WorkerView { held_bytes: 0, ..*one.worker });
        let [ours, theirs] = &bare;
        let ranked = [Ranked::new(theirs, demand), Ranked::new(ours, demand)];
        let is_ruled = ours.extra_us != theirs.extra_us;
        let [best, _] = if is_ruled { best_two_of_ruled(&ranked) } else { best_two(ranked.iter()) };
        let is_by = |ruled_us: i64, limit: Option<Limit>| limit.is_some_and(|at| ruled_us <= at.0);
        let is_as_good = is_by(ranked[0].ruled_us, Limit::of(ranked.iter()));
        let is_worse = !is_by(other.ruled_us, Limit::of([self, other].into_iter()));
        best.is_some_and(|best| best.worker.id == theirs.id) || is_as_good && is_worse
    }

    fn estimate(&self) -> Estimate {
        let worker = self.worker;
        Estimate {
            worker: worker.id.clone(),
            expected_ms: self.expected_us / 1000,
            load: worker.load(),
            slots: worker.slots,
            held_bytes: worker.held_bytes,
        }
    }
}

/// A hive that is gone and has what a worker for the request would need: that of this machine first, which anybody
/// can start.
fn gone_hive(snapshot: &Snapshot<'_>, demand: &Demand<'_>) -> Option<HiveAlias> {
    let fleet = &snapshot.fleet;
    let gone = fleet.hives.iter().filter(|hive| hive.liveness == Liveness::Gone);
    let with_file = gone.filter(|hive| hive.has_file(demand));
    let useful = with_file.filter(|hive| is_long_enough(fleet, hive, demand)).map(|hive| hive.id);
    useful.min_by_key(|id| (!id.is_localhost(), *id)).cloned()
}
