//! Who waits for a worker, and who is next: one bounded queue a model, in a fair order.
//!
//! Interactive requests come before batch ones. Among equals callers take turns, so that a thousand
//! requests of one do not keep the single one of another waiting: each request gets a virtual start
//! time, one step after its caller's last (start-time fair queueing, Goyal et al. 1996), and the
//! earliest is next. A full queue sheds the one that would be served last.
//!
//! Pure: it knows no worker and no clock.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use worker_contract::ModelAlias;

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

/// The queues of all models, of requests `T`.
#[derive(Debug)]
pub struct Admission<T> {
    max_per_model: usize,
    queues: BTreeMap<ModelAlias, Queue<T>>,
    last_number: u64,
    len: usize,
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    model: ModelAlias,
    rank: Rank,
}

/// Where in its queue a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot(Rank);

/// Who enters.
#[derive(Debug, Clone, Copy)]
pub struct Entrant<'a> {
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
    /// Whose each waiting request is.
    callers: BTreeMap<u64, String>,
}

#[derive(Debug, Default)]
struct Caller {
    start: u64,
    waiting: usize,
}

impl Ticket {
    /// The place that a spot in a model's queue is.
    #[must_use]
    pub fn new(model: &ModelAlias, Spot(rank): Spot) -> Self {
        Self { model: model.clone(), rank }
    }
}

impl<T> Admission<T> {
    /// Queues of at most `max_per_model` requests each.
    #[must_use]
    pub fn new(max_per_model: usize) -> Self {
        Self { max_per_model, queues: BTreeMap::new(), last_number: 0, len: 0 }
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
        let queue = match self.queues.get_mut(entrant.model) {
            Some(queue) => queue,
            None => self.queues.entry(entrant.model.clone()).or_insert_with(Queue::new),
        };
        let rank = queue.rank(entrant, number);
        let mut shed = None;
        if queue.waiting.len() >= limit && !entrant.had_a_place {
            match queue.waiting.last_key_value() {
                Some((last, _)) if *last > rank => {
                    let last = *last;
                    shed = queue.remove(last);
                    self.len -= 1;
                }
                _ => return Err((QueueFull { limit }, request)),
            }
        }
        queue.push(rank, entrant, request);
        self.len += 1;
        Ok((Ticket { model: entrant.model.clone(), rank }, shed))
    }

    /// Those who wait for a model, the next first.
    pub fn waiting(&self, model: &ModelAlias) -> impl Iterator<Item = (Spot, &T)> {
        let queue = self.queues.get(model).into_iter();
        queue.flat_map(|queue| queue.waiting.iter()).map(|(rank, request)| (Spot(*rank), request))
    }

    /// The models that somebody waits for.
    pub fn models(&self) -> impl Iterator<Item = &ModelAlias> {
        self.queues.keys()
    }

    /// The same, the one first whose request has waited the longest.
    #[must_use]
    pub fn models_by_arrival(&self) -> Vec<ModelAlias> {
        let mut models: Vec<_> = self.queues.iter().collect();
        models.sort_by_key(|(_, queue)| queue.callers.first_key_value().map(|(number, _)| *number));
        models.into_iter().map(|(model, _)| model.clone()).collect()
    }

    /// Takes a request out because it is served; the virtual time goes on.
    pub fn serve(&mut self, ticket: &Ticket) -> Option<T> {
        if let Some(queue) = self.queues.get_mut(&ticket.model)
            && queue.waiting.contains_key(&ticket.rank)
        {
            let time = queue.time.entry(ticket.rank.priority).or_default();
            *time = (*time).max(ticket.rank.start);
        }
        self.leave(ticket)
    }

    /// Gives a place up.
    pub fn leave(&mut self, ticket: &Ticket) -> Option<T> {
        let queue = self.queues.get_mut(&ticket.model)?;
        let request = queue.remove(ticket.rank);
        self.len -= usize::from(request.is_some());
        if queue.waiting.is_empty() {
            self.queues.remove(&ticket.model);
        }
        request
    }

    /// How many wait for a model.
    #[must_use]
    pub fn waiting_for(&self, model: &ModelAlias) -> usize {
        self.queues.get(model).map_or(0, |queue| queue.waiting.len())
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
            callers: BTreeMap::new(),
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
        self.callers.insert(rank.number, caller);
    }

    fn remove(&mut self, rank: Rank) -> Option<T> {
        let request = self.waiting.remove(&rank)?;
        if let Some(caller) = self.callers.remove(&rank.number) {
            let key = (rank.priority, caller);
            if let Some(known) = self.last.get_mut(&key) {
                known.waiting -= 1;
                if known.waiting == 0 {
                    self.last.remove(&key);
                }
            }
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
        let other = "other".parse().unwrap();
        assert!(queue.enter(&Entrant { model: &other, ..entrant("a") }, 1).is_ok());
        assert_eq!((queue.waiting_for(&other), queue.len()), (1, 2));
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
            prop_assert!(queue.queues.is_empty());
        }

        #[test]
        fn in_any_crowd_a_single_request_waits_for_one_of_each_other_caller_at_most(
            crowd in prop::collection::vec(0_usize..5, 0..60),
        ) {
            let names = ["a", "b", "c", "d", "e"];
            let mut queue = Admission::new(100);
            for (number, who) in crowd.iter().enumerate() {
                enter(&mut queue, names[*who], number).unwrap();
            }
            enter(&mut queue, "single", 1000).unwrap();
            let place = drain(&mut queue).iter().position(|n| *n == 1000).unwrap();
            prop_assert!(place <= names.len(), "it was number {}", place);
        }
    }

    fn entrant(caller: &str) -> Entrant<'_> {
        static MODEL: std::sync::LazyLock<ModelAlias> =
            std::sync::LazyLock::new(|| "m".parse().unwrap());
        Entrant { model: &MODEL, caller, priority: Priority::Interactive, had_a_place: false }
    }

    fn enter(
        queue: &mut Admission<usize>,
        caller: &str,
        n: usize,
    ) -> Result<Option<usize>, (QueueFull, usize)> {
        queue.enter(&entrant(caller), n).map(|(_, shed)| shed)
    }

    fn serve_next(queue: &mut Admission<usize>) -> Option<usize> {
        let model = queue.models().next()?.clone();
        let spot = queue.waiting(&model).next()?.0;
        queue.serve(&Ticket::new(&model, spot))
    }

    fn drain(queue: &mut Admission<usize>) -> Vec<usize> {
        std::iter::from_fn(|| serve_next(queue)).collect()
    }
}
