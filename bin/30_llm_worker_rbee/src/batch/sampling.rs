//! Sampling of a step's rows, on several threads where that is faster.

use std::cell::RefCell;
use std::time::Instant;

use rayon::iter::{IntoParallelRefMutIterator as _, ParallelIterator as _};

use super::slot::{Outcome, Slot, TextModel};
use crate::sampling::Candidates;

/// Rows of logits below this size, all together, are sampled on the calling thread: to wake another
/// one takes as long.
const WORTH_THREADS: usize = 100_000;

/// One slot's part of a step: the logits after its last token and after each guess. None where its
/// prompt goes on.
#[derive(Debug)]
pub(super) struct Sampled<'a> {
    pub(super) slot: &'a mut Slot,
    pub(super) rows: Vec<&'a [f32]>,
}

/// Samples all rows and sends what came of them, in the order of `work`.
pub(super) fn sample_all(
    work: &mut [Sampled<'_>],
    model: &(impl TextModel + Sync),
    now: Instant,
) -> Vec<Outcome> {
    let rows = work.iter().flat_map(|one| &one.rows);
    let logits: usize = rows.map(|row| row.len()).sum();
    if work.iter().filter(|one| !one.rows.is_empty()).count() > 1 && logits > WORTH_THREADS {
        work.par_iter_mut().map(|one| sample(one, model, now)).collect()
    } else {
        work.iter_mut().map(|one| sample(one, model, now)).collect()
    }
}

fn sample(work: &mut Sampled<'_>, model: &impl TextModel, now: Instant) -> Outcome {
    thread_local! {
        static ROOM: RefCell<Candidates> = RefCell::default();
    }
    if work.rows.is_empty() {
        return Outcome::default();
    }
    ROOM.with_borrow_mut(|room| work.slot.decode(&work.rows, model, room, now))
}
