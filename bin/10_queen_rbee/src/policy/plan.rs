//! What follows from the policies for the workers that there are. Pure: `now` is passed in.
//!
//! A model that is asked for more than its workers can take gets another one when its queue has been
//! long for a while; one that is not asked for loses them when they have been idle for long. Between
//! two changes of one model some time passes, so that a load that comes and goes moves nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worker_contract::{ModelAlias, WorkerId};

use super::Policy;

/// How long requests must wait without a break until another worker is started.
const CROWDED: Duration = Duration::from_secs(5);
/// How long nothing is changed for a model after a change.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a start that failed is not tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How long no place is looked for where there was none. What was in the way may be gone at any time.
const NO_PLACE: Duration = Duration::from_secs(10);
/// How long it is not told again that there is none, for the same reason.
const TELL: Duration = Duration::from_secs(60);
/// After how long a worker is idle that is one of several and was not demanded by the policy.
const EXTRA_IDLE: Duration = Duration::from_secs(120);

/// A model, its workers and its queue at one moment.
#[derive(Debug, Clone)]
pub(super) struct ModelView {
    pub(super) policy: Policy,
    /// Its workers that are ready or coming.
    pub(super) workers: Vec<Replica>,
    /// Requests that wait for a worker.
    pub(super) waiting: usize,
    /// One is being started, whether or not its hive lists it.
    pub(super) is_starting: bool,
}

/// A worker of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) id: WorkerId,
    /// Whether it is being loaded.
    pub(super) is_coming: bool,
    /// For how long it has had no request; `None` while it has some.
    pub(super) idle: Option<Duration>,
    /// Whether more than its own word speaks for it: another one is ended for no other.
    pub(super) is_borne_out: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Another worker is started.
    Start {
        /// For which model.
        model: ModelAlias,
        /// Why.
        why: Need,
    },
    /// A worker is ended.
    Stop {
        /// Which one.
        worker: WorkerId,
        /// How long it has been idle.
        idle: Duration,
    },
}

/// Why another worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// The policy wants as many.
    Min,
    /// Requests have waited for a while.
    Crowd,
}

