//! A circuit breaker for one worker: after failures in a row nothing is sent to it for a while, then
//! one request that shows whether it works again. A request that a worker fails again and again a moment
//! later counts once: it may be at fault itself. So do the requests of a process whose connections break at
//! one moment: it ended once. Pure: `now` is passed in.

use std::time::{Duration, Instant};

use crate::scheduler::Circuit;

/// How many requests that fail in a row open the circuit.
const FAILURES: usize = 3;
/// The same request counts again after so long: what is wrong with it shows at once.
const APART: Duration = Duration::from_secs(5);
/// It counts again as well after so many failures in between.
const REPEATS: u32 = 16;
/// Connections that break within so long of each other break of one cause.
const MOMENT: Duration = Duration::from_secs(1);
/// For how long it is open the first time; each further time twice as long.
const FIRST: Duration = Duration::from_secs(2);
/// The longest time.
const LONGEST: Duration = Duration::from_secs(20);

/// The breaker of one worker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The failures that count since it last answered a request.
    failed: Vec<Counted>,
    trips: u32,
    open_until: Option<Instant>,
    broke: Option<Break>,
}

/// A connection that broke.
#[derive(Debug, Clone, Copy)]
struct Break {
    at: Instant,
    /// How many requests the worker had been given.
    given: u64,
}

/// A failure that counts, and those of the same request that followed it.
#[derive(Debug, Clone, Copy)]
struct Counted {
    request: u64,
    at: Instant,
    repeats: u32,
}

impl Breaker {
    /// A request has failed, which may be the one that shows whether it works again. True when that opens
    /// the circuit.
    pub(super) fn on_failure(&mut self, request: u64, is_probe: bool, now: Instant) -> bool {
        if self.failed.len() < FAILURES && self.is_news(request, now) {
            self.failed.push(Counted { request, at: now, repeats: 0 });
        }
        // Of those that were under way when it opened, none says anything new.
        let counts = match self.circuit(now) {
            Circuit::Closed => self.failed.len() >= FAILURES,
            Circuit::HalfOpen => is_probe,
            Circuit::Open => false,
        };
        if !counts {
            return false;
        }
        let pause = FIRST.saturating_mul(1 << self.trips.min(16)).min(LONGEST);
        self.trips = self.trips.saturating_add(1);
        self.open_until = Some(now + pause);
        true
    }

    /// The connection of a request has broken, the `number`th of `given` that the worker was given. False where
    /// it was under way when another one's broke a moment ago: that says nothing more.
    pub(super) fn on_break(&mut self, number: u64, given: u64, now: Instant) -> bool {
        let is_same = self.broke.is_some_and(|broke| {
            number <= broke.given && now.saturating_duration_since(broke.at) < MOMENT
        });
        if !is_same {
            self.broke = Some(Break { at: now, given });
        }
        !is_same
    }

    /// Whether one more failure of a request counts. Who has failed the request that was to show whether it
    /// works has nothing to excuse.
    fn is_news(&mut self, request: u64, now: Instant) -> bool {
        let last = self.failed.iter_mut().rev().find(|counted| counted.request == request);
        let Some(last) = last.filter(|_| self.trips == 0) else { return true };
        last.repeats += 1;
        last.repeats >= REPEATS || now.saturating_duration_since(last.at) >= APART
    }

    /// It has begun an answer: requests may be sent again, and one more failure ends that. True when
    /// that closes the circuit.
    pub(super) fn on_beginning(&mut self) -> bool {
        self.failed.truncate(FAILURES - 1);
        self.open_until.take().is_some()
    }

    /// It has given a whole answer: it works. True when that closes the circuit.
    pub(super) fn on_success(&mut self) -> bool {
        std::mem::take(self).open_until.is_some()
    }

    /// Another process stands behind its name, against which nothing is held. True when that closes the circuit.
    pub(super) fn on_another(&mut self) -> bool {
        std::mem::take(self).open_until.is_some()
    }

