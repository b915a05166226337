//! Who waits for a worker, and who is next: one bounded queue a model, under all its names, in a fair order.
//!
//! Interactive requests come before batch ones. Among equals callers take turns, so that a thousand
//! requests of one do not keep the single one of another waiting: each request gets a virtual start
//! time, one step after its caller's last (start-time fair queueing, Goyal et al. 1996), and the
//! earliest is next. Turns are for those who are served: where one leaves, those of its caller behind
//! it move up. Where the earliest fits no place that is free, a later one is served: of those that are
//! passed by, the first of each caller keeps its turn, and the ones behind it share the next one. A full queue
//! sheds the one that would be served last.
//!
//! Pure: it knows no worker and no clock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// The virtual time: the latest start of those that were served, for each priority. All who wait start after
    /// it but the first of each caller.
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
        queue.go_on(queue.rank_at(ticket.spot)?);
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

    /// How many may wait in a queue.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.max_per_model
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

    /// The virtual time goes on to the start of one that is served.
    fn go_on(&mut self, served: Rank) {
        // Whoever had a place is before all turns.
        let Some(owner) = self.owners.get(&served.number).filter(|_| served.start > 0) else {
            return;
        };
        let caller = owner.caller.clone();
        let time = self.time.entry(served.priority).or_default();
        *time = served.start.max(*time);
        let (first, next) = (Rank { start: 1, number: 0, ..served }, served.start + 1);
        let has_passed = self.waiting.range(first..served).next().is_some();
        let its_turn = served..Rank { start: next, number: 0, ..served };
        let mut same = self.waiting.range(its_turn).skip(1);
        let is_its = |number| self.owners.get(number).is_some_and(|it| it.caller == caller);
        if has_passed || same.any(|(rank, _)| is_its(&rank.number)) {
            self.put_off(served, &caller);
        }
    }

    /// Others were passed by. The first of each caller keeps its turn; those behind it share the next one, or they
    /// would come before whoever enters now. Those of the caller that is served start a step after that.
    fn put_off(&mut self, served: Rank, caller: &str) {
        let next = self.time.get(&served.priority).copied().unwrap_or(0) + 1;
        let mut seen = HashSet::new();
        let mut starts = Vec::new();
        // In the order of their arrival, which is that of their turns.
        for (number, owner) in &self.owners {
            let rank = owner.rank;
            if rank.priority != served.priority || rank.start == 0 || rank == served {
                continue;
            }
            let keeps_turn = seen.insert(owner.caller.as_str()) && rank < served;
            let start = match (owner.caller == caller, rank < served) {
                (true, _) if !keeps_turn => rank.start.max(served.start + 1),
                (false, true) if !keeps_turn => rank.start.max(next),
                _ => rank.start,
            };
            starts.push((*number, start));
        }
        let mut behind: HashMap<String, u64> = HashMap::new();
        for (number, start) in starts.into_iter().rev() {
            let Some(owner) = self.owners.get_mut(&number) else { continue };
            let last = behind.entry(owner.caller.clone()).or_insert_with(|| {
                if let Some(known) = self.last.get_mut(&(served.priority, owner.caller.clone())) {
                    known.start = start;
                }
                start
            });
            *last = start.min(*last);
            if owner.rank.start != *last {
                let request = self.waiting.remove(&owner.rank);
                owner.rank.start = *last;
                self.waiting.extend(request.map(|request| (owner.rank, request)));
            }
        }
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
mod tests;
