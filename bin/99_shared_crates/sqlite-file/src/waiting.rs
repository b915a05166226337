//! Records that are to be written, in their order.

use std::collections::VecDeque;

/// How many records wait while nothing can be written,
pub(crate) const MOST: usize = 1024;
/// and how many bytes of texts they may have.
pub(crate) const MOST_BYTES: usize = 8 << 20;

/// A queue whose oldest are lost past a bound.
#[derive(Debug)]
pub(crate) struct Waiting<R> {
    /// Each with its bytes.
    records: VecDeque<(R, usize)>,
    bytes: usize,
}

impl<R> Waiting<R> {
    /// One more, with that many bytes of texts.
    pub(crate) fn push(&mut self, record: R, bytes: usize) {
        self.bytes += bytes;
        self.records.push_back((record, bytes));
    }

    /// Forgets the oldest ones over so many, and over the bytes; tells how many.
    pub(crate) fn limit(&mut self, most: usize) -> usize {
        let before = self.records.len();
        while (self.records.len() > most || self.bytes > MOST_BYTES) && self.pop().is_some() {}
        before - self.records.len()
    }

    /// The oldest one, which leaves.
    pub(crate) fn pop(&mut self) -> Option<R> {
        let (record, bytes) = self.records.pop_front()?;
        self.bytes -= bytes;
        Some(record)
    }

    /// The oldest one.
    pub(crate) fn first(&self) -> Option<&R> {
        self.all().next()
    }

    /// All, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &R> {
        self.records.iter().map(|(record, _)| record)
    }

    /// Nothing waits any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self { records: VecDeque::new(), bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_lost_first_and_neither_number_nor_size_grows_for_ever() {
        let mut waiting = Waiting::default();
        waiting.push("ended", 10);
        for _ in 0..MOST {
            waiting.push("forgotten", 0);
        }
        assert_eq!(waiting.limit(MOST), 1);
        assert_eq!(waiting.first(), Some(&"forgotten"));
        assert_eq!(waiting.len(), MOST);
        waiting.push("ended", MOST_BYTES - 1);
        waiting.push("ended", 100);
        assert_eq!(waiting.limit(MOST), MOST + 1, "two are too large together");
        assert_eq!((waiting.len(), waiting.limit(MOST)), (1, 0));
        assert_eq!((waiting.limit(0), waiting.len()), (1, 0), "where none may wait");
        waiting.push("ended", 10);
        waiting.clear();
        assert!(waiting.is_empty() && waiting.pop().is_none());
    }
}