    /// Whether requests may be sent.
    #[inline]
    pub(super) fn circuit(&self, now: Instant) -> Circuit {
        match self.open_until {
            None => Circuit::Closed,
            Some(until) if until <= now => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_that_fails_again_and_again_does_not_open_it_for_all() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.on_failure(1, false, now));
        }
        assert!(!breaker.on_failure(2, false, now));
        assert!(breaker.on_failure(3, false, now));
    }

    #[test]
    fn one_request_that_fails_for_long_or_very_often_opens_it() {
        let start = Instant::now();
        let (mut breaker, mut now) = (Breaker::default(), start);
        while !breaker.on_failure(1, false, now) {
            now += Duration::from_secs(1);
        }
        assert_eq!(now - start, APART * 2);
        let mut breaker = Breaker::default();
        let count = (1..100).find(|_| breaker.on_failure(1, false, start));
        assert_eq!(count, Some(1 + REPEATS * 2));
    }

    #[test]
    fn who_begins_answers_and_fails_them_is_shut_again_at_once() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for request in 0..FAILURES as u64 {
            breaker.on_failure(request, false, now);
        }
        for _ in 0..5 {
            now += LONGEST;
            assert!(breaker.on_beginning());
            assert!(breaker.on_failure(1, false, now), "the request that it failed before");
            assert_eq!(breaker.circuit(now), Circuit::Open);
        }
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_one_request_closes_it_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert!(!breaker.on_failure(1, false, now) && !breaker.on_failure(2, false, now));
        assert!(!breaker.on_beginning(), "it was not open");
        assert!(!breaker.on_success(), "it was not open");
        assert!(!breaker.on_failure(3, false, now) && !breaker.on_failure(4, false, now));
        assert_eq!(breaker.circuit(now), Circuit::Closed);
        assert!(breaker.on_failure(5, false, now));
        assert_eq!(breaker.circuit(now), Circuit::Open);
        assert!(!breaker.on_failure(6, false, now), "those that were under way say nothing more");
        let later = now + FIRST;
        assert_eq!(breaker.circuit(later), Circuit::HalfOpen);
        assert!(!breaker.on_failure(2, false, later), "it was under way all the time");
        assert!(breaker.on_failure(7, true, later), "the probe failed");
        assert_eq!(breaker.circuit(later + FIRST), Circuit::Open, "twice as long");
        assert_eq!(breaker.circuit(later + FIRST * 2), Circuit::HalfOpen);
        assert!(breaker.on_beginning());
        assert_eq!(breaker.circuit(later), Circuit::Closed);
    }

    #[test]
    fn connections_that_break_at_one_moment_break_of_one_cause() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let soon = now + MOMENT / 2;
        for (number, given, at, expected, what) in [
            (2, 3, now, true, "the first one"),
            (1, 3, soon, false, "it was under way"),
            (3, 3, soon, false, "it was under way, too"),
            (4, 4, soon, true, "it was sent after that"),
            (3, 5, soon + MOMENT, true, "long after"),
        ] {
            assert_eq!(breaker.on_break(number, given, at), expected, "{what}");
        }
    }

    #[test]
    fn who_answers_or_is_another_process_closes_what_was_open() {
        for close in [Breaker::on_success, Breaker::on_another] {
            let (mut breaker, now) = (Breaker::default(), Instant::now());
            for request in 0..FAILURES as u64 {
                breaker.on_failure(request, false, now);
            }
            assert!(close(&mut breaker) && !close(&mut breaker));
            assert_eq!(breaker.circuit(now), Circuit::Closed);
        }
    }

    #[test]
    fn it_is_open_for_a_bounded_time() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for request in 0..FAILURES as u64 {
            breaker.on_failure(request, false, now);
        }
        for _ in 0..40 {
            now += LONGEST;
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
            assert!(breaker.on_failure(9, true, now));
        }
    }
}
