//! What follows from samples.

/// Smallest and largest of some samples.
pub type Range = [f64; 2];

/// The median; the mean of the middle two for an even number, NaN for none.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match (samples.get(middle), samples.len() % 2) {
        (None, _) => f64::NAN,
        (Some(&upper), 0) => f64::midpoint(samples[middle - 1], upper),
        (Some(&only), _) => only,
    }
}

/// The value below which a part `p` (0.0..=1.0) of the samples lies (nearest rank); NaN for none.
pub fn percentile(mut samples: Vec<f64>, p: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "p is within 0 and 1")]
    let rank = ((last as f64) * p.clamp(0.0, 1.0)).round() as usize;
    samples.get(rank).copied().unwrap_or(f64::NAN)
}

/// Smallest and largest; NaN for none.
pub fn range(samples: &[f64]) -> Range {
    let either = |one: fn(f64, f64) -> f64| samples.iter().copied().reduce(one).unwrap_or(f64::NAN);
    [either(f64::min), either(f64::max)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[3.0, 1.0, 2.0]), [1.0, 3.0]);
        assert!(median(vec![]).is_nan() && range(&[]).iter().all(|end| end.is_nan()));
    }

    proptest! {
        #[test]
        fn percentiles_are_ordered(samples in proptest::collection::vec(0.0..1e9, 1..100)) {
            let p = |p| percentile(samples.clone(), p);
            prop_assert!(p(0.0) <= p(0.5) && p(0.5) <= p(0.99) && p(0.99) <= p(1.0));
            prop_assert_eq!([p(0.0), p(1.0)], range(&samples));
        }
    }
}
