//! Handing places out to those who wait, in the order of the queues.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use worker_contract::{ModelAlias, WorkerId};

use super::kinds::Kinds;
use super::patient::Patient;
use super::starts::{Attempts, Closed, Starts};
use super::{Dispatcher, NoPlace, Queues, Waiting, Wanted};
use crate::admission::{Admission, Priority, QueueKey, Spot, Ticket};
use crate::clock;
use crate::registry::{Judging, Placed};
use crate::scheduler::{Decision, MakeWay, Spawn, WaitReason, Ways};

/// How long rules may compute for the requests of one queue until fewer of those are looked at.
const SLOW: Duration = Duration::from_millis(100);

/// What one step of handing out has come to.
#[derive(Debug)]
enum Step {
    /// Nothing more can be done.
    Done,
    /// Somebody was placed or refused, or a worker is started.
    Taken,
    /// The rules have to be asked first, for the request there.
    Asks(Spot),
}

/// Who judges places for requests that wait, from one step to the next that changes nothing.
#[derive(Debug, Default)]
struct Judgings<'a> {
    known: BTreeMap<Spot, Judged<'a>>,
}

/// Who judges for a request.
#[derive(Debug)]
struct Judged<'a> {
    judging: Judging<'a>,
    /// There was no place for it.
    is_over: bool,
}

/// The models of one queue, as far as they are known in one step.
#[derive(Debug, Default)]
struct Names<'a> {
    known: Vec<Name<'a>>,
}

/// A model of a queue.
#[derive(Debug)]
struct Name<'a> {
    model: &'a ModelAlias,
    may_reckon: bool,
    closed: Closed,
    /// Those who wait for it and can be taken in no other ways than these wait for room.
    full_for: Ways,
}

/// What the second pass of a round has: it starts workers, and has others make way for them.
struct Starting<'a> {
    attempts: &'a mut Attempts,
    needed: Needed,
}

/// Who has to go on making way, by what one round has decided.
#[derive(Debug, Default)]
struct Needed {
    /// All who make way for these: their hive is being asked, or one of them is about to be ended.
    all_for: BTreeSet<ModelAlias>,
    these: BTreeMap<ModelAlias, BTreeSet<WorkerId>>,
}

impl Dispatcher {
    /// Gives every place that there is to whoever is next, and starts workers that are needed.
    pub(super) fn hand_out(&self, attempts: &mut Attempts) {
        let all = self.queues().admission.queues_by_arrival();
        for queue in &all {
            self.hand_out_for(queue, None);
        }
        // Only now, or a worker that has just come for those of one model would make room for another.
        let mut starting = Starting { attempts, needed: Needed::default() };
        for queue in &all {
            self.hand_out_for(queue, Some(&mut starting));
        }
        let needed = &starting.needed;
        self.registry.come_back(|worker, model| needed.has(worker, model), clock::now());
        let queues = &mut *self.queues();
        queues.starts.forget_all_but(&queues.admission);
        self.registry.set_waiting(queues.admission.len());
    }

    /// Gives every place that there is to those who wait in a queue; where there is `starting`, workers are
    /// started. The queues are locked for one step at a time, and not while somebody's rules
    /// are asked.
    fn hand_out_for(&self, queue: &QueueKey, mut starting: Option<&mut Starting<'_>>) {
        let mut judgings = Judgings::default();
        let mut rooms = self.registry.rooms();
        loop {
            let before = std::mem::replace(&mut rooms, self.registry.rooms());
            if before != rooms {
                judgings.reopen();
            }
            let step = {
                let queues = &mut *self.queues();
                self.hand_out_one(queues, queue, starting.as_deref_mut(), &mut judgings)
            };
            match step {
                Step::Done => return,
                // What the rules said was true before.
                Step::Taken => judgings = Judgings::default(),
                Step::Asks(spot) => judgings.answer(spot),
            }
        }
    }

