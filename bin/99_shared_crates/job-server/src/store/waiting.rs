//! Records that are to be written, in their order.

use std::collections::VecDeque;

use super::write::Record;

/// How many records wait while nothing can be written,
const MOST: usize = 1024;
/// and how many bytes of texts they may have.
const MOST_BYTES: usize = 8 << 20;

/// A bounded queue: past its bounds the oldest is lost.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Waiting {
    /// One more.
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push_back(record);
    }

    /// Forgets the oldest ones over the bounds; tells how many.
    pub(super) fn limit(&mut self) -> usize {
        let before = self.records.len();
        while (self.records.len() > MOST || self.bytes > MOST_BYTES) && self.pop().is_some() {}
        before - self.records.len()
    }

    /// The oldest one, which leaves.
    pub(super) fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.bytes -= record.bytes();
        Some(record)
    }

    /// The oldest one.
    pub(super) fn first(&self) -> Option<&Record> {
        self.records.front()
    }

    /// All.
    pub(super) fn all(&mut self) -> &[Record] {
        self.records.make_contiguous()
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::JobId;

    use super::*;

    #[test]
    fn the_oldest_are_lost_first_and_neither_number_nor_size_grows_for_ever() {
        let forgotten = || Record::Forgotten(JobId::random());
        let ended = |bytes: usize| Record::Ended {
            id: JobId::random(),
            state: rbee_operations::JobState::Failed,
            ended_at: String::new(),
            error: Some("x".repeat(bytes)),
            events: Vec::new(),
        };
        let mut waiting = Waiting::default();
        waiting.push(ended(10));
        for _ in 0..MOST {
            waiting.push(forgotten());
        }
        assert_eq!(waiting.limit(), 1);
        assert!(matches!(waiting.first(), Some(Record::Forgotten(_))));
        assert_eq!(waiting.len(), MOST);
        waiting.push(ended(MOST_BYTES - 1));
        waiting.push(ended(100));
        assert_eq!(waiting.limit(), MOST + 1, "two are too large together");
        assert_eq!((waiting.len(), waiting.limit()), (1, 0));
        waiting.clear();
        assert!(waiting.is_empty() && waiting.pop().is_none());
    }
}
