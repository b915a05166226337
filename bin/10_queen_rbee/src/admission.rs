//! Who waits for a worker, and who is next: one bounded queue a model, under all its names, in a fair order.
//!
//! Interactive requests come before batch ones. Among equals callers take turns, so that a thousand
//! requests of one do not keep the single one of another waiting: each request gets a virtual start
//! time, one step after its caller's last (start-time fair queueing, Goyal et al. 1996), and the
//! earliest is next. Turns are for those who are served: where one leaves, those of its caller behind
//! it move up. A full queue sheds the one that would be served last.
//!
//! Pure: it knows no worker and no clock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use worker_contract::{ModelAlias, Sha256Digest};

/// How urgent a request is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It takes what others leave.
    Batch,
}

/// Which requests wait together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueKey {
    /// Those for a name that shares no workers.
    Name(ModelAlias),
    /// Those for all names of a file that share its workers.
    File(Sha256Digest),
}

/// The queues of all models, of requests `T`.
#[derive(Debug)]
pub struct Admission<T> {
    max_per_model: usize,
    queues: BTreeMap<QueueKey, Queue<T>>,
    /// How many wait for each model, by the name that they asked for.
    by_model: BTreeMap<ModelAlias, usize>,
    last_number: u64,
    len: usize,
}

/// A place in a queue. It names the queue that was entered, whatever the names of models stand for by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    queue: QueueKey,
    spot: Spot,
}

/// Which request of its queue it is, by its arrival: it is the same one wherever it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot(u64);

/// Who enters.
#[derive(Debug, Clone, Copy)]
pub struct Entrant<'a> {
    /// Where it waits.
    pub queue: &'a QueueKey,
    /// The model that is asked for.
    pub model: &'a ModelAlias,
    /// Who asks.
    pub caller: &'a str,
    /// How urgent it is.
    pub priority: Priority,
    /// It has waited before and had a place: it is next of its kind, and is not shed.
    pub had_a_place: bool,
}

/// As many requests wait for the model as may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} requests wait for this model already, as many as may wait")]
pub struct QueueFull {
    /// How many may wait.
    pub limit: usize,
}

/// The order of a queue: priority, virtual start, arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Priority,
    start: u64,
    number: u64,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: BTreeMap<Rank, T>,
    /// The virtual time: the start of the last one that was served, for each priority.
    time: HashMap<Priority, u64>,
    /// The start of each caller's last request, while it has some.
    last: HashMap<(Priority, String), Caller>,
    /// Whose each waiting request is, by its number.
    owners: BTreeMap<u64, Owner>,
    /// How many wait for each model.
    by_model: BTreeMap<ModelAlias, usize>,
}

/// Who asks, and for what.
#[derive(Debug)]
struct Owner {
    caller: String,
    model: ModelAlias,
    /// Where its request is.
    rank: Rank,
}

#[derive(Debug, Default)]
struct Caller {
    start: u64,
    waiting: usize,
}

impl Ticket {
    /// The place that a spot in a queue is.
    #[must_use]
    pub fn new(queue: &QueueKey, spot: Spot) -> Self {
        Self { queue: queue.clone(), spot }
    }
}

impl<T> Admission<T> {
    /// Queues of at most `max_per_model` requests each.
    #[must_use]
    pub fn new(max_per_model: usize) -> Self {
        let (queues, by_model) = (BTreeMap::new(), BTreeMap::new());
        Self { max_per_model, queues, by_model, last_number: 0, len: 0 }
    }

    /// Takes a place. Where the queue is full, whoever would be served last has to go: the one that
    /// is given back, or this one.
    pub fn enter(
        &mut self,
        entrant: &Entrant<'_>,
        request: T,
    ) -> Result<(Ticket, Option<T>), (QueueFull, T)> {
        self.last_number += 1;
        let number = self.last_number;
        let limit = self.max_per_model;
        let queue = match self.queues.get_mut(entrant.queue) {
            Some(queue) => queue,
            None => self.queues.entry(entrant.queue.clone()).or_insert_with(Queue::new),
        };
        let rank = queue.rank(entrant, number);
        let mut shed = None;
        if queue.waiting.len() >= limit && !entrant.had_a_place {
            // Whoever had a place begins at 0, and stays.
            match queue.waiting.keys().rev().find(|last| last.start > 0).copied() {
                Some(last) if last > rank => {
                    if let Some((model, request)) = queue.remove(last) {
                        count_out(&mut self.by_model, &model);
                        self.len -= 1;
                        shed = Some(request);
                    }
                }
                _ => return Err((QueueFull { limit }, request)),
            }
        }
        queue.push(rank, entrant, request);
        count_in(&mut self.by_model, entrant.model);
        self.len += 1;
        Ok((Ticket::new(entrant.queue, Spot(number)), shed))
    }

