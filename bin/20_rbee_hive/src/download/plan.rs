//! Which bytes of a file are on the disk, and which are to be fetched next. Pure.
//!
//! Connections claim the lowest part that nobody has, a piece at a time, so that the file is whole from
//! its beginning early and the digest can follow closely. A fast one claims larger pieces: between two of them
//! nothing is under way. What a connection did not get of its claim it gives back.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The smallest and the largest piece that a connection asks for at once, in bytes.
const PIECE: Range<u64> = 4 << 20..64 << 20;
/// Into how many pieces a file is to fall, so that all connections end at about the same time.
const PIECES: u64 = 16;

/// How long a piece is to keep a connection busy at least: much longer than what is between two of them.
const LASTING: Duration = Duration::from_millis(250);
/// How many pieces are claimed at once at most.
const MOST_AT_ONCE: u64 = 16;

/// As fast as most disks of a house write, in bytes a second: further connections would only get in each
/// other's way.
const ENOUGH: u64 = 200_000_000;

/// A set of bytes: ranges in their order that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Range<u64>>", into = "Vec<Range<u64>>")]
pub(super) struct Ranges(Vec<Range<u64>>);

/// The state of one file's download.
#[derive(Debug)]
pub(super) struct Plan {
    /// The file's size, where it is known.
    size: Option<u64>,
    piece: u64,
    done: Ranges,
    claimed: Ranges,
}

/// Whether a connection that brought so much in this time needs others beside it.
pub(super) fn is_slow(bytes: u64, time: Duration) -> bool {
    u128::from(bytes) * 1000 < u128::from(ENOUGH) * time.as_millis()
}

/// How many pieces a connection is to claim at once after it took so long for as many as it had.
pub(super) fn at_once(pieces: u64, took: Duration) -> u64 {
    if took < LASTING {
        pieces.saturating_mul(2).min(MOST_AT_ONCE)
    } else if took > 4 * LASTING {
        (pieces / 2).max(1)
    } else {
        pieces
    }
}

impl Plan {
    /// A file of which something may be there already.
    pub(super) fn new(size: Option<u64>, done: Ranges) -> Self {
        let piece = size.map_or(PIECE.end, |size| (size / PIECES).clamp(PIECE.start, PIECE.end));
        Self { size, piece, done, claimed: Ranges::default() }
    }

    /// The next part to fetch, of so many pieces, for one connection; `None` when others have all that is missing.
    pub(super) fn claim(&mut self, pieces: u64) -> Option<Range<u64>> {
        let mut taken = self.done.clone();
        self.claimed.0.iter().for_each(|range| taken.insert(range.clone()));
        let gap = taken.first_gap(self.size?)?;
        let claim =
            gap.start..gap.end.min(gap.start.saturating_add(self.piece.saturating_mul(pieces)));
        self.claimed.insert(claim.clone());
        Some(claim)
    }

    /// Notes bytes that are written.
    pub(super) fn wrote(&mut self, range: Range<u64>) {
        self.done.insert(range);
    }

    /// Ends a claim; what of it is not written may be claimed again.
    pub(super) fn release(&mut self, claim: &Range<u64>) {
        self.claimed.remove(claim);
    }

    /// How many connections have something to do.
    pub(super) fn pieces(&self) -> u64 {
        self.missing().map_or(1, |missing| missing.div_ceil(self.piece))
    }

    /// Up to where the file is whole from its beginning.
    pub(super) fn frontier(&self) -> u64 {
        self.done.0.first().filter(|first| first.start == 0).map_or(0, |first| first.end)
    }

    /// How many bytes are there.
    pub(super) fn present(&self) -> u64 {
        self.done.total()
    }

    /// How many bytes are missing, where the size is known.
    pub(super) fn missing(&self) -> Option<u64> {
        Some(self.size?.saturating_sub(self.present()))
    }

    /// The file's size, where it is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The stream of a file of unknown size ended well: what is there is all.
    pub(super) fn end_here(&mut self) {
        self.size = Some(self.present());
    }

    /// The bytes that are there.
    pub(super) fn done(&self) -> &Ranges {
        &self.done
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.size.is_some_and(|size| self.frontier() >= size)
    }
}

impl Ranges {
    /// Those bytes that are below a limit.
    pub(super) fn below(mut self, limit: u64) -> Self {
        self.remove(&(limit..u64::MAX));
        self
    }

    /// How many bytes.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// One range.
    #[cfg(test)]
    pub(super) fn one(range: Range<u64>) -> Self {
        Self(vec![range])
    }

    fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end < range.start);
        let after = self.0.partition_point(|other| other.start <= range.end);
        let merged = self.0[first..after]
            .iter()
            .fold(range, |merged, other| merged.start.min(other.start)..merged.end.max(other.end));
        self.0.splice(first..after, [merged]);
    }

    fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let parts = self.0.iter().flat_map(|own| {
            [own.start..own.end.min(range.start), own.start.max(range.end)..own.end]
        });
        self.0 = parts.filter(|part| !part.is_empty()).collect();
    }

    fn first_gap(&self, size: u64) -> Option<Range<u64>> {
        let mut start = 0;
        for range in &self.0 {
            if range.start > start {
                return (start < size).then(|| start..range.start.min(size));
            }
            start = start.max(range.end);
        }
        (start < size).then_some(start..size)
    }
}

impl From<Vec<Range<u64>>> for Ranges {
    fn from(ranges: Vec<Range<u64>>) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl From<Ranges> for Vec<Range<u64>> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn connections_get_the_lowest_parts_that_nobody_has() {
        let mut plan = Plan::new(Some(20 * MIB), Ranges::one(4 * MIB..6 * MIB));
        let claims: Vec<_> = std::iter::from_fn(|| plan.claim(1)).collect();
        let expected = [0..4, 6..10, 10..14, 14..18, 18..20];
        assert_eq!(claims, expected.map(|r: Range<u64>| r.start * MIB..r.end * MIB));
        assert_eq!(plan.missing(), Some(18 * MIB));
        assert_eq!(plan.pieces(), 5);
    }

    #[test]
    fn a_connection_claims_as_much_at_once_as_keeps_it_busy_for_a_while() {
        for (pieces, took_ms, expected) in [
            (1, 10, 2),
            (2, 249, 4),
            (4, 250, 4),
            (4, 1000, 4),
            (4, 1001, 2),
            (1, 9000, 1),
            (16, 1, 16),
        ] {
            assert_eq!(at_once(pieces, Duration::from_millis(took_ms)), expected, "{pieces}");
        }
        let mut plan = Plan::new(Some(20 * MIB), Ranges::default());
        assert_eq!(plan.claim(3), Some(0..12 * MIB));
        assert_eq!(plan.claim(3), Some(12 * MIB..20 * MIB));
    }

    #[test]
    fn a_connection_that_is_as_fast_as_a_disk_stays_alone() {
        for (megabytes, slow) in [(0, true), (59, true), (60, false), (600, false)] {
            assert_eq!(is_slow(megabytes * 1_000_000, Duration::from_millis(300)), slow);
        }
    }

    #[test]
    fn what_was_claimed_and_not_written_is_given_to_the_next() {
        let mut plan = Plan::new(Some(4 * MIB), Ranges::default());
        let claim = plan.claim(1).unwrap();
        assert_eq!(plan.claim(1), None);
        plan.wrote(0..MIB);
        plan.release(&claim);
        assert_eq!(plan.claim(1), Some(MIB..4 * MIB));
        assert_eq!(plan.frontier(), MIB);
        plan.wrote(MIB..4 * MIB);
        assert!(plan.is_complete());
    }

    #[test]
    fn a_file_of_unknown_size_is_complete_when_its_stream_says_so() {
        let mut plan = Plan::new(None, Ranges::default());
        assert_eq!(plan.claim(1), None);
        plan.wrote(0..10);
        assert!(!plan.is_complete());
        plan.end_here();
        assert!(plan.is_complete());
        let mut empty = Plan::new(Some(0), Ranges::default());
        assert_eq!(empty.claim(1), None);
        assert!(empty.is_complete());
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..20), 0..40)) {
            let (mut ranges, mut bytes) = (Ranges::default(), BTreeSet::new());
            for (insert, start, length) in steps {
                let range = start..start + length;
                if insert {
                    bytes.extend(range.clone());
                    ranges.insert(range);
                } else {
                    bytes.retain(|byte| !range.contains(byte));
                    ranges.remove(&range);
                }
                let held: BTreeSet<u64> = ranges.0.iter().cloned().flatten().collect();
                prop_assert_eq!(&held, &bytes);
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
                let gap = ranges.first_gap(50).map(|gap| gap.start);
                prop_assert_eq!(gap, (0..50).find(|byte| !bytes.contains(byte)));
            }
        }

        #[test]
        fn whatever_connections_do_the_file_is_fetched_once(
            size in 0_u64..(40 << 20),
            lost in prop::collection::vec(0_u64..(5 << 20), 0..30),
        ) {
            let mut plan = Plan::new(Some(size), Ranges::default());
            let mut lost = lost.into_iter();
            let mut fetched = 0;
            while let Some(claim) = plan.claim(1) {
                let got = (claim.end - claim.start).saturating_sub(lost.next().unwrap_or(0));
                plan.wrote(claim.start..claim.start + got);
                plan.release(&claim);
                fetched += got;
            }
            prop_assert!(plan.is_complete());
            prop_assert_eq!(fetched, size);
        }
    }
}
