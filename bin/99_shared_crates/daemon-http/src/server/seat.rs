//! Places for those who ask: where they run short, connections on which nobody asks anything are closed.
//!
//! Such a client loses nothing, as it may send its next request on another connection. What a connection
//! does is one number, which it sets itself; to find those that wait, the door looks at all of them.

use std::future::poll_fn;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::patient::Carried;

/// How long a connection may wait for a request, however short places are: one that was just opened is
/// about to send it.
const GRACE: Duration = Duration::from_millis(500);

/// How often it is told that connections are closed for want of places.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A request comes in, or is answered.
const BUSY: u64 = u64::MAX;
/// Nobody asks anything, and it was asked to leave. Any smaller number: how long after it was accepted it
/// began to wait for a request, in milliseconds; 0 where it has sent nothing yet.
const LEAVING: u64 = BUSY - 1;

/// What a connection does.
#[derive(Debug)]
pub(super) struct Seat {
    accepted: Instant,
    state: AtomicU64,
    /// Wakes the connection when it is to leave.
    leave: AtomicWaker,
}

/// A connection on which nobody asks anything, and since when. Those that leave first are the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    Leaving,
    Silent(Instant),
    BetweenRequests(Instant),
}

impl Default for Seat {
    fn default() -> Self {
        let (state, leave) = (AtomicU64::new(0), AtomicWaker::new());
        Self { accepted: Instant::now(), state, leave }
    }
}

impl Seat {
    /// A request comes in.
    pub(super) fn begin(&self) {
        if self.state.load(Acquire) != BUSY {
            self.state.store(BUSY, Release);
        }
    }

    /// The request is answered.
    pub(super) fn end(&self) {
        let after = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(LEAVING);
        self.state.store(after.clamp(1, LEAVING - 1), Release);
    }

    /// Whether the connection is to leave; it is woken when it is.
    pub(super) fn poll_leave(&self, context: &mut Context<'_>) -> Poll<()> {
        // Streams come here with each piece.
        if self.state.load(Acquire) == BUSY {
            return Poll::Pending;
        }
        self.leave.register(context.waker());
        if self.state.load(Acquire) == LEAVING { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What comes of the work, unless the connection is to leave before.
    pub(super) async fn unless_it_leaves<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = poll_fn(|context| self.poll_leave(context)) => None,
        }
    }

    fn waits(&self) -> Option<Waits> {
        match self.state.load(Acquire) {
            BUSY => None,
            LEAVING => Some(Waits::Leaving),
            0 => Some(Waits::Silent(self.accepted)),
            after => Some(Waits::BetweenRequests(self.accepted + Duration::from_millis(after))),
        }
    }

    /// A connection on which a request comes in meanwhile stays.
    fn ask_to_leave(&self) {
        let waits = self.state.load(Acquire);
        if waits < LEAVING && self.state.compare_exchange(waits, LEAVING, AcqRel, Acquire).is_ok() {
            self.leave.wake();
        }
    }
}

/// The seats of all connections, and of some that are gone.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Vec<Weak<Carried>>,
    told: Option<Instant>,
}

impl Seats {
    pub(super) fn add(&mut self, carried: &Arc<Carried>) {
        if self.taken.len() == self.taken.capacity() {
            self.taken.retain(|seat| seat.strong_count() > 0);
            // As many may come before it is looked through again.
            self.taken.reserve(self.taken.len().max(16));
        }
        self.taken.push(Arc::downgrade(carried));
    }

    /// Asks connections to leave until so many do, of those that wait: first those that have sent nothing,
    /// then those between two requests, each the longest waiting first.
    pub(super) fn make_room(&mut self, wanted: usize) {
        let now = Instant::now();
        let has_waited = |waits: Waits| match waits {
            Waits::Leaving => true,
            Waits::Silent(since) | Waits::BetweenRequests(since) => now >= since + GRACE,
        };
        let seats = self.taken.iter().filter_map(Weak::upgrade);
        let mut waiting: Vec<_> = seats
            .filter_map(|carried| Some((carried.seat.waits()?, carried)))
            .filter(|(waits, _)| has_waited(*waits))
            .collect();
        waiting.sort_unstable_by_key(|(waits, _)| *waits);
        waiting.truncate(wanted);
        for (_, carried) in &waiting {
            carried.seat.ask_to_leave();
        }
        if !waiting.is_empty() && self.told.is_none_or(|told| now >= told + TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!(
                closed = waiting.len(),
                "places for connections run short; some on which nobody asks anything are closed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_sent_nothing_leaves_first_then_who_has_waited_for_longest() {
        let step = Duration::from_secs(1);
        let mut seats = Seats::default();
        let carried: Vec<_> = (0..6).map(|_| Arc::new(Carried::default())).collect();
        let [busy, answered_late, answered_early, silent, begun, _silent_too] = &carried[..] else {
            unreachable!()
        };
        for one in [busy, answered_late, answered_early, begun] {
            one.seat.begin();
        }
        for one in [answered_early, answered_late] {
            advance(step).await;
            one.seat.end();
        }
        advance(step).await;
        let just_came = Arc::new(Carried::default());
        for one in carried.iter().chain([&just_came]) {
            seats.add(one);
        }
        let leaving = || {
            let leaves = |one: &&Arc<Carried>| one.seat.waits() == Some(Waits::Leaving);
            carried.iter().map(|one| u8::from(leaves(&one))).collect::<Vec<_>>()
        };
        for (wanted, leave) in [
            (0, [0, 0, 0, 0, 0, 0]),
            (2, [0, 0, 0, 1, 0, 1]),
            // They have been asked already.
            (2, [0, 0, 0, 1, 0, 1]),
            (3, [0, 0, 1, 1, 0, 1]),
            (9, [0, 1, 1, 1, 0, 1]),
        ] {
            seats.make_room(wanted);
            assert_eq!(leaving(), leave, "{wanted}");
        }
        assert!(matches!(just_came.seat.waits(), Some(Waits::Silent(_))), "it is about to ask");
        silent.seat.begin();
        seats.make_room(9);
        assert_eq!(silent.seat.waits(), None, "a request came in before it left");
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let mut seats = Seats::default();
        let stays = Arc::new(Carried::default());
        seats.add(&stays);
        for _ in 0..10_000 {
            seats.add(&Arc::new(Carried::default()));
        }
        assert!(seats.taken.len() <= 64, "{}", seats.taken.len());
        assert!(seats.taken.iter().any(|seat| seat.strong_count() == 1), "it is still there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_is_woken_to_leave() {
        let mut seats = Seats::default();
        let carried = Arc::new(Carried::default());
        seats.add(&carried);
        advance(GRACE).await;
        let waits = carried.seat.unless_it_leaves(std::future::pending::<()>());
        let asked = async { seats.make_room(1) };
        assert_eq!(tokio::join!(waits, asked).0, None);
    }
}
