//! "Exclude top choices".

use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::draw::weigh;
use super::select::likelier_first;

/// With a threshold above this, there can be no two likely tokens.
const MOST: f32 = 0.5;

/// Excludes, with some probability, all likely tokens but the least likely of them.
///
/// As llama.cpp's `llama_sample_xtc_apply` (`src/llama-sampler.cpp`), whose randomness comes from a
/// generator of its own; here the number is handed in, so that it depends on the position only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Xtc {
    /// How often it excludes anything, 0 to 1.
    pub(super) probability: f32,
    /// The probability from which on a token counts as likely.
    pub(super) threshold: f32,
}

impl Xtc {
    /// Takes the excluded candidates away; `chance` is random, 0 to 1.
    pub(super) fn apply(self, candidates: &mut LlamaTokenDataArray, chance: f64) {
        let is_off = self.probability <= 0.0 || self.threshold > MOST;
        if is_off || candidates.data.len() < 2 || chance > f64::from(self.probability) {
            return;
        }
        if !candidates.sorted {
            candidates.data.sort_unstable_by(likelier_first);
            candidates.sorted = true;
        }
        let least = weigh(&mut candidates.data, 1.0) * f64::from(self.threshold);
        let likely = candidates.data.iter().take_while(|c| f64::from(c.p()) >= least).count();
        candidates.data.drain(..likely.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::candidate;
    use super::*;

    fn left(xtc: Xtc, chance: f64, probabilities: &[f32]) -> Vec<i32> {
        let data = probabilities.iter().enumerate().map(|(index, p)| candidate(index, p.ln()));
        let mut array = LlamaTokenDataArray::new(data.collect(), false);
        xtc.apply(&mut array, chance);
        let mut left: Vec<_> = array.data.iter().map(|c| c.id().0).collect();
        left.sort_unstable();
        left
    }

    // The cases of llama.cpp's tests/test-sampling.cpp.
    #[test]
    fn all_likely_tokens_but_the_least_likely_go() {
        let probabilities = [0.4, 0.3, 0.2, 0.1];
        let sure = |threshold| Xtc { probability: 1.0, threshold };
        assert_eq!(left(sure(0.099), 0.5, &probabilities), [3]);
        assert_eq!(left(sure(0.19), 0.5, &probabilities), [2, 3]);
        assert_eq!(left(sure(0.29), 0.5, &probabilities), [1, 2, 3]);
        assert_eq!(left(sure(0.39), 0.5, &probabilities), [0, 1, 2, 3]);
        assert_eq!(left(sure(0.51), 0.5, &probabilities), [0, 1, 2, 3]);
    }

    #[test]
    fn nothing_goes_where_the_chance_is_not_met() {
        let half = Xtc { probability: 0.5, threshold: 0.1 };
        assert_eq!(left(half, 0.49, &[0.5, 0.3, 0.2]), [2]);
        assert_eq!(left(half, 0.51, &[0.5, 0.3, 0.2]), [0, 1, 2]);
        let never = Xtc { probability: 0.0, threshold: 0.1 };
        assert_eq!(left(never, 0.0, &[0.5, 0.3, 0.2]), [0, 1, 2]);
    }
}
