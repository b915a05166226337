//! The draw: pure arithmetic on logits.

/// The index of the largest logit; the first one among equals, as llama.cpp's greedy sampler.
pub(super) fn likeliest(logits: impl Iterator<Item = f32>) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (index, logit) in logits.enumerate() {
        if best.is_none_or(|(_, value)| logit > value) {
            best = Some((index, logit));
        }
    }
    best.map(|(index, _)| index)
}

/// The index that `uniform` (0 to 1) falls on when each logit has its softmax probability.
pub(super) fn weighted<I>(logits: impl Fn() -> I, uniform: f64) -> Option<usize>
where
    I: Iterator<Item = f32>,
{
    let largest = logits().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - largest).exp();
    let total: f64 = logits().map(weight).sum();
    let target = uniform * total;
    let mut passed = 0.0;
    let mut last_possible = None;
    for (index, logit) in logits().enumerate() {
        let weight = weight(logit);
        if weight > 0.0 {
            last_possible = Some(index);
        }
        passed += weight;
        if target < passed {
            return Some(index);
        }
    }
    last_possible
}

/// A number from 0 (included) to 1 (excluded) that depends on seed and position only.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014):
/// the generator's state after `position` steps is known without taking them.
pub(super) fn uniform(seed: u64, position: u64) -> f64 {
    const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    // Mixing the seed first keeps neighbouring seeds from being shifted copies of one another.
    let state = mix(seed.wrapping_add(GOLDEN_GAMMA));
    let bits = mix(state.wrapping_add(GOLDEN_GAMMA.wrapping_mul(position.wrapping_add(1))));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_logits_give_the_first() {
        assert_eq!(likeliest([1.0, 2.0, 2.0].into_iter()), Some(1));
        assert_eq!(likeliest(std::iter::empty()), None);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0_f32, 3.0_f32.ln()];
        let draws = (0..20_000).map(|n| weighted(|| logits.into_iter(), uniform(42, n)).unwrap());
        let share = draws.sum::<usize>() as f64 / 20_000.0;
        assert!((share - 0.75).abs() < 0.02, "{share}");
    }

    #[test]
    fn an_impossible_token_is_never_drawn() {
        let logits = [0.0, f32::NEG_INFINITY];
        assert_eq!(weighted(|| logits.into_iter(), 1.0), Some(0));
    }

    proptest! {
        #[test]
        fn a_uniform_number_is_in_its_range(seed: u64, position: u64) {
            let number = uniform(seed, position);
            prop_assert!((0.0..1.0).contains(&number));
        }
    }
}
