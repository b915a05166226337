//! Exponentials of many logits.

/// How many are computed side by side.
const LANES: usize = 16;

/// How many are added up in single precision before the sum goes into double precision.
const BLOCK: usize = 1024;

/// Below this, a probability is taken for 0.
const LOWEST: f32 = -87.0;

/// e to the power of `x`, for `x` up to 0; its relative error is below 3e-7.
///
/// Cephes' `expf` (Moshier, <https://www.netlib.org/cephes/>): e^x = 2^n e^r with |r| ≤ ln(2) / 2,
/// and a polynomial for e^r. Unlike the standard library's, it becomes vector instructions.
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves no bits for a fraction, so that the sum is rounded.
    const ROUNDER: f32 = 12_582_912.0;
    // ln(2) in two parts, the first one exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let is_possible = x > LOWEST;
    let x = if is_possible { x } else { LOWEST };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let polynomial = POLYNOMIAL.into_iter().fold(0.0, |sum, factor| sum * r + factor);
    let exp_r = polynomial * r * r + r + 1.0;
    // The lowest bits of the rounded sum are n; an exponent of a float is stored with 127 added.
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    let power_of_2 = f32::from_bits(exponent << 23);
    if is_possible { exp_r * power_of_2 } else { 0.0 }
}

/// The natural logarithm of the sum of the exponentials of `logits`, of which `largest` is the
/// largest.
pub(super) fn log_sum_exp(logits: &[f32], largest: f32) -> f64 {
    let mut sum = 0.0;
    for block in logits.chunks(BLOCK) {
        let (rows, rest) = block.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        for row in rows {
            for (lane, logit) in lanes.iter_mut().zip(row) {
                *lane += exp(*logit - largest);
            }
        }
        let rest: f32 = rest.iter().map(|logit| exp(*logit - largest)).sum();
        sum += f64::from(lanes.into_iter().sum::<f32>() + rest);
    }
    f64::from(largest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_impossible_has_no_weight() {
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(f32::NAN).to_bits(), 0);
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
    }

    proptest! {
        #[test]
        fn exponentials_are_right_to_seven_digits(x in -86.9_f32..0.0) {
            let wanted = f64::from(x).exp();
            let error = (f64::from(exp(x)) - wanted).abs() / wanted;
            prop_assert!(error < 3e-7, "e^{x}: {error}");
        }

        #[test]
        fn the_sum_is_that_of_double_precision(
            logits in prop::collection::vec(-60.0_f32..30.0, 1..4000)
        ) {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let wanted = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
            let found = log_sum_exp(&logits, largest);
            prop_assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
    }
}