impl Need {
    /// Its name in decisions and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Min => "policy_min",
            Self::Crowd => "crowd",
        }
    }
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Planner {
    models: BTreeMap<ModelAlias, Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    crowded_since: Option<Instant>,
    quiet_until: Option<Instant>,
    /// Until when no worker is started for a need. All else goes on.
    paused_until: BTreeMap<Need, Instant>,
    /// Why there was no place, as was told last, and when.
    told: BTreeMap<Need, (&'static str, Instant)>,
}

impl Planner {
    /// What is to be done now.
    pub(super) fn plan(
        &mut self,
        models: &BTreeMap<ModelAlias, ModelView>,
        now: Instant,
    ) -> Vec<Action> {
        self.models.retain(|model, _| models.contains_key(model));
        let mut actions = Vec::new();
        for (model, view) in models {
            let memory = self.models.entry(model.clone()).or_default();
            if let Some(action) = memory.plan(model, view, now) {
                memory.quiet_until = Some(now + SETTLE);
                actions.push(action);
            }
        }
        actions
    }

    /// Nothing was started: there is nothing to wait for.
    pub(super) fn not_started(&mut self, model: &ModelAlias) {
        self.models.entry(model.clone()).or_default().quiet_until = None;
    }

    /// A start has failed.
    pub(super) fn start_failed(&mut self, model: &ModelAlias, why: Need, now: Instant) {
        self.pause(model, why, now + AFTER_FAILURE);
    }

    /// There is no place for another worker. Whether that is to be told, for this reason.
    pub(super) fn no_place(
        &mut self,
        model: &ModelAlias,
        why: Need,
        lacks: &'static str,
        now: Instant,
    ) -> bool {
        self.pause(model, why, now + NO_PLACE);
        let told = &mut self.models.entry(model.clone()).or_default().told;
        let is_news = told.get(&why).is_none_or(|(reason, at)| {
            *reason != lacks || now.saturating_duration_since(*at) >= TELL
        });
        if is_news {
            told.insert(why, (lacks, now));
        }
        is_news
    }

    fn pause(&mut self, model: &ModelAlias, why: Need, until: Instant) {
        let memory = self.models.entry(model.clone()).or_default();
        memory.quiet_until = None;
        memory.paused_until.insert(why, until);
    }
}

impl Memory {
    fn plan(&mut self, model: &ModelAlias, view: &ModelView, now: Instant) -> Option<Action> {
        let ModelView { policy, workers, waiting, is_starting } = view;
        self.crowded_since = match (*waiting, self.crowded_since) {
            (0, _) => None,
            (_, None) => Some(now),
            (_, since) => since,
        };
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        let start = |why| Some(Action::Start { model: model.clone(), why });
        if *is_starting || workers.iter().any(|worker| worker.is_coming) {
            return None;
        }
        let may_start = |why| self.paused_until.get(&why).is_none_or(|until| *until <= now);
        if count < policy.min && may_start(Need::Min) {
            return start(Need::Min);
        }
        let crowded_for = self.crowded_since.map(|since| now.saturating_duration_since(since));
        // The first worker is started by the request itself, unless that waits for a server of somebody else.
        let is_crowd = count < policy.max && crowded_for.is_some_and(|long| long >= CROWDED);
        if is_crowd && may_start(Need::Crowd) {
            return start(Need::Crowd);
        }
        let borne_out = workers.iter().filter(|worker| worker.is_borne_out).count();
        let borne_out = u32::try_from(borne_out).unwrap_or(u32::MAX);
        if borne_out <= policy.kept() || *waiting > 0 {
            return None;
        }
        let ttl = policy.idle_ttl_s.map(Duration::from_secs);
        let is_extra = borne_out > policy.min.max(1);
        let limit =
            if is_extra { Some(ttl.map_or(EXTRA_IDLE, |ttl| ttl.min(EXTRA_IDLE))) } else { ttl };
        let idle = workers.iter().filter_map(|worker| Some((worker.idle?, &worker.id)));
        let (idle, worker) = idle.max()?;
        (idle >= limit?).then(|| Action::Stop { worker: worker.clone(), idle })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_queue_that_stays_long_gets_another_worker_up_to_the_most() {
        let mut world = World::new(Policy { max: 2, ..policy() });
        world.set(1, 3);
        assert_eq!(world.pass(4), []);
        assert_eq!(world.pass(2), [start(Need::Crowd)]);
        world.set(2, 3);
        assert_eq!(world.pass(60), [], "two is the most");
    }

    #[test]
    fn a_model_that_only_a_server_of_somebody_else_serves_gets_a_worker_while_that_is_full() {
        let mut world = World::new(policy());
        world.set(0, 3);
        assert_eq!(world.pass(4), []);
        world.view.is_starting = true;
        assert_eq!(world.pass(10), [], "one is being started");
        world.view.is_starting = false;
        assert_eq!(world.pass(1), [start(Need::Crowd)]);
    }

    #[test]
    fn a_queue_that_comes_and_goes_moves_nothing() {
        let mut world = World::new(policy());
        for _ in 0..20 {
            world.set(1, 3);
            assert_eq!(world.pass(4), []);
            world.set(1, 0);
            assert_eq!(world.pass(1), []);
        }
    }

    #[test]
    fn as_many_are_kept_as_the_policy_wants() {
        let mut world = World::new(Policy { min: 2, ..policy() });
        assert_eq!(world.pass(1), [start(Need::Min)]);
        world.set(1, 0);
        assert_eq!(world.pass(10), [start(Need::Min)], "one at a time");
        world.set(2, 0);
        world.idle(Duration::from_secs(10_000));
        assert_eq!(world.pass(20), []);
    }

    #[test]
    fn an_idle_worker_is_ended_after_its_time_and_one_of_several_sooner() {
        let mut world = World::new(policy());
        world.set(2, 0);
        world.idle(119 * SECOND);
        assert_eq!(world.pass(1), []);
        world.idle(120 * SECOND);
        assert_eq!(world.pass(1), [stop("w-1", 120)]);
        world.set(1, 0);
        world.idle(899 * SECOND);
        assert_eq!(world.pass(20), []);
        world.idle(900 * SECOND);
        assert_eq!(world.pass(1), [stop("w-0", 900)]);
    }

    #[test]
    fn a_worker_for_which_only_its_own_word_speaks_has_no_other_one_ended() {
        for (min, is_borne_out, idle, ends) in [
            (0, false, 899, false),
            (0, false, 900, true),
            (0, true, 120, true),
            (1, false, 10_000, false),
            (1, true, 120, true),
        ] {
            let mut world = World::new(Policy { min, ..policy() });
            world.set(2, 0);
            world.view.workers[0].is_borne_out = is_borne_out;
            // No hive can end it.
            world.view.workers[0].idle = None;
            world.view.workers[1].idle = Some(idle * SECOND);
            let ended = ends.then(|| stop("w-1", idle.into()));
            assert_eq!(world.pass(1), Vec::from_iter(ended), "{min}, {is_borne_out}, {idle} s");
        }
    }

    #[test]
    fn pinned_models_and_those_without_a_time_stay() {
        for policy in [Policy { pin: true, ..policy() }, Policy { idle_ttl_s: None, ..policy() }] {
            let mut world = World::new(policy);
            world.set(1, 0);
            world.idle(Duration::from_secs(1_000_000));
            assert_eq!(world.pass(20), []);
        }
    }

    #[test]
    fn what_a_crowd_got_beside_a_pinned_model_is_ended_and_what_its_policy_wants_stays() {
        for (min, count, ends) in [(0, 1, false), (0, 2, true), (2, 2, false), (2, 3, true)] {
            let mut world = World::new(Policy { min, pin: true, ..policy() });
            world.set(count, 0);
            world.idle(119 * SECOND);
            assert_eq!(world.pass(1), [], "{min} of {count}");
            world.idle(120 * SECOND);
            let ended = ends.then(|| stop(&format!("w-{}", count - 1), 120));
            assert_eq!(world.pass(1), Vec::from_iter(ended), "{min} of {count}");
        }
    }

    #[test]
    fn a_start_that_failed_is_not_tried_again_at_once() {
        let mut world = World::new(Policy { min: 1, ..policy() });
        assert_eq!(world.pass(1), [start(Need::Min)]);
        world.planner.start_failed(&model(), Need::Min, world.now);
        assert_eq!(world.pass(59), []);
        assert_eq!(world.pass(2), [start(Need::Min)]);
    }

    #[test]
    fn a_place_is_looked_for_again_before_long_and_want_of_one_is_told_once_a_minute() {
        let mut world = World::new(Policy { min: 1, ..policy() });
        let mut told = 0;
        for _ in 0..6 {
            assert_eq!(world.pass(1), [start(Need::Min)]);
            let is_told = world.planner.no_place(&model(), Need::Min, "full", world.now);
            told += u32::from(is_told);
            assert_eq!(world.pass(9), [], "it was looked a moment ago");
        }
        assert_eq!(told, 1);
        let mut tell = |lacks| world.planner.no_place(&model(), Need::Min, lacks, world.now);
        assert!(tell("rules"), "it lacks something else");
        assert!(!tell("rules"));
        world.now += 60 * SECOND;
        assert!(world.planner.no_place(&model(), Need::Min, "rules", world.now));
    }

    #[test]
    fn a_crowd_that_gets_nothing_keeps_no_worker_from_being_started_or_ended() {
        let mut world = World::new(Policy { min: 1, ..policy() });
        world.set(1, 3);
        assert_eq!(world.pass(6), [start(Need::Crowd)]);
        world.planner.start_failed(&model(), Need::Crowd, world.now);
        world.set(0, 3);
        assert_eq!(world.pass(1), [start(Need::Min)], "its policy wants one");
        world.set(3, 0);
        world.idle(120 * SECOND);
        assert_eq!(world.pass(10), [stop("w-2", 120)], "nobody waits any more");
    }

    #[test]
    fn a_crowd_gets_workers_and_the_quiet_after_it_leaves_those_that_the_policy_keeps() {
        for (because, policy, left) in [
            ("nobody wants one", policy(), 0),
            ("the last one may stay", Policy { idle_ttl_s: None, ..policy() }, 1),
            ("it is pinned", Policy { pin: true, ..policy() }, 1),
            ("two are the least", Policy { min: 2, ..policy() }, 2),
            ("all are wanted", Policy { min: 4, ..policy() }, 4),
        ] {
            let mut village = Village::new(policy, 20);
            village.spend(12, 300);
            assert_eq!((village.hands.len(), village.stops), (4, 0), "{because}");
            village.spend(0, 1_500);
            assert_eq!((village.hands.len(), village.stops), (left, 4 - left), "{because}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Loads that stay for a while, and what comes of them in a [`Village`], which holds its workers to their
        /// bounds and their pace: one that stays for good brings no change any more after some minutes.
        #[test]
        fn workers_come_and_go_seldom_within_their_bounds_and_come_to_rest(
            phases in prop::collection::vec((0_usize..16, 10_u32..300), 1..6),
            (min, more, pin) in (0_u32..3, 0_u32..3, any::<bool>()),
            idle_ttl_s in prop::sample::select(vec![None, Some(60), Some(900)]),
            loading in 1_u32..60,
        ) {
            let policy = Policy { min, max: (min + more).max(1), pin, idle_ttl_s, ..policy() };
            let mut village = Village::new(policy, loading);
            for (load, seconds) in &phases {
                village.spend(*load, *seconds);
            }
            let (last, _) = phases.last().copied().unwrap();
            village.spend(last, 1_200);
            let changes = village.starts + village.stops;
            village.spend(last, 300);
            prop_assert_eq!(village.starts + village.stops, changes, "{} a second", last);
        }
    }

    /// A model whose workers take requests off a queue; what they do not take stays in it.
    struct Village {
        world: World,
        hands: Vec<Hand>,
        waiting: usize,
        /// How long a worker loads, in seconds.
        loading: u32,
        second: u32,
        last_start: Option<u32>,
        last_change: Option<u32>,
        starts: usize,
        stops: usize,
    }

    /// A worker, in seconds.
    struct Hand {
        id: usize,
        loads_for: u32,
        idle: u32,
    }

    impl Village {
        /// The most requests that wait; others are refused.
        const QUEUE: usize = 64;
        /// How many requests a worker takes in a second.
        const RATE: usize = 3;

        fn new(policy: Policy, loading: u32) -> Self {
            Self {
                world: World::new(policy),
                hands: Vec::new(),
                waiting: 0,
                loading,
                second: 0,
                last_start: None,
                last_change: None,
                starts: 0,
                stops: 0,
            }
        }

        /// So many requests come in each of some seconds.
        fn spend(&mut self, load: usize, seconds: u32) {
            for _ in 0..seconds {
                self.second += 1;
                self.work(load);
                let replica = |hand: &Hand| Replica {
                    id: format!("w-{}", hand.id).parse().unwrap(),
                    is_coming: hand.loads_for > 0,
                    idle: (hand.idle > 0).then(|| SECOND * hand.idle),
                    is_borne_out: true,
                };
                self.world.view.workers = self.hands.iter().map(replica).collect();
                self.world.view.waiting = self.waiting;
                for action in self.world.pass(1) {
                    self.follow(&action);
                }
            }
        }

        /// The first ones take what they can, so that the others are idle where there is not enough for all.
        fn work(&mut self, load: usize) {
            self.waiting = (self.waiting + load).min(Self::QUEUE);
            for hand in &mut self.hands {
                hand.idle += 1;
                hand.loads_for = hand.loads_for.saturating_sub(1);
                // One that is ready gets what waits at once.
                if hand.loads_for > 0 {
                    continue;
                }
                let taken = self.waiting.min(Self::RATE);
                self.waiting -= taken;
                if taken > 0 {
                    hand.idle = 0;
                }
            }
        }

        fn follow(&mut self, action: &Action) {
            let since =
                |at: Option<u32>| at.map_or(Duration::MAX, |at| SECOND * (self.second - at));
            let (since_start, since_change) = (since(self.last_start), since(self.last_change));
            assert!(since_change >= SETTLE, "{action:?} {since_change:?} after the last change");
            let policy = &self.world.view.policy;
            let (kept, most) = (policy.kept() as usize, policy.max as usize);
            let least_idle =
                policy.idle_ttl_s.map_or(EXTRA_IDLE, Duration::from_secs).min(EXTRA_IDLE);
            self.last_change = Some(self.second);
            match action {
                Action::Start { .. } => {
                    self.last_start = Some(self.second);
                    self.hands.push(Hand { id: self.starts, loads_for: self.loading, idle: 0 });
                    self.starts += 1;
                }
                Action::Stop { worker, .. } => {
                    assert!(since_start >= least_idle, "{since_start:?} after a start");
                    self.hands.retain(|hand| format!("w-{}", hand.id) != worker.as_str());
                    self.stops += 1;
                    assert!(self.hands.len() >= kept, "{} workers", self.hands.len());
                }
            }
            assert!(self.hands.len() <= most, "{} workers", self.hands.len());
        }
    }

    struct World {
        planner: Planner,
        view: ModelView,
        now: Instant,
    }

    impl World {
        fn new(policy: Policy) -> Self {
            let view = ModelView { policy, workers: Vec::new(), waiting: 0, is_starting: false };
            Self { planner: Planner::default(), view, now: Instant::now() }
        }

        fn set(&mut self, workers: usize, waiting: usize) {
            let replica = |n| Replica {
                id: format!("w-{n}").parse().unwrap(),
                is_coming: false,
                idle: (waiting == 0).then_some(Duration::ZERO),
                is_borne_out: true,
            };
            self.view.workers = (0..workers).map(replica).collect();
            self.view.waiting = waiting;
        }

        fn idle(&mut self, idle: Duration) {
            for worker in &mut self.view.workers {
                worker.idle = Some(idle);
            }
        }

        /// All that is to be done in so many seconds.
        fn pass(&mut self, seconds: u32) -> Vec<Action> {
            let mut actions = Vec::new();
            for _ in 0..seconds {
                self.now += SECOND;
                let models = BTreeMap::from([(model(), self.view.clone())]);
                actions.extend(self.planner.plan(&models, self.now));
            }
            actions
        }
    }

    fn policy() -> Policy {
        Policy {
            min: 0,
            max: 4,
            pin: false,
            idle_ttl_s: Some(900),
            hive: None,
            device: None,
            ctx_size: None,
            slots: None,
        }
    }

    fn start(why: Need) -> Action {
        Action::Start { model: model(), why }
    }

    fn stop(worker: &str, idle_s: u64) -> Action {
        Action::Stop { worker: worker.parse().unwrap(), idle: Duration::from_secs(idle_s) }
    }

    fn model() -> ModelAlias {
        "m".parse().unwrap()
    }
}
