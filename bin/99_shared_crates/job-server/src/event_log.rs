//! The kept events of one job: absolute ids, bounded memory, and an honest gap where events are gone.
//!
//! Ids ascend from 1. A log that was filled by one process has no holes but the one at its start,
//! where old events were dropped. A log that was read back from disk may have holes inside, since not
//! every event is stored. Both look the same to a reader: a [`Gap`] before the next event. How many are missing before the
//! [last word of an interrupted job](INTERRUPTED_ID) nobody knows, and there is no gap.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::kept;

/// The id of the event that says that a job was interrupted. It is above all ids that the job can have
/// given to a reader before, the last of which were not stored.
pub(crate) const INTERRUPTED_ID: u64 = 1 << 32;

/// An event as it is kept: its id and its JSON, made once for all readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptEvent {
    pub(crate) id: u64,
    pub(crate) event: Event,
}

/// An event that has no id yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) json: Bytes,
    /// Whether it may be kept in memory only.
    pub(crate) private: bool,
}

/// Events that a reader asked for and that are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// How many events are missing.
    pub(crate) missed: u64,
    /// The first id after the missing ones.
    pub(crate) first_available: u64,
}

/// What comes after some id: perhaps a gap, then events without holes between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) gap: Option<Gap>,
    pub(crate) events: Vec<KeptEvent>,
}

/// The bounded log.
#[derive(Debug)]
pub(crate) struct EventLog {
    events: VecDeque<KeptEvent>,
    bytes: usize,
    last_id: u64,
    max_events: usize,
    max_bytes: usize,
}

