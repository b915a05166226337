//! Guesses ahead: a text that repeats something of its prompt, or of itself, can be guessed from
//! there (prompt lookup decoding, <https://github.com/apoorvumang/prompt-lookup-decoding>).
//!
//! The engine verifies guesses together with the next token, in one step. What is chosen does not
//! depend on them: each token is drawn from its own logits by its own position, and a guess only
//! decides whether the next token's logits are there already. So the question is what it costs: a
//! stream guesses only while its hits pay for the longer steps.

use std::collections::HashMap;
use std::time::Duration;

use worker_contract::TokenId;

/// How many tokens must repeat before the next ones are guessed.
const NGRAM: usize = 3;

/// The most tokens that are guessed at once.
pub(super) const MOST: usize = 16;

/// The share of right guesses that a stream begins with.
const FIRST_RATE: f32 = 0.6;

/// How much one guess moves that share.
const LEARNING: f32 = 0.15;

/// What a step with guesses must give, in tokens for its time, over one without.
const LEAST_GAIN: f32 = 1.05;

/// How many tokens a stream pauses after guesses that did not pay; doubled each time.
const FIRST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 1024;

/// Guesses for one sequence.
#[derive(Debug)]
pub(super) struct Drafter {
    /// After each run of [`NGRAM`] tokens, the position that followed it last.
    followed_at: HashMap<[TokenId; NGRAM], u32>,
    /// Runs that end before this position are in the map.
    indexed: usize,
    luck: Luck,
}

impl Default for Drafter {
    fn default() -> Self {
        Self { followed_at: HashMap::new(), indexed: NGRAM, luck: Luck::default() }
    }
}

impl Drafter {
    /// Guesses what follows `tokens`, at most `most`, into `guess`. `cost` is what one more token
    /// adds to a step, as a part of the step's time.
    pub(super) fn propose(
        &mut self,
        tokens: &[TokenId],
        most: usize,
        cost: f32,
        guess: &mut Vec<TokenId>,
    ) {
        guess.clear();
        self.index(tokens);
        if self.luck.rests() {
            return;
        }
        let Some(from) = self.repeated_from(tokens) else { return };
        let count = self.luck.count(most, cost);
        for at in from..from + count {
            // A text that goes round goes on with what was guessed.
            let next = tokens.get(at).or_else(|| guess.get(at - tokens.len())).copied();
            guess.extend(next);
        }
    }

    /// Learns how many of the guesses were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        self.luck.learn(guessed, right);
    }

    /// Takes the runs before the last token into the map. The last run is the question itself.
    fn index(&mut self, tokens: &[TokenId]) {
        while self.indexed < tokens.len() {
            if let Some(run) = tokens[..self.indexed].last_chunk::<NGRAM>() {
                self.followed_at.insert(*run, u32::try_from(self.indexed).unwrap_or(u32::MAX));
            }
            self.indexed += 1;
        }
    }

    fn repeated_from(&self, tokens: &[TokenId]) -> Option<usize> {
        let run = tokens.last_chunk::<NGRAM>()?;
        self.followed_at.get(run).map(|at| *at as usize)
    }
}

/// How often guesses of one kind were right, and so how many pay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Luck {
    rate: f32,
    pause: u32,
    next_pause: u32,
}

impl Default for Luck {
    fn default() -> Self {
        Self { rate: FIRST_RATE, pause: 0, next_pause: FIRST_PAUSE }
    }
}

impl Luck {
    /// Whether guessing pauses. To be asked once a token.
    pub(super) fn rests(&mut self) -> bool {
        let rests = self.pause > 0;
        self.pause = self.pause.saturating_sub(1);
        rests
    }

    /// How many guesses pay, at most `most`; where none does, guessing pauses, and afterwards one that
    /// just pays is tried.
    pub(super) fn count(&mut self, most: usize, cost: f32) -> usize {
        let count = paying_count(self.rate, cost, most.min(MOST));
        if count == 0 && most > 0 {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
            self.rate = (LEAST_GAIN * (1.0 + cost) - 1.0 + 0.01).clamp(0.0, 0.95);
        }
        count
    }

    /// Learns how many of the guesses were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        for hit in 0..guessed.min(right + 1) {
            let outcome = if hit < right { 1.0 } else { 0.0 };
            self.rate += LEARNING * (outcome - self.rate);
        }
        if guessed > 0 && right == guessed {
            self.next_pause = FIRST_PAUSE;
        }
    }
}

/// How many guesses, each right with the chance `rate`, give the most tokens for the time of a step
/// in which each costs `cost`; 0 if none pays.
fn paying_count(rate: f32, cost: f32, most: usize) -> usize {
    let (mut best, mut best_gain) = (0, LEAST_GAIN);
    let (mut expected, mut chance, mut time) = (1.0, 1.0, 1.0);
    for count in 1..=most {
        chance *= rate;
        expected += chance;
        time += cost;
        let gain = expected / time;
        if gain > best_gain {
            (best, best_gain) = (count, gain);
        }
    }
    best
}

/// What a step costs, learned from steps that decode: a straight line through (tokens, time), older
/// steps forgotten bit by bit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StepCost {
    weight: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    product: f64,
}

impl StepCost {
    /// What one more token adds to a step, as a part of it, before anything was measured.
    const UNKNOWN: f32 = 0.3;
    const FORGETTING: f64 = 0.98;

