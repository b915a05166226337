//! Arithmetic of vectors.

/// The vector with length 1 in the same direction; `None` where there is no direction, or a number
/// that is none.
pub(super) fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt();
    if !length.is_normal() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the result is between -1 and 1")]
    let scaled = vector.iter().map(|x| (f64::from(*x) / length) as f32);
    Some(scaled.collect())
}

/// The cosine of the angle between two vectors of length 1.
pub(super) fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let products = one.iter().zip(other).map(|(x, y)| f64::from(*x) * f64::from(*y));
    #[expect(clippy::cast_possible_truncation, reason = "the result is between -1 and 1")]
    let cosine = products.sum::<f64>().clamp(-1.0, 1.0) as f32;
    cosine
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_direction_has_no_unit() {
        for vector in [vec![], vec![0.0, 0.0], vec![1.0, f32::NAN], vec![f32::INFINITY, 1.0]] {
            assert_eq!(unit(&vector), None, "{vector:?}");
        }
        assert_eq!(unit(&[3.0, -4.0]), Some(vec![0.6, -0.8]));
    }

    proptest! {
        #[test]
        fn a_unit_has_length_one_and_the_cosine_with_itself_is_one(
            vector in proptest::collection::vec(-1e30_f32..1e30, 1..400),
        ) {
            prop_assume!(vector.iter().any(|x| x.abs() > 1e-3));
            let unit = unit(&vector).expect("it has a direction");
            prop_assert!((cosine(&unit, &unit) - 1.0).abs() < 1e-5);
            let opposite: Vec<f32> = unit.iter().map(|x| -x).collect();
            prop_assert!((cosine(&unit, &opposite) + 1.0).abs() < 1e-5);
        }
    }
}
