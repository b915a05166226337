//! What is measured. Machines are noisy, so the ways take turns within each round, and medians are
//! told.

pub(crate) mod fastest;
pub(crate) mod heartbeats;
pub(crate) mod paced;
pub(crate) mod replies;
pub(crate) mod scale;

use std::sync::atomic::{AtomicU64, Ordering};

/// A tag that no other answer of this process has.
fn next_tag() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// The ways in the order of this round: each is first in its turn.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index + round) % count)
}
