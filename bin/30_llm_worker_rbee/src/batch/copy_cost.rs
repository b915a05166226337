//! Whether a sequence is worth being copied out of a card's memory.
//!
//! llama.cpp fetches each piece of a sequence by itself, for each layer: a prompt that was computed in one go
//! is one piece, but an answer that was written beside others lies in as many as it has tokens. To copy that
//! can take longer than to compute it again, and everybody waits meanwhile.

use std::time::Duration;

/// A sequence whose pieces have fewer tokens on average costs by its pieces, another one by its tokens.
const TOKENS_A_PIECE: usize = 8;

/// A copy is made, and put back if it is wanted again.
const WAYS: f64 = 2.0;

/// How much of what was measured is forgotten with each copy that is not made: a single slow one does not
/// keep all later ones from being made.
const FORGETTING: f64 = 0.99;

/// What copying and computing take, as measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CopyCost {
    /// Seconds for a piece of a sequence in many of them.
    a_piece: Measured,
    /// Seconds for a token of a sequence in few pieces.
    a_token: Measured,
    /// Seconds to compute a token of a prompt.
    to_compute: Measured,
}

impl CopyCost {
    /// A sequence was copied.
    pub(super) fn copied(&mut self, tokens: usize, pieces: usize, took: Duration) {
        if is_scattered(tokens, pieces) {
            self.a_piece.add(took, pieces);
        } else {
            self.a_token.add(took, tokens);
        }
    }

    /// So many tokens of prompts were computed, beside others. What took the least is what a long prompt takes: a
    /// step of a few tokens, or the first one on a cold card, takes many times as long for each of them.
    pub(super) fn computed(&mut self, tokens: usize, took: Duration) {
        self.to_compute.add_least(took, tokens);
    }

    /// Whether copying a sequence there and back takes no longer than computing it. What is not known is tried.
    pub(super) fn is_worth_copying(&mut self, tokens: usize, pieces: usize) -> bool {
        let (cost, count) = if is_scattered(tokens, pieces) {
            (&mut self.a_piece, pieces)
        } else {
            (&mut self.a_token, tokens)
        };
        let is_worth = match (cost.0, self.to_compute.0) {
            (Some(one), Some(token)) => WAYS * one * count as f64 <= token * tokens as f64,
            _ => true,
        };
        if !is_worth {
            cost.forget_some();
        }
        is_worth
    }
}

fn is_scattered(tokens: usize, pieces: usize) -> bool {
    pieces.saturating_mul(TOKENS_A_PIECE) > tokens
}

/// The seconds of one of something; `None` before there was any.
#[derive(Debug, Clone, Copy, Default)]
struct Measured(Option<f64>);

impl Measured {
    /// How much the latest measurement counts.
    const LATEST: f64 = 0.25;

    fn add(&mut self, took: Duration, count: usize) {
        let one = took.as_secs_f64() / count.max(1) as f64;
        self.0 = Some(self.0.map_or(one, |before| before + Self::LATEST * (one - before)));
    }

    fn add_least(&mut self, took: Duration, count: usize) {
        let one = took.as_secs_f64() / count.max(1) as f64;
        self.0 = Some(self.0.map_or(one, |before| one.min(before / FORGETTING)));
    }

    fn forget_some(&mut self) {
        self.0 = self.0.map(|one| one * FORGETTING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> CopyCost {
        let mut cost = CopyCost::default();
        // The first step of all compiles and loads what the others need.
        cost.computed(34, Duration::from_millis(130));
        cost.computed(512, Duration::from_millis(16));
        cost.computed(34, Duration::from_millis(8));
        cost.copied(290, 257, Duration::from_millis(130));
        cost.copied(8000, 20, Duration::from_millis(40));
        cost
    }

    #[test]
    fn an_answer_in_many_pieces_is_computed_again_and_a_long_prompt_is_copied() {
        let mut cost = measured();
        assert!(!cost.is_worth_copying(290, 257));
        assert!(cost.is_worth_copying(8000, 16));
        assert!(cost.is_worth_copying(300, 1));
        assert!(!cost.is_worth_copying(4000, 2000));
    }

    #[test]
    fn what_nobody_has_measured_is_copied() {
        assert!(CopyCost::default().is_worth_copying(290, 257));
        let mut cost = CopyCost::default();
        cost.copied(290, 257, Duration::from_secs(1));
        assert!(cost.is_worth_copying(290, 257), "nobody knows what computing takes");
    }

    #[test]
    fn a_single_slow_copy_is_forgotten_some_day() {
        let mut cost = measured();
        let skipped = (0..10_000).take_while(|_| !cost.is_worth_copying(290, 257)).count();
        assert!((50..1_000).contains(&skipped), "{skipped}");
    }
}