    /// Those who wait in a queue, the next first.
    pub fn waiting(&self, queue: &QueueKey) -> impl Iterator<Item = (Spot, &T)> {
        let queue = self.queues.get(queue).into_iter();
        let waiting = queue.flat_map(|queue| queue.waiting.iter());
        waiting.map(|(rank, request)| (Spot(rank.number), request))
    }

    /// The request at a place, while it waits there.
    #[must_use]
    pub fn get(&self, ticket: &Ticket) -> Option<&T> {
        let queue = self.queues.get(&ticket.queue)?;
        queue.waiting.get(&queue.rank_at(ticket.spot)?)
    }

    /// The models that somebody waits for.
    pub fn models(&self) -> impl Iterator<Item = &ModelAlias> {
        self.by_model.keys()
    }

    /// For how many models somebody waits in a queue.
    #[must_use]
    pub fn models_in(&self, queue: &QueueKey) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.by_model.len())
    }

    /// The queues that somebody waits in, the one first whose request has waited the longest.
    #[must_use]
    pub fn queues_by_arrival(&self) -> Vec<QueueKey> {
        let mut queues: Vec<_> = self.queues.iter().collect();
        queues.sort_by_key(|(_, queue)| queue.owners.first_key_value().map(|(number, _)| *number));
        queues.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// Takes a request out because it is served; the virtual time goes on.
    pub fn serve(&mut self, ticket: &Ticket) -> Option<T> {
        let queue = self.queues.get_mut(&ticket.queue)?;
        let rank = queue.rank_at(ticket.spot)?;
        let time = queue.time.entry(rank.priority).or_default();
        *time = (*time).max(rank.start);
        self.leave(ticket)
    }

    /// Gives a place up.
    pub fn leave(&mut self, ticket: &Ticket) -> Option<T> {
        let queue = self.queues.get_mut(&ticket.queue)?;
        let (model, request) = queue.remove(queue.rank_at(ticket.spot)?)?;
        count_out(&mut self.by_model, &model);
        self.len -= 1;
        if queue.waiting.is_empty() {
            self.queues.remove(&ticket.queue);
        }
        Some(request)
    }

    /// How many wait in a queue.
    #[must_use]
    pub fn waiting_in(&self, queue: &QueueKey) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.waiting.len())
    }

    /// How many wait for a model, by this name.
    #[must_use]
    pub fn waiting_for(&self, model: &ModelAlias) -> usize {
        self.by_model.get(model).copied().unwrap_or(0)
    }

    /// How many wait, over all models.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            time: HashMap::new(),
            last: HashMap::new(),
            owners: BTreeMap::new(),
            by_model: BTreeMap::new(),
        }
    }

    fn rank(&self, entrant: &Entrant<'_>, number: u64) -> Rank {
        let priority = entrant.priority;
        if entrant.had_a_place {
            return Rank { priority, start: 0, number };
        }
        let time = self.time.get(&priority).copied().unwrap_or(0);
        let key = (priority, entrant.caller.to_owned());
        let last = self.last.get(&key).map_or(0, |caller| caller.start);
        Rank { priority, start: time.max(last) + 1, number }
    }

    fn push(&mut self, rank: Rank, entrant: &Entrant<'_>, request: T) {
        self.waiting.insert(rank, request);
        let caller = entrant.caller.to_owned();
        let known = self.last.entry((rank.priority, caller.clone())).or_default();
        known.start = known.start.max(rank.start);
        known.waiting += 1;
        count_in(&mut self.by_model, entrant.model);
        self.owners.insert(rank.number, Owner { caller, model: entrant.model.clone(), rank });
    }

    /// Where a request is, while it waits.
    fn rank_at(&self, Spot(number): Spot) -> Option<Rank> {
        self.owners.get(&number).map(|owner| owner.rank)
    }

    /// Gives the model, too, by the name that was asked for. Those of the same caller behind it move up.
    fn remove(&mut self, rank: Rank) -> Option<(ModelAlias, T)> {
        // Whoever waits has an owner.
        let Owner { caller, model, .. } = self.owners.remove(&rank.number)?;
        let request = self.waiting.remove(&rank)?;
        count_out(&mut self.by_model, &model);
        let key = (rank.priority, caller);
        if let Some(known) = self.last.get_mut(&key) {
            known.waiting -= 1;
            if known.waiting == 0 {
                self.last.remove(&key);
            } else if rank.start > 0 {
                self.move_up(rank, key);
            }
        }
        Some((model, request))
    }

    /// Each that waits behind one that is gone, of the same caller, takes the turn of the one before it. A turn
    /// that the virtual time has reached is nobody's any more: behind one that is served nobody moves.
    fn move_up(&mut self, gone: Rank, key: (Priority, String)) {
        let time = self.time.get(&gone.priority).copied().unwrap_or(0);
        let mut free = gone.start.max(time + 1);
        let mut last = 0;
        let is_its = |owner: &&mut Owner| (owner.rank.priority, &owner.caller) == (key.0, &key.1);
        // In the order of their arrival, which is that of their turns.
        for owner in self.owners.values_mut().filter(is_its) {
            match owner.rank.start.cmp(&free) {
                Ordering::Less => {}
                Ordering::Equal => return,
                Ordering::Greater => {
                    let request = self.waiting.remove(&owner.rank);
                    std::mem::swap(&mut owner.rank.start, &mut free);
                    self.waiting.extend(request.map(|request| (owner.rank, request)));
                }
            }
            last = owner.rank.start.max(last);
        }
        self.last.entry(key).or_default().start = last;
    }
}

