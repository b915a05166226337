//! Who waits for a worker, and who is next: one bounded queue a model, first come, first served.
//!
//! Pure: it knows no worker and no clock; `now` is passed in. One model's crowd fills its own queue
//! only. Who went away or ran out of time holds nobody up.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use worker_contract::ModelAlias;

/// The queues of all models.
#[derive(Debug)]
pub struct Admission {
    max_per_model: usize,
    queues: HashMap<ModelAlias, VecDeque<Waiting>>,
    last_number: u64,
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    model: ModelAlias,
    number: u64,
}

/// As many requests wait for the model as may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} requests wait for this model already, as many as may wait")]
pub struct QueueFull {
    /// How many may wait.
    pub limit: usize,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    deadline: Instant,
}

impl Admission {
    /// Queues of at most `max_per_model` requests each.
    #[must_use]
    pub fn new(max_per_model: usize) -> Self {
        Self { max_per_model, queues: HashMap::new(), last_number: 0 }
    }

    /// Takes the last place in a model's queue.
    pub fn enter(
        &mut self,
        model: &ModelAlias,
        deadline: Instant,
        now: Instant,
    ) -> Result<Ticket, QueueFull> {
        self.last_number += 1;
        let number = self.last_number;
        let queue = match self.queues.get_mut(model) {
            Some(queue) => queue,
            None => self.queues.entry(model.clone()).or_default(),
        };
        if queue.len() >= self.max_per_model {
            queue.retain(|waiting| waiting.deadline > now);
        }
        if queue.len() >= self.max_per_model {
            return Err(QueueFull { limit: self.max_per_model });
        }
        queue.push_back(Waiting { number, deadline });
        Ok(Ticket { model: model.clone(), number })
    }

    /// Takes the first place again, for a request whose worker failed: it has waited already.
    pub fn enter_again(&mut self, model: &ModelAlias, deadline: Instant) -> Ticket {
        self.last_number += 1;
        let number = self.last_number;
        let queue = self.queues.entry(model.clone()).or_default();
        queue.push_front(Waiting { number, deadline });
        Ticket { model: model.clone(), number }
    }

    /// Whether everybody before has left or has run out of time.
    #[must_use]
    pub fn is_next(&self, ticket: &Ticket, now: Instant) -> bool {
        let Some(queue) = self.queues.get(&ticket.model) else { return false };
        let mut in_time = queue.iter().filter(|w| w.number == ticket.number || w.deadline > now);
        in_time.next().is_some_and(|first| first.number == ticket.number)
    }

    /// Gives a place up.
    pub fn leave(&mut self, ticket: &Ticket) {
        let Some(queue) = self.queues.get_mut(&ticket.model) else { return };
        queue.retain(|waiting| waiting.number != ticket.number);
        if queue.is_empty() {
            self.queues.remove(&ticket.model);
        }
    }

    /// How many wait, over all models.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_to_come_is_next_and_then_the_second() {
        let (mut queue, now) = (Admission::new(8), Instant::now());
        let first = enter(&mut queue, "m", now).unwrap();
        let second = enter(&mut queue, "m", now).unwrap();
        assert!(queue.is_next(&first, now) && !queue.is_next(&second, now));
        queue.leave(&first);
        assert!(queue.is_next(&second, now) && !queue.is_next(&first, now));
        queue.leave(&second);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_crowd_for_one_model_does_not_keep_others_out() {
        let (mut queue, now) = (Admission::new(2), Instant::now());
        enter(&mut queue, "m", now).unwrap();
        enter(&mut queue, "m", now).unwrap();
        assert_eq!(enter(&mut queue, "m", now), Err(QueueFull { limit: 2 }));
        let other = enter(&mut queue, "other", now).unwrap();
        assert!(queue.is_next(&other, now));
    }

    #[test]
    fn who_ran_out_of_time_holds_nobody_up() {
        let (mut queue, now) = (Admission::new(2), Instant::now());
        let late = enter(&mut queue, "m", now).unwrap();
        let second = queue.enter(&model("m"), now + 3 * HOUR, now).unwrap();
        let later = now + 2 * HOUR;
        assert!(queue.is_next(&second, later));
        assert!(queue.enter(&model("m"), later + HOUR, later).is_ok(), "the queue was full");
        queue.leave(&late);
        assert!(queue.is_next(&second, later));
    }

    #[test]
    fn a_request_whose_worker_failed_is_next_again() {
        let (mut queue, now) = (Admission::new(1), Instant::now());
        let waiting = enter(&mut queue, "m", now).unwrap();
        let again = queue.enter_again(&model("m"), now + HOUR);
        assert!(queue.is_next(&again, now) && !queue.is_next(&waiting, now));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    proptest! {
        #[test]
        fn exactly_one_is_next_and_in_the_order_of_coming(
            steps in prop::collection::vec((any::<bool>(), 0_usize..4), 1..60),
        ) {
            let (mut queue, now) = (Admission::new(5), Instant::now());
            let mut inside: VecDeque<Ticket> = VecDeque::new();
            for (enters, which) in steps {
                if enters {
                    let entered = enter(&mut queue, "m", now);
                    prop_assert_eq!(entered.is_ok(), inside.len() < 5);
                    inside.extend(entered);
                } else if let Some(ticket) = inside.remove(which) {
                    queue.leave(&ticket);
                }
                for (place, ticket) in inside.iter().enumerate() {
                    prop_assert_eq!(queue.is_next(ticket, now), place == 0);
                }
                prop_assert_eq!(queue.len(), inside.len());
            }
        }
    }

    fn enter(queue: &mut Admission, name: &str, now: Instant) -> Result<Ticket, QueueFull> {
        queue.enter(&model(name), now + HOUR, now)
    }

    fn model(name: &str) -> ModelAlias {
        name.parse().unwrap()
    }
}