    /// Learns from a step.
    pub(super) fn observe(&mut self, tokens: usize, time: Duration) {
        let (x, y) = (tokens as f64, time.as_secs_f64());
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.tokens, x),
            (&mut self.seconds, y),
            (&mut self.tokens_squared, x * x),
            (&mut self.product, x * y),
        ] {
            *sum = *sum * Self::FORGETTING + value;
        }
    }

    /// What one more token adds to a step of `tokens`, as a part of that step.
    pub(super) fn of_one_more(&self, tokens: usize) -> f32 {
        let Some((begin, slope)) = self.line() else { return Self::UNKNOWN };
        let step = begin + slope * tokens as f64;
        if step > 0.0 { ratio(slope, step).max(0.005) } else { Self::UNKNOWN }
    }

    /// What a step of `other` takes, as a part of one of these, each with `tokens`.
    pub(super) fn of_other(&self, other: &Self, tokens: usize) -> f32 {
        match (self.mean(tokens), other.mean(tokens)) {
            (Some(own), Some(other)) if own > 0.0 => ratio(other, own),
            _ => Self::UNKNOWN / 2.0,
        }
    }

    /// The seconds of a step of `tokens`.
    fn mean(&self, tokens: usize) -> Option<f64> {
        let flat = || (self.weight > 0.0).then(|| self.seconds / self.weight);
        self.line().map(|(begin, slope)| begin + slope * tokens as f64).or_else(flat)
    }

    /// The seconds of a step without tokens, and those of each token; `None` where the steps were too
    /// few or too much alike to tell.
    fn line(&self) -> Option<(f64, f64)> {
        let spread = self.weight * self.tokens_squared - self.tokens * self.tokens;
        if self.weight < 4.0 || spread < 0.05 * self.weight * self.weight {
            return None;
        }
        let slope = (self.weight * self.product - self.tokens * self.seconds) / spread;
        Some(((self.seconds - slope * self.tokens) / self.weight, slope))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a ratio near 1")]
fn ratio(part: f64, whole: f64) -> f32 {
    (part / whole).clamp(0.0, 1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guess(drafter: &mut Drafter, tokens: &[TokenId], most: usize) -> Vec<TokenId> {
        let mut guess = Vec::new();
        drafter.propose(tokens, most, 0.05, &mut guess);
        guess
    }

    #[test]
    fn what_followed_before_is_guessed_again() {
        let tokens = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3];
        let luck = Luck { rate: 0.99, ..Luck::default() };
        let mut drafter = Drafter { luck, ..Drafter::default() };
        assert_eq!(guess(&mut drafter, &tokens, 3), [4, 5, 6]);
        assert_eq!(guess(&mut Drafter::default(), &[1, 2, 3, 4], 3), [] as [TokenId; 0]);
        assert_eq!(guess(&mut Drafter::default(), &[1, 2], 3), [] as [TokenId; 0]);
    }

    #[test]
    fn the_last_place_of_several_is_taken() {
        let tokens = [1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3];
        assert_eq!(guess(&mut Drafter::default(), &tokens, 1), [8]);
    }

    #[test]
    fn wrong_guesses_end_guessing_and_right_ones_make_it_bolder() {
        let tokens: Vec<TokenId> = (0..40).map(|n| n % 4).collect();
        let mut unlucky = Drafter::default();
        let mut tries = 0;
        for length in 8..40 {
            let guessed = guess(&mut unlucky, &tokens[..length], MOST).len();
            unlucky.learn(guessed, 0);
            tries += usize::from(guessed > 0);
        }
        assert!((1..=25).contains(&tries), "{tries}");
        let mut lucky = Drafter::default();
        for _ in 0..20 {
            let guessed = guess(&mut lucky, &tokens, MOST).len();
            lucky.learn(guessed, guessed);
        }
        let bold = guess(&mut lucky, &tokens, MOST).len();
        assert!(bold > guess(&mut Drafter::default(), &tokens, MOST).len(), "{bold}");
    }

    #[test]
    fn guesses_must_pay_for_their_time() {
        assert_eq!(paying_count(0.2, 0.4, MOST), 0);
        assert_eq!(paying_count(1.0, 0.1, MOST), MOST);
        assert!((1..MOST).contains(&paying_count(0.8, 0.1, MOST)));
    }

    #[test]
    fn the_cost_of_a_token_is_learned_from_steps() {
        let mut cost = StepCost::default();
        assert!((cost.of_one_more(1) - StepCost::UNKNOWN).abs() < f32::EPSILON);
        for n in [1, 2, 5, 9, 1, 3, 8] {
            cost.observe(n, Duration::from_micros(8_000 + 2_000 * n as u64));
        }
        assert!((cost.of_one_more(1) - 0.2).abs() < 0.01, "{}", cost.of_one_more(1));
    }

    proptest! {
        #[test]
        fn a_guess_is_a_piece_of_the_text_and_never_too_long(
            tokens in prop::collection::vec(0_i32..4, 0..60), most in 0_usize..30,
        ) {
            let guessed = guess(&mut Drafter::default(), &tokens, most);
            prop_assert!(guessed.len() <= most.min(MOST));
            prop_assert!(guessed.first().is_none_or(|first| tokens.contains(first)));
        }
    }
}