fn count_in(counts: &mut BTreeMap<ModelAlias, usize>, model: &ModelAlias) {
    match counts.get_mut(model) {
        Some(count) => *count += 1,
        None => _ = counts.insert(model.clone(), 1),
    }
}

fn count_out(counts: &mut BTreeMap<ModelAlias, usize>, model: &ModelAlias) {
    let Some(count) = counts.get_mut(model) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(model);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn callers_take_turns_however_many_each_has() {
        let mut queue = Admission::new(100);
        for n in 0..6 {
            enter(&mut queue, "greedy", n).unwrap();
        }
        enter(&mut queue, "modest", 100).unwrap();
        enter(&mut queue, "modest", 101).unwrap();
        assert_eq!(drain(&mut queue), [0, 100, 1, 101, 2, 3, 4, 5]);
    }

    #[test]
    fn who_was_idle_has_saved_nothing_up() {
        let mut queue = Admission::new(100);
        for n in 0..4 {
            enter(&mut queue, "a", n).unwrap();
        }
        for expected in [0, 1] {
            assert_eq!(serve_next(&mut queue), Some(expected));
        }
        for n in 10..13 {
            enter(&mut queue, "b", n).unwrap();
        }
        assert_eq!(drain(&mut queue), [2, 10, 3, 11, 12]);
    }

    #[test]
    fn who_leaves_unserved_uses_up_no_turn_of_its_caller() {
        for (leave, expected) in [
            (1..9, [0, 20, 9, 21, 22, 10]),
            (0..9, [9, 20, 21, 10, 22, 23]),
            (2..10, [0, 20, 1, 21, 22, 10]),
        ] {
            let mut queue = Admission::new(100);
            let enter = |queue: &mut Admission<usize>, caller, n| {
                queue.enter(&entrant(caller), n).unwrap().0
            };
            let tickets: Vec<_> = (0..10).map(|n| enter(&mut queue, "a", n)).collect();
            for n in leave.clone() {
                assert_eq!(queue.leave(&tickets[n]), Some(n));
            }
            for n in 20..24 {
                enter(&mut queue, "b", n);
            }
            enter(&mut queue, "a", 10);
            assert_eq!(drain(&mut queue)[..6], expected, "{leave:?} leave");
        }
    }

    #[test]
    fn a_turn_that_is_over_is_not_had_later() {
        let mut queue = Admission::new(100);
        let stuck = queue.enter(&entrant("a"), 0).unwrap().0;
        for n in 20..30 {
            let served = queue.enter(&entrant("b"), n).unwrap().0;
            assert_eq!(queue.serve(&served), Some(n));
        }
        enter(&mut queue, "c", 30).unwrap();
        enter(&mut queue, "a", 1).unwrap();
        queue.leave(&stuck);
        assert_eq!(drain(&mut queue), [30, 1]);
    }

    #[test]
    fn interactive_requests_come_before_batch_ones_and_push_them_out() {
        let mut queue = Admission::new(2);
        let batch = |n| (Entrant { priority: Priority::Batch, ..entrant("a") }, n);
        for n in [0, 1] {
            let (entrant, n) = batch(n);
            assert!(queue.enter(&entrant, n).is_ok());
        }
        let (entrant, n) = batch(2);
        assert_eq!(queue.enter(&entrant, n).unwrap_err(), (QueueFull { limit: 2 }, 2));
        assert_eq!(enter(&mut queue, "a", 3).unwrap(), Some(1), "the last batch one goes");
        assert_eq!(drain(&mut queue), [3, 0]);
    }

    #[test]
    fn a_full_queue_sheds_the_last_of_whoever_has_the_most() {
        let mut queue = Admission::new(3);
        for n in 0..3 {
            enter(&mut queue, "greedy", n).unwrap();
        }
        assert_eq!(enter(&mut queue, "modest", 10).unwrap(), Some(2));
        assert!(enter(&mut queue, "greedy", 3).is_err());
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn a_request_whose_worker_failed_is_next_again_even_in_a_full_queue() {
        let mut queue = Admission::new(1);
        enter(&mut queue, "a", 0).unwrap();
        let again = Entrant { had_a_place: true, ..entrant("b") };
        assert!(queue.enter(&again, 1).is_ok());
        assert_eq!(drain(&mut queue), [1, 0]);
    }

    #[test]
    fn a_crowd_for_one_model_does_not_keep_others_out() {
        let mut queue = Admission::new(1);
        enter(&mut queue, "a", 0).unwrap();
        let other: ModelAlias = "other".parse().unwrap();
        let key = QueueKey::Name(other.clone());
        let entrant = Entrant { queue: &key, model: &other, ..entrant("a") };
        assert!(queue.enter(&entrant, 1).is_ok());
        assert_eq!((queue.waiting_for(&other), queue.len()), (1, 2));
    }

    #[test]
    fn whoever_had_a_place_makes_room_for_nobody() {
        let mut queue = Admission::new(2);
        let begun = Entrant { priority: Priority::Batch, had_a_place: true, ..entrant("a") };
        queue.enter(&begun, 0).unwrap();
        assert_eq!(queue.enter(&entrant("b"), 1).map(|(_, shed)| shed), Ok(None));
        let refused = queue.enter(&entrant("b"), 2).map(|(_, shed)| shed);
        assert_eq!(refused, Err((QueueFull { limit: 2 }, 2)), "the batch answer has begun");
    }

    #[test]
    fn names_that_share_a_queue_share_its_order_and_its_bound_and_are_counted_apart() {
        let mut queue = Admission::new(5);
        let names: [ModelAlias; 2] = ["m", "again"].map(|name| name.parse().unwrap());
        let file = QueueKey::File("0".repeat(64).parse().unwrap());
        let mut ask = |name: usize, caller, n| {
            let entrant = Entrant { queue: &file, model: &names[name], ..entrant(caller) };
            let shed = queue.enter(&entrant, n).map(|(_, shed)| shed);
            (shed, [0, 1].map(|name| queue.waiting_for(&names[name])))
        };
        assert_eq!(ask(0, "greedy", 0), (Ok(None), [1, 0]));
        assert_eq!(ask(1, "greedy", 1), (Ok(None), [1, 1]));
        assert_eq!(ask(0, "greedy", 2), (Ok(None), [2, 1]));
        assert_eq!(ask(1, "greedy", 3), (Ok(None), [2, 2]));
        assert_eq!(ask(1, "modest", 10), (Ok(None), [2, 3]));
        assert_eq!(ask(0, "modest", 11), (Ok(Some(3)), [3, 2]), "it is full for both");
        assert_eq!(ask(1, "greedy", 4), (Err((QueueFull { limit: 5 }, 4)), [3, 2]));
        assert_eq!((queue.queues_by_arrival(), queue.models_in(&file)), (vec![file.clone()], 2));
        assert_eq!(drain(&mut queue), [0, 10, 1, 11, 2]);
        assert!(queue.models().next().is_none());
    }

    proptest! {
        #[test]
        fn nobody_is_lost_or_served_twice_and_between_two_of_one_every_other_caller_has_a_turn(
            steps in prop::collection::vec((0_usize..4, any::<bool>(), 0_usize..8), 1..120),
        ) {
            let names = ["a", "b", "c"];
            let mut queue = Admission::new(20);
            let mut inside: Vec<(Ticket, usize)> = Vec::new();
            let mut gone = HashSet::new();
            for (number, (who, leaves, which)) in steps.into_iter().enumerate() {
                if who < 3 {
                    match queue.enter(&entrant(names[who]), number) {
                        Ok((ticket, shed)) => {
                            inside.push((ticket, number));
                            if let Some(shed) = shed {
                                inside.retain(|(_, other)| *other != shed);
                                prop_assert!(gone.insert(shed));
                            }
                        }
                        Err(_) => prop_assert!(queue.len() >= 20),
                    }
                } else if let Some((ticket, number)) = inside.get(which).cloned() {
                    let left = if leaves { queue.leave(&ticket) } else { queue.serve(&ticket) };
                    prop_assert_eq!(left, Some(number));
                    prop_assert!(gone.insert(number));
                    prop_assert_eq!(queue.leave(&ticket), None);
                    inside.retain(|(_, other)| *other != number);
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert!(queue.len() <= 20);
            }
            let rest: HashSet<_> = drain(&mut queue).into_iter().collect();
            prop_assert_eq!(rest, inside.into_iter().map(|(_, number)| number).collect());
            prop_assert!(queue.queues.is_empty() && queue.by_model.is_empty());
        }

        #[test]
        fn in_any_crowd_a_request_waits_for_one_of_each_other_caller_for_each_of_its_own_at_most(
            crowd in prop::collection::vec((0_usize..5, 0_usize..4, 0_usize..60), 0..90),
        ) {
            let names = ["single", "a", "b", "c", "d"];
            let mut queue = Admission::new(100);
            let mut inside: Vec<(Ticket, usize)> = Vec::new();
            let mut whose = Vec::new();
            let mut may_be_due = 0;
            for (who, what, which) in crowd {
                if what == 0 && !inside.is_empty() {
                    let (ticket, _) = inside.remove(which % inside.len());
                    prop_assert!(queue.leave(&ticket).is_some());
                } else if what == 1 {
                    let served = serve_next(&mut queue);
                    // Another one may have its turn at the same time, and comes before all this.
                    may_be_due = 1;
                    inside.retain(|(_, number)| Some(*number) != served);
                } else {
                    let ticket = queue.enter(&entrant(names[who]), whose.len()).unwrap().0;
                    inside.push((ticket, whose.len()));
                    whose.push(who);
                }
            }
            enter(&mut queue, "single", whose.len()).unwrap();
            let own = 1 + inside.iter().filter(|(_, number)| whose[*number] == 0).count();
            let before: Vec<_> = drain(&mut queue).into_iter().map_while(|n| whose.get(n)).collect();
            for other in 1..names.len() {
                let others = before.iter().filter(|who| ***who == other).count();
                let is_fair = others <= own + may_be_due;
                prop_assert!(is_fair, "{others} of {other} before the last of {own}");
            }
        }
    }

    fn entrant(caller: &str) -> Entrant<'_> {
        static MODEL: LazyLock<ModelAlias> = LazyLock::new(|| "m".parse().unwrap());
        static QUEUE: LazyLock<QueueKey> = LazyLock::new(|| QueueKey::Name(MODEL.clone()));
        let (queue, model) = (&*QUEUE, &*MODEL);
        Entrant { queue, model, caller, priority: Priority::Interactive, had_a_place: false }
    }

    fn enter(
        queue: &mut Admission<usize>,
        caller: &str,
        n: usize,
    ) -> Result<Option<usize>, (QueueFull, usize)> {
        queue.enter(&entrant(caller), n).map(|(_, shed)| shed)
    }

    fn serve_next(queue: &mut Admission<usize>) -> Option<usize> {
        let key = queue.queues_by_arrival().into_iter().next()?;
        let spot = queue.waiting(&key).next()?.0;
        queue.serve(&Ticket::new(&key, spot))
    }

    fn drain(queue: &mut Admission<usize>) -> Vec<usize> {
        std::iter::from_fn(|| serve_next(queue)).collect()
    }
}
