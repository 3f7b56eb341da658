//! Measuring two things in turn, or one alone, and what follows from the samples.

use serde::Serialize;

/// One line of the table: what is measured, against whom, and what is wanted.
pub struct Comparison {
    /// Stable name, like `pod.same.throughput`.
    pub name: &'static str,
    /// Unit of a sample, like `Gbit/s`.
    pub unit: &'static str,
    /// Whom we are measured against.
    pub peer_name: &'static str,
    /// Whether a larger sample is the better one.
    pub higher_is_better: bool,
    /// The ratio ours / peer that is wanted: at least it when higher is better, at most it otherwise.
    pub goal: Option<f64>,
}

/// A finished line.
#[derive(Serialize, Clone, Debug)]
pub struct Result {
    /// As in [`Comparison`].
    pub name: String,
    /// As in [`Comparison`].
    pub unit: String,
    /// Median of our samples.
    pub ours: f64,
    /// Median of the peer's samples; none without a peer.
    pub peer: Option<f64>,
    /// As in [`Comparison`].
    pub peer_name: Option<String>,
    /// `ours / peer`.
    pub ratio: Option<f64>,
    /// As in [`Comparison`].
    pub higher_is_better: bool,
    /// As in [`Comparison`].
    pub goal: Option<f64>,
    /// All samples, ours and the peer's, in the order they were taken.
    pub runs: Vec<(f64, Option<f64>)>,
}

impl Result {
    /// Whether the goal is met; none without one.
    pub fn met(&self) -> Option<bool> {
        let (goal, ratio) = (self.goal?, self.ratio?);
        Some(if self.higher_is_better { ratio >= goal } else { ratio <= goal })
    }
}

/// Takes a sample of each side in turn, `rounds` times (at least five), so that noise of the machine meets both.
/// The order within a round alternates. The first failing sample ends it.
pub fn compare(
    what: &Comparison,
    rounds: usize,
    mut ours: impl FnMut() -> anyhow::Result<f64>,
    mut peer: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Result> {
    let mut runs = Vec::new();
    for round in 0..rounds.max(5) {
        let pair = if round % 2 == 0 {
            let ours = ours()?;
            (ours, peer()?)
        } else {
            let peer = peer()?;
            (ours()?, peer)
        };
        runs.push(pair);
    }
    Ok(summarize(what, runs))
}

/// The line that follows from pairs of samples, ours and the peer's.
pub fn summarize(what: &Comparison, runs: Vec<(f64, f64)>) -> Result {
    let ours = median(runs.iter().map(|r| r.0).collect());
    let peer = median(runs.iter().map(|r| r.1).collect());
    Result {
        name: what.name.to_owned(),
        unit: what.unit.to_owned(),
        ours,
        peer: Some(peer),
        peer_name: Some(what.peer_name.to_owned()),
        ratio: Some(ours / peer),
        higher_is_better: what.higher_is_better,
        goal: what.goal,
        runs: runs.into_iter().map(|(ours, peer)| (ours, Some(peer))).collect(),
    }
}

/// The line of what has no peer; smaller is better.
pub fn record(name: String, unit: &str, samples: Vec<f64>) -> Result {
    Result {
        name,
        unit: unit.to_owned(),
        ours: median(samples.clone()),
        peer: None,
        peer_name: None,
        ratio: None,
        higher_is_better: false,
        goal: None,
        runs: samples.into_iter().map(|sample| (sample, None)).collect(),
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHAT: Comparison =
        Comparison { name: "x", unit: "s", peer_name: "peer", higher_is_better: false, goal: Some(0.5) };

    #[test]
    fn sides_alternate_and_the_median_counts() {
        let order = std::cell::RefCell::new(String::new());
        let (mut a, mut b) = (0.0, 0.0);
        let result = compare(
            &WHAT,
            1,
            || {
                order.borrow_mut().push('o');
                a += 1.0;
                Ok(a)
            },
            || {
                order.borrow_mut().push('p');
                b += 2.0;
                Ok(b)
            },
        )
        .unwrap();
        assert_eq!(order.into_inner(), "oppooppoop");
        assert_eq!((result.ours, result.peer, result.ratio), (3.0, Some(6.0), Some(0.5)));
        assert_eq!(result.met(), Some(true));
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let line = serde_json::to_value(record("x".into(), "ns", vec![3.0, 1.0, 2.0])).unwrap();
        assert_eq!(line["ours"], 2.0);
        assert!(["peer", "peer_name", "ratio", "goal"].iter().all(|field| line[field].is_null()));
        assert_eq!(line["runs"][0], serde_json::json!([3.0, null]));
    }

    #[test]
    fn a_failing_sample_is_no_result() {
        assert!(compare(&WHAT, 5, || anyhow::bail!("no traffic"), || Ok(1.0)).is_err());
    }

    proptest! {
        #[test]
        fn percentiles_are_ordered(samples in proptest::collection::vec(0.0..1e9, 1..100)) {
            let p = |p| percentile(samples.clone(), p);
            prop_assert!(p(0.0) <= p(0.5) && p(0.5) <= p(0.99) && p(0.99) <= p(1.0));
        }
    }
}