impl EventLog {
    /// An empty log. The latest event is always kept, even where it alone is over a limit.
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, last_id: 0, max_events, max_bytes }
    }

    /// Keeps an event under the next id.
    pub(crate) fn append(&mut self, event: Event) -> u64 {
        let id = self.last_id + 1;
        self.push(KeptEvent { id, event });
        id
    }

    /// Keeps an event under an id of its own; ignored unless that is higher than all others.
    pub(crate) fn restore(&mut self, kept: KeptEvent) {
        if kept.id > self.last_id {
            self.push(kept);
        }
    }

    /// The events with ids above `after`, up to the next hole and no more than `max`.
    pub(crate) fn read(&self, after: u64, max: usize) -> Batch {
        let start = self.events.partition_point(|e| e.id <= after);
        let Some(first) = self.events.get(start) else { return Batch::default() };
        let gap = (first.id > after + 1 && first.id != INTERRUPTED_ID)
            .then(|| Gap { missed: first.id - after - 1, first_available: first.id });
        let events = (first.id..)
            .zip(self.events.range(start..))
            .take(max)
            .take_while(|(id, kept)| kept.id == *id)
            .map(|(_, kept)| kept.clone())
            .collect();
        Batch { gap, events }
    }

    /// Of the events that are not private, the latest `max_events` that have at most `max_bytes`
    /// together.
    pub(crate) fn public_tail(&self, max_events: usize, max_bytes: usize) -> Vec<KeptEvent> {
        let mut bytes = 0;
        let mut tail: Vec<_> = self
            .events
            .iter()
            .rev()
            .filter(|kept| !kept.event.private)
            .take(max_events)
            .take_while(|kept| {
                bytes += kept.event.json.len();
                bytes <= max_bytes
            })
            .cloned()
            .collect();
        tail.reverse();
        tail
    }

    /// Drops all but the latest event, and of that the data where it is large.
    pub(crate) fn keep_only_the_latest(&mut self) {
        self.drop_while_over(1, usize::MAX);
        self.events.shrink_to_fit();
        if let Some(latest) = self.events.back_mut()
            && let Some(short) = kept::event(&latest.event)
        {
            self.bytes = short.json.len();
            latest.event = short;
        }
    }

    /// The id of the latest event; 0 before the first.
    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The size of all kept events.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, kept: KeptEvent) {
        self.last_id = kept.id;
        self.bytes += kept.event.json.len();
        self.events.push_back(kept);
        self.drop_while_over(self.max_events, self.max_bytes);
    }

    fn drop_while_over(&mut self, max_events: usize, max_bytes: usize) {
        while self.events.len() > 1 && (self.events.len() > max_events || self.bytes > max_bytes) {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.event.json.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_of_dropped_events_learns_how_many_are_gone() {
        let mut log = EventLog::new(3, usize::MAX);
        for _ in 0..10 {
            log.append(event("{}"));
        }
        let batch = log.read(2, 100);
        assert_eq!(batch.gap, Some(Gap { missed: 5, first_available: 8 }));
        assert_eq!(ids(&batch.events), [8, 9, 10]);
    }

    #[test]
    fn an_event_over_the_byte_limit_is_kept_alone() {
        let mut log = EventLog::new(10, 8);
        log.append(event("1234"));
        log.append(event("a long event"));
        assert_eq!(ids(&log.read(1, 10).events), [2]);
        assert_eq!(log.bytes(), 12);
    }

    #[test]
    fn a_hole_inside_is_a_gap_between_two_batches() {
        let mut log = EventLog::new(10, usize::MAX);
        for id in [1, 2, 9, 10, 4] {
            log.restore(KeptEvent { id, event: event("{}") });
        }
        assert_eq!(ids(&log.read(0, 10).events), [1, 2]);
        let second = log.read(2, 10);
        assert_eq!(second.gap, Some(Gap { missed: 6, first_available: 9 }));
        assert_eq!(ids(&second.events), [9, 10]);
    }

    #[test]
    fn nobody_counts_what_an_interrupted_job_told_last() {
        let mut log = EventLog::new(10, usize::MAX);
        for id in [3, 4, INTERRUPTED_ID] {
            log.restore(KeptEvent { id, event: event("{}") });
        }
        assert_eq!(log.read(0, 10).gap, Some(Gap { missed: 2, first_available: 3 }));
        for after in [4, 9] {
            let batch = log.read(after, 10);
            assert_eq!((batch.gap, ids(&batch.events)), (None, vec![INTERRUPTED_ID]));
        }
    }

    #[test]
    fn the_public_tail_has_no_private_event_and_is_within_the_limits() {
        let mut log = EventLog::new(10, usize::MAX);
        for _ in 0..4 {
            log.append(event("12345"));
        }
        log.append(Event { private: true, ..event("secret") });
        log.append(event("12345"));
        assert_eq!(ids(&log.public_tail(10, 11)), [4, 6]);
        assert_eq!(ids(&log.public_tail(3, 100)), [3, 4, 6]);
        assert_eq!(ids(&log.public_tail(1, 5)), [6]);
        assert!(log.public_tail(10, 4).is_empty() && log.public_tail(0, 100).is_empty());
    }

    proptest! {
        /// Whoever reads in steps of any size, while events are appended, gets each kept event once
        /// and in order, and each missing one in exactly one gap.
        #[test]
        fn a_reader_accounts_for_every_event(
            max_events in 1_usize..20,
            max_bytes in 1_usize..200,
            steps in prop::collection::vec(prop_oneof![
                (0_usize..40).prop_map(Step::Append),
                (1_usize..10).prop_map(Step::Read),
            ], 0..200),
        ) {
            let mut log = EventLog::new(max_events, max_bytes);
            let (mut appended, mut accounted) = (0_u64, 0_u64);
            for step in steps.into_iter().chain((0..30).map(|_| Step::Read(20))) {
                match step {
                    Step::Append(size) => {
                        let id = log.append(event(&"x".repeat(size)));
                        appended += 1;
                        prop_assert_eq!(id, appended);
                        let kept = log.read(0, usize::MAX).events;
                        let bytes: usize = kept.iter().map(|e| e.event.json.len()).sum();
                        prop_assert_eq!(bytes, log.bytes());
                        prop_assert!(kept.len() <= max_events);
                        prop_assert!(bytes <= max_bytes || kept.len() == 1);
                    }
                    Step::Read(max) => {
                        let batch = log.read(accounted, max);
                        prop_assert!(batch.events.len() <= max);
                        if let Some(gap) = batch.gap {
                            prop_assert!(gap.missed > 0);
                            accounted += gap.missed;
                            prop_assert_eq!(gap.first_available, accounted + 1);
                        }
                        for event in batch.events {
                            accounted += 1;
                            prop_assert_eq!(event.id, accounted);
                        }
                    }
                }
            }
            prop_assert_eq!(accounted, appended);
        }

        /// A replay from any id is the end of the replay from the start.
        #[test]
        fn a_replay_from_an_id_is_the_end_of_the_whole_replay(
            count in 0_u64..60, max_events in 1_usize..80, after in 0_u64..70,
        ) {
            let mut log = EventLog::new(max_events, usize::MAX);
            for n in 0..count {
                log.append(event(&n.to_string()));
            }
            let whole = log.read(0, usize::MAX).events;
            let rest = log.read(after, usize::MAX).events;
            let expected: Vec<_> = whole.into_iter().filter(|e| e.id > after).collect();
            prop_assert_eq!(rest, expected);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        Read(usize),
    }

    fn event(json: &str) -> Event {
        Event { json: Bytes::copy_from_slice(json.as_bytes()), private: false }
    }

    fn ids(events: &[KeptEvent]) -> Vec<u64> {
        events.iter().map(|e| e.id).collect()
    }
}
