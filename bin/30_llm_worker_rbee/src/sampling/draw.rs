//! The draw: pure arithmetic on candidates, keyed by seed and position.

use llama_cpp_2::token::data::LlamaTokenData;

use super::softmax::exp;

/// SplitMix64's step (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA
/// 2014): the generator's state after any number of steps is known without taking them.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a random number is for: two numbers of one position must not depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The choice of the token.
    Token = 0,
    /// Whether XTC excludes anything.
    Xtc = 0x0058_5443,
}

/// The seed of answer `index` of several that are made of one prompt. The first one's is the
/// request's own, so that it is the same answer whether it has siblings or not.
#[must_use]
pub fn choice_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    mix(mix(seed).wrapping_add(GOLDEN_GAMMA.wrapping_mul(u64::from(index))))
}

/// A number from 0 (included) to 1 (excluded) that depends on seed, position and purpose only.
pub(super) fn uniform(seed: u64, position: u64, purpose: Purpose) -> f64 {
    // Mixing the seed first keeps neighbouring seeds from being shifted copies of one another.
    let state = mix(seed.wrapping_add(GOLDEN_GAMMA) ^ (purpose as u64));
    let bits = mix(state.wrapping_add(GOLDEN_GAMMA.wrapping_mul(position.wrapping_add(1))));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Which candidate `uniform` (0 to 1) falls on when each has the softmax probability of its logit
/// divided by the temperature (above 0). The candidates' `p` becomes their weight against the
/// likeliest.
pub(super) fn weighted(
    candidates: &mut [LlamaTokenData],
    temperature: f32,
    uniform: f64,
) -> Option<usize> {
    let total = weigh(candidates, temperature);
    let target = uniform * total;
    let mut passed = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        passed += f64::from(candidate.p());
        if target < passed {
            return Some(index);
        }
    }
    candidates.iter().rposition(|candidate| candidate.p() > 0.0)
}

/// Sets every candidate's `p` to its weight, the likeliest one's being 1, and gives their sum.
pub(super) fn weigh(candidates: &mut [LlamaTokenData], temperature: f32) -> f64 {
    let logits = candidates.iter().map(LlamaTokenData::logit);
    let largest = logits.fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for candidate in candidates {
        // The difference first: divided by a tiny temperature, a logit alone could be infinite.
        let weight = exp((candidate.logit() - largest) / temperature);
        candidate.set_p(weight);
        total += f64::from(weight);
    }
    total
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::select::candidate;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn candidates(logits: &[f32]) -> Vec<LlamaTokenData> {
        logits.iter().enumerate().map(|(index, logit)| candidate(index, *logit)).collect()
    }

    #[test]
    fn draws_follow_the_probabilities() {
        for (temperature, wanted) in [(1.0, 0.75), (0.5, 0.9), (2.0, 0.634)] {
            let mut two = candidates(&[0.0, 3.0_f32.ln()]);
            let draws = (0..20_000)
                .map(|n| weighted(&mut two, temperature, uniform(42, n, Purpose::Token)).unwrap());
            let share = draws.sum::<usize>() as f64 / 20_000.0;
            assert!((share - wanted).abs() < 0.02, "{temperature}: {share}");
        }
    }

    #[test]
    fn an_impossible_token_is_never_drawn() {
        let mut two = candidates(&[0.0, f32::NEG_INFINITY]);
        assert_eq!(weighted(&mut two, 1.0, 1.0), Some(0));
        assert_eq!(weighted(&mut [], 1.0, 0.5), None);
    }

    #[test]
    fn the_smallest_temperature_takes_the_likeliest() {
        let mut two = candidates(&[30.0, 29.9]);
        assert_eq!(weighted(&mut two, f32::from_bits(1), 0.999), Some(0));
    }

    #[test]
    fn answers_of_one_request_have_their_own_seeds_and_the_first_the_requests() {
        assert_eq!(choice_seed(77, 0), 77);
        let seeds: HashSet<_> =
            (0..100).flat_map(|seed| (0..16).map(move |index| choice_seed(seed, index))).collect();
        assert_eq!(seeds.len(), 1600);
    }

    #[test]
    fn numbers_for_different_purposes_do_not_follow_each_other() {
        let pairs = (0..10_000).map(|n| {
            (uniform(1, n, Purpose::Token) - 0.5) * (uniform(1, n, Purpose::Xtc) - 0.5) * 12.0
        });
        let correlation = pairs.sum::<f64>() / 10_000.0;
        assert!(correlation.abs() < 0.04, "{correlation}");
    }

    proptest! {
        #[test]
        fn a_uniform_number_is_in_its_range(seed: u64, position: u64) {
            let number = uniform(seed, position, Purpose::Token);
            prop_assert!((0.0..1.0).contains(&number));
        }
    }
}