    /// One step for a queue: somebody is placed or refused, or a worker is started.
    fn hand_out_one<'a>(
        &'a self,
        queues: &mut Queues,
        queue: &QueueKey,
        mut starting: Option<&mut Starting<'_>>,
        judgings: &mut Judgings<'a>,
    ) -> Step {
        let Queues { admission, starts } = queues;
        let now = clock::now();
        let mut next = None;
        let has_rules = self.registry.has_place_rules();
        let mut kinds = Kinds::none(judgings.are_slow());
        let mut names = Names::default();
        let mut waits_for_rest: BTreeMap<&ModelAlias, Instant> = BTreeMap::new();
        let mut patient = Patient::default();
        let first = admission.waiting(queue).next();
        let is_interactive = |waiting: &Waiting| waiting.wanted.priority == Priority::Interactive;
        let has_interactive = first.is_some_and(|(_, first)| is_interactive(first));
        let suspects = suspects(admission, queue).into_iter();
        for (spot, waiting) in suspects.chain(admission.waiting(queue)) {
            let model = &waiting.wanted.model;
            if waiting.wanted.deadline <= now || waiting.answer.is_closed() {
                let word = Some(waiting.told.get().last_word());
                let late = NoPlace::Deadline { model: model.clone(), word };
                next = Some((spot, Some(Err(late))));
                break;
            }
            let alone = waiting.is_alone(now);
            // A batch request keeps nobody out for whom somebody waits.
            if alone && has_interactive && !is_interactive(waiting) {
                self.log_change(waiting, WaitReason::Alone);
                continue;
            }
            let kind = waiting.wanted.kind(alone, has_rules);
            let needs = waiting.needs(kind);
            if let Some(reason) = patient.one_more(&needs) {
                self.log_change(waiting, reason);
                continue;
            }
            // Who waits for the end of a rest says nothing of one that has less time.
            let has_less = waits_for_rest
                .get(model)
                .is_some_and(|deadline| waiting.wanted.deadline < *deadline);
            let is_worth_asking = !names.is_full(model, waiting.wanted.ways)
                && (kinds.is_worth_asking(kind) || has_less);
            if !is_worth_asking || judgings.are_over(spot) {
                continue;
            }
            let name = names.of(model, || self.name(starts, model, now));
            let may_reckon = name.may_reckon;
            // Who makes way is a matter of the look that can start somebody, and not of each of them.
            let since = if may_reckon && starting.is_some() { waiting.since } else { now };
            let waited = now.saturating_duration_since(since);
            let mut ask = waiting.wanted.ask(&name.closed, waited, now);
            ask.demand.queued = now.saturating_duration_since(waiting.since);
            ask.demand.alone = alone;
            ask.demand.ahead = patient.ahead();
            // Whether it waits for somebody whom it may have was asked when it came.
            let judging = judgings.at(spot, || self.registry.judging(&ask).map(Judging::of_open));
            let placed = self.registry.place_judged(&ask, judging, now);
            if matches!(placed, Some(Placed::Not(_))) {
                judgings.over(spot);
            }
            if let Some(Placed::Not(Decision::Wait(reason))) = &placed {
                self.log_change(waiting, *reason);
            }
            match placed {
                None => return Step::Asks(spot),
                Some(Placed::At(place)) => next = Some((spot, Some(Ok(place)))),
                Some(Placed::Not(Decision::Reject { reason, retry_after_s })) => {
                    let source = starts.last_error(model);
                    let refused = self.refused(model, reason, retry_after_s, source);
                    next = Some((spot, Some(Err(refused))));
                }
                Some(Placed::Not(Decision::Spawn(spawn))) => {
                    let Some(starting) = starting.as_deref_mut() else { continue };
                    return self.start(&waiting.wanted, &spawn, starting, now);
                }
                Some(Placed::Not(Decision::MakeWay(way))) => {
                    if let Some(starting) = starting.as_deref_mut() {
                        self.make_way(&waiting.wanted, &way, &mut starting.needed, now);
                        starts.reckoned(model, now);
                    }
                    continue;
                }
                Some(Placed::Not(Decision::Wait(
                    reason @ (WaitReason::Sooner { .. } | WaitReason::Kept),
                ))) => {
                    if patient.waits(needs, reason) {
                        kinds.forget(kind);
                    }
                    continue;
                }
                Some(Placed::Not(Decision::Wait(WaitReason::Memory | WaitReason::NextTurn))) => {
                    match starting.as_deref_mut() {
                        Some(_) if may_reckon => starts.reckoned(model, now),
                        Some(starting) => _ = starting.needed.all_for.insert(model.clone()),
                        None => {}
                    }
                    continue;
                }
                Some(Placed::Not(Decision::Wait(WaitReason::Coming))) => {
                    if let Some(starting) = starting.as_deref_mut()
                        && self.registry.is_starting(model)
                    {
                        starting.needed.all_for.insert(model.clone());
                    }
                    continue;
                }
                Some(Placed::Not(Decision::Wait(WaitReason::Resting))) => {
                    let least = waits_for_rest.entry(model).or_insert(waiting.wanted.deadline);
                    *least = waiting.wanted.deadline.min(*least);
                    continue;
                }
                Some(Placed::Not(Decision::Wait(WaitReason::Room)))
                    if !kind.speaks_for().is_none() =>
                {
                    name.full_for = name.full_for | kind.speaks_for();
                    if names.full() == admission.models_in(queue) {
                        return Step::Done;
                    }
                    continue;
                }
                Some(Placed::Not(_)) => continue,
            }
            break;
        }
        let Some((spot, answer)) = next else { return Step::Done };
        let ticket = Ticket::new(queue, spot);
        let request = match &answer {
            Some(Ok(_)) => admission.serve(&ticket),
            _ => admission.leave(&ticket),
        };
        if let (Some(request), Some(answer)) = (request, answer) {
            request.end(answer);
        }
        Step::Taken
    }
}

