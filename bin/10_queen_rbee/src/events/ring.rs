//! The latest events as they go out, under numbers that count up, in bounded memory. Pure.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;

/// How many bytes of events are kept.
const KEPT: usize = 4 << 20;
/// The size from which on a batch is closed.
const BATCH: usize = 64 << 10;

/// The latest events.
#[derive(Debug)]
pub(super) struct Ring {
    /// What the ids of this ring begin with, so that those of another process are told apart.
    epoch: String,
    batches: VecDeque<Batch>,
    bytes: usize,
    last: u64,
    open: Open,
}

/// Events that go out together.
#[derive(Debug)]
struct Batch {
    first: u64,
    bytes: Bytes,
    /// Where each event begins.
    starts: Vec<usize>,
}

#[derive(Debug, Default)]
struct Open {
    buffer: Vec<u8>,
    starts: Vec<usize>,
}

/// What comes after a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing yet.
    Nothing,
    /// These events, the last of which has this number; more may follow.
    Events(Bytes, u64),
    /// Events that are no longer kept.
    Missed(u64),
}

impl Ring {
    pub(super) fn new(epoch: String) -> Self {
        Self { epoch, batches: VecDeque::new(), bytes: 0, last: 0, open: Open::default() }
    }

    /// Adds an event, which goes out with the next [`close`](Self::close).
    pub(super) fn push(&mut self, name: &str, json: &[u8]) {
        if self.open.buffer.len() + json.len() > BATCH {
            self.close();
        }
        self.last += 1;
        self.open.starts.push(self.open.buffer.len());
        frame(&mut self.open.buffer, &self.epoch, self.last, name, json);
    }

    /// Lets what was added go out; gives the number of the last event.
    pub(super) fn close(&mut self) -> u64 {
        let Open { buffer, starts } = std::mem::take(&mut self.open);
        if !starts.is_empty() {
            self.bytes += buffer.len();
            let first = self.last + 1 - starts.len() as u64;
            self.batches.push_back(Batch { first, bytes: buffer.into(), starts });
        }
        while self.bytes > KEPT && self.batches.len() > 1 {
            self.bytes -= self.batches.pop_front().map_or(0, |batch| batch.bytes.len());
        }
        self.last
    }

    /// So many events have come that nobody wrote down: what was told before is no longer kept, so that
    /// whoever has read up to there misses something.
    pub(super) fn miss(&mut self, events: u64) {
        if events > 0 {
            self.close();
            self.batches.clear();
            self.bytes = 0;
            self.last += events;
        }
    }

    /// The next events after a number.
    pub(super) fn after(&self, number: u64) -> Rest {
        if number >= self.last {
            return Rest::Nothing;
        }
        let wanted = number + 1;
        let index = self.batches.partition_point(|batch| batch.first <= wanted);
        let Some(batch) = index.checked_sub(1).and_then(|index| self.batches.get(index)) else {
            let first = self.batches.front().map_or(self.last + 1, |batch| batch.first);
            return Rest::Missed(first - wanted);
        };
        let skipped = usize::try_from(wanted - batch.first).unwrap_or(usize::MAX);
        match batch.starts.get(skipped) {
            Some(start) => Rest::Events(
                batch.bytes.slice(*start..),
                batch.first + batch.starts.len() as u64 - 1,
            ),
            None => Rest::Nothing,
        }
    }

    /// The number behind an id, if it is one that this ring gave.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        let number = number.parse().ok()?;
        (epoch == self.epoch && number <= self.last).then_some(number)
    }

    /// An event that is not kept, behind which reading goes on after the last one.
    pub(super) fn snapshot(&self, name: &str, json: &[u8]) -> Bytes {
        let mut buffer = Vec::with_capacity(json.len() + 64);
        frame(&mut buffer, &self.epoch, self.last, name, json);
        buffer.into()
    }
}

fn frame(buffer: &mut Vec<u8>, epoch: &str, number: u64, name: &str, json: &[u8]) {
    write!(buffer, "id: {epoch}-{number}\nevent: {name}\ndata: ")
        .expect("writing to memory does not fail");
    buffer.extend_from_slice(json);
    buffer.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_of_another_process_or_of_the_future_is_none() {
        let mut ring = Ring::new("a".into());
        ring.push("x", b"1");
        ring.close();
        assert_eq!((ring.number("a-0"), ring.number("a-1")), (Some(0), Some(1)));
        for id in ["b-1", "a-2", "a-", "a", "", "a-x", "a--1"] {
            assert_eq!(ring.number(id), None, "{id}");
        }
    }

    #[test]
    fn memory_is_bounded_and_who_is_behind_learns_how_far() {
        let mut ring = Ring::new("a".into());
        let json = vec![b'x'; 30 << 10];
        for _ in 0..1000 {
            ring.push("x", &json);
            ring.close();
        }
        assert!(ring.bytes <= KEPT);
        let Rest::Missed(missed) = ring.after(0) else { panic!("nothing is missing") };
        assert!(matches!(ring.after(missed), Rest::Events(..)));
        assert_eq!(ring.after(missed - 1), Rest::Missed(1));
    }

    #[test]
    fn who_has_read_up_to_what_was_never_written_down_misses_it_and_others_do_not() {
        let mut ring = Ring::new("a".into());
        ring.push("x", b"1");
        let before = ring.close();
        ring.push("x", b"2");
        ring.miss(0);
        assert_eq!(ring.after(before), Rest::Nothing, "the second one has yet to go out");
        ring.miss(3);
        assert_eq!(ring.after(before), Rest::Missed(4), "the second one is with it");
        assert_eq!(ring.number("a-5"), Some(5));
        ring.push("x", b"6");
        assert_eq!(ring.close(), 6);
        assert_eq!(ring.after(before), Rest::Missed(4));
        assert!(matches!(ring.after(5), Rest::Events(..)));
    }

    proptest! {
        #[test]
        fn every_reader_gets_every_event_once_and_in_order_wherever_it_begins(
            sizes in prop::collection::vec(0_usize..40_000, 1..60),
            closes in prop::collection::vec(any::<bool>(), 60),
            begin in 0_u64..60,
        ) {
            let mut ring = Ring::new("a".into());
            for (size, close) in sizes.iter().zip(closes) {
                ring.push("x", &vec![b'x'; *size]);
                if close {
                    ring.close();
                }
            }
            let last = ring.close();
            let (mut at, mut numbers) = (begin, Vec::new());
            while let Rest::Events(bytes, to) = ring.after(at) {
                let text = std::str::from_utf8(&bytes).unwrap();
                let ids = text.lines().filter_map(|line| line.strip_prefix("id: a-"));
                numbers.extend(ids.map(|id| id.parse::<u64>().unwrap()));
                at = to;
            }
            prop_assert_eq!(numbers, (begin + 1..=last).collect::<Vec<_>>());
        }
    }
}
