//! Guesses of a second, smaller model with the same vocabulary (speculative decoding, Leviathan et
//! al. 2023, <https://arxiv.org/abs/2211.17192>; here a guess is accepted when the large model chooses
//! the same token).
//!
//! It follows the texts of the slots in sequences of its own, one for each slot.

use std::time::Instant;

use worker_contract::TokenId;

use super::draft::StepCost;
use crate::engine::{BatchEntry, Engine};
use crate::media::common_prefix;

/// A guess that the small model gives less than this probability is not made, nor any after it.
const LEAST_PROBABILITY: f32 = 0.5;

/// How many tokens go without guesses after the small model's KV cache was full.
const PAUSE: u32 = 64;

/// A small model on its own engine.
pub(super) struct DraftModel<E> {
    engine: E,
    /// What the engine holds for each slot.
    held: Vec<Vec<TokenId>>,
    batch: Vec<BatchEntry>,
    batch_tokens: usize,
    /// How many calls it leaves out after a failure.
    pause: u32,
    pub(super) step_cost: StepCost,
}

/// A slot that wants guesses.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) slot: usize,
    /// Its prompt and answer.
    pub(super) tokens: &'a [TokenId],
    /// At most this many.
    pub(super) most: usize,
    pub(super) guess: &'a mut Vec<TokenId>,
}

impl<E: Engine> DraftModel<E> {
    pub(super) fn new(engine: E) -> Self {
        let limits = engine.limits();
        Self {
            engine,
            held: (0..limits.slots).map(|_| Vec::new()).collect(),
            batch: Vec::new(),
            batch_tokens: limits.batch_tokens as usize,
            pause: 0,
            step_cost: StepCost::default(),
        }
    }

    /// Guesses what follows each text. A text that it is far behind of gets none yet: it reads at most
    /// one batch of tokens in a call, so that nobody waits for it.
    pub(super) fn propose(&mut self, wanted: &mut [Wanted<'_>]) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        if self.read(wanted).is_none() {
            self.pause = PAUSE;
            // What it holds is not known any more.
            for slot in 0..self.held.len() {
                self.forget(slot);
            }
            for one in wanted {
                one.guess.clear();
            }
        }
    }

    /// Reads what is missing and guesses; `None` if the engine fails.
    fn read(&mut self, wanted: &mut [Wanted<'_>]) -> Option<()> {
        self.batch.clear();
        let mut rows = Vec::new();
        for (index, one) in wanted.iter().enumerate() {
            self.keep_common(one);
            let missing = one.tokens.len() - self.held[one.slot].len();
            let count = missing.min(self.batch_tokens - self.batch.len());
            for n in 0..count {
                self.push(one.slot, one.tokens[self.held[one.slot].len()], n + 1 == missing);
            }
            if count == missing && one.most > 0 {
                rows.push((index, self.batch.len() - 1));
            }
        }
        while !self.batch.is_empty() {
            let begin = Instant::now();
            self.engine.step(&self.batch).ok()?;
            let choices: Vec<_> = rows.iter().map(|(_, row)| self.likeliest(*row)).collect();
            if self.batch.len() == rows.len() {
                self.step_cost.observe(rows.len(), begin.elapsed());
            }
            self.batch.clear();
            let mut next = Vec::new();
            for ((index, _), choice) in rows.into_iter().zip(choices) {
                let Some(token) = choice else { continue };
                let one = &mut wanted[index];
                one.guess.push(token);
                if one.guess.len() < one.most {
                    self.push(one.slot, token, true);
                    next.push((index, self.batch.len() - 1));
                }
            }
            rows = next;
        }
        Some(())
    }

    fn push(&mut self, slot: usize, token: TokenId, wants_logits: bool) {
        let position = u32::try_from(self.held[slot].len()).unwrap_or(u32::MAX);
        let sequence = u32::try_from(slot).unwrap_or(u32::MAX);
        self.held[slot].push(token);
        self.batch.push(BatchEntry { token, position, sequence, wants_logits });
    }

    /// Drops what the text does not have, and at least the last token, whose logits are wanted.
    fn keep_common(&mut self, one: &Wanted<'_>) {
        let held = &mut self.held[one.slot];
        let common = common_prefix(held, &one.tokens[..one.tokens.len().saturating_sub(1)]);
        if common == held.len() {
            return;
        }
        held.truncate(common);
        let sequence = u32::try_from(one.slot).unwrap_or(u32::MAX);
        if !self.engine.truncate(sequence, u32::try_from(common).unwrap_or(u32::MAX)) {
            self.forget(one.slot);
        }
    }

    fn forget(&mut self, slot: usize) {
        self.held[slot].clear();
        self.engine.forget(u32::try_from(slot).unwrap_or(u32::MAX));
    }

    /// The likeliest token after a row, if it is likely enough.
    fn likeliest(&self, row: usize) -> Option<TokenId> {
        let logits = self.engine.logits(row);
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (token, largest) = best?;
        let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        (1.0 / sum >= LEAST_PROBABILITY).then(|| TokenId::try_from(token).unwrap_or(0))
    }
}