impl Dispatcher {
    /// What is known of a model of a queue.
    fn name<'a>(&self, starts: &Starts, model: &'a ModelAlias, now: Instant) -> Name<'a> {
        let closed = starts.closed(model, |hive| self.registry.hive_heard(hive, now));
        Name { model, may_reckon: starts.may_reckon(model, now), closed, full_for: Ways::NONE }
    }

    /// Starts a worker for a request, or asks its hive whether there is room.
    fn start(
        &self,
        wanted: &Wanted,
        spawn: &Spawn,
        starting: &mut Starting<'_>,
        now: Instant,
    ) -> Step {
        let model = &wanted.model;
        let attempt = self.spawner.spawn(model, spawn);
        if spawn.asks || attempt.is_none() {
            starting.needed.all_for.insert(model.clone());
        } else {
            // Whoever has to go for it has gone.
            self.registry.come_back(|_, its| its != model, now);
        }
        // Where a worker that was to go has just got a request, it is decided again.
        let Some(attempt) = attempt else { return Step::Done };
        if attempt.is_first {
            self.log_spawn(wanted, spawn);
        }
        starting.attempts.begun(model, attempt);
        // Others may have what they need already.
        Step::Taken
    }

    /// Has workers make way for a request.
    fn make_way(&self, wanted: &Wanted, way: &MakeWay, needed: &mut Needed, now: Instant) {
        let model = &wanted.model;
        for worker in self.registry.make_way(way, model, now) {
            self.log_way(wanted, way, &worker);
        }
        needed.these.entry(model.clone()).or_default().extend(way.workers.iter().cloned());
    }
}

/// Those of a queue that may be what ends workers, the most suspicious first: they are tried before others come to the
/// worker. All of one urgency have had a place before, so that they are at its head.
fn suspects<'a>(admission: &'a Admission<Waiting>, queue: &QueueKey) -> Vec<(Spot, &'a Waiting)> {
    let returned = admission.waiting(queue).take_while(|(_, waiting)| waiting.wanted.had_a_place);
    let mut suspects: Vec<_> = returned.filter(|(_, waiting)| waiting.wanted.alone).collect();
    suspects.sort_by_key(|(_, waiting)| !waiting.wanted.fell_alone);
    suspects
}

impl Needed {
    fn has(&self, worker: &WorkerId, model: &ModelAlias) -> bool {
        let is_one = || self.these.get(model).is_some_and(|these| these.contains(worker));
        self.all_for.contains(model) || is_one()
    }
}

impl<'a> Names<'a> {
    fn of(&mut self, model: &ModelAlias, look: impl FnOnce() -> Name<'a>) -> &mut Name<'a> {
        let known = self.known.iter().position(|name| name.model == model);
        let place = known.unwrap_or_else(|| {
            self.known.push(look());
            self.known.len() - 1
        });
        &mut self.known[place]
    }

    fn is_full(&self, model: &ModelAlias, ways: Ways) -> bool {
        let is_it = |name: &Name<'_>| !name.full_for.is_none() && name.full_for.hold(ways);
        self.known.iter().any(|name| is_it(name) && name.model == model)
    }

    /// How many of them are full, in whatever ways a request can be taken.
    fn full(&self) -> usize {
        self.known.iter().filter(|name| name.full_for == Ways::ALL).count()
    }
}

impl<'a> Judgings<'a> {
    /// Whoever judges for the request at a spot; `None` where there are no rules.
    fn at(
        &mut self,
        spot: Spot,
        begin: impl FnOnce() -> Option<Judging<'a>>,
    ) -> Option<&Judging<'a>> {
        let judged = match self.known.entry(spot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Judged { judging: begin()?, is_over: false }),
        };
        Some(&judged.judging)
    }

    fn answer(&self, spot: Spot) {
        if let Some(judged) = self.known.get(&spot) {
            judged.judging.answer();
        }
    }

    /// There is no place for the request at a spot, until something changes.
    fn over(&mut self, spot: Spot) {
        if let Some(judged) = self.known.get_mut(&spot) {
            judged.is_over = true;
        }
    }

    /// There may be a place for each of them again: whoever comes first is looked at first.
    fn reopen(&mut self) {
        for judged in self.known.values_mut() {
            judged.is_over = false;
        }
    }

    fn are_over(&self, spot: Spot) -> bool {
        self.known.get(&spot).is_some_and(|judged| judged.is_over)
    }

    /// Whether the rules have computed for long.
    fn are_slow(&self) -> bool {
        let spent = self.known.values().map(|judged| judged.judging.spent());
        spent.sum::<Duration>() > SLOW
    }
}
