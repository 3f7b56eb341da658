//! Measuring two things in turn, or one alone, and what follows from the samples.

use serde::Serialize;

use crate::statistics::{Range, median, range};

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
    /// Smallest and largest of our samples.
    pub ours_range: Range,
    /// Median of the peer's samples; none without a peer.
    pub peer: Option<f64>,
    /// Smallest and largest of the peer's samples.
    pub peer_range: Option<Range>,
    /// As in [`Comparison`].
    pub peer_name: Option<String>,
    /// `ours / peer`.
    pub ratio: Option<f64>,
    /// Smallest and largest ratio of two samples of one round; `ratio` is never outside of it.
    pub ratio_range: Option<Range>,
    /// As in [`Comparison`].
    pub higher_is_better: bool,
    /// As in [`Comparison`].
    pub goal: Option<f64>,
    /// All samples, ours and the peer's, a pair for each round: ours was taken first in the first round, the peer's in
    /// the second, and so on.
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
/// The first failing sample ends it.
pub fn compare(
    what: &Comparison,
    rounds: usize,
    ours: impl FnMut() -> anyhow::Result<f64>,
    peer: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Result> {
    Ok(summarize(what, pairs(rounds, ours, peer)?))
}

/// The samples of [`compare`], of any kind.
pub fn pairs<T>(
    rounds: usize,
    mut ours: impl FnMut() -> anyhow::Result<T>,
    mut peer: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<Vec<(T, T)>> {
    (0..rounds.max(5)).map(|round| in_turn(round, &mut ours, &mut peer)).collect()
}

/// Takes both: ours first when `round` is even, the peer first when it is odd. So what one leaves behind for the other,
/// or has warmed up for it, meets both as often.
pub fn in_turn<T>(
    round: usize,
    ours: impl FnOnce() -> anyhow::Result<T>,
    peer: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, T)> {
    if round.is_multiple_of(2) {
        let ours = ours()?;
        Ok((ours, peer()?))
    } else {
        let peer = peer()?;
        Ok((ours()?, peer))
    }
}

/// The line that follows from pairs of samples, ours and the peer's.
pub fn summarize(what: &Comparison, runs: Vec<(f64, f64)>) -> Result {
    let (ours, peer): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
    let ratios: Vec<_> = runs.iter().map(|(ours, peer)| ours / peer).collect();
    let against = median(peer.clone());
    let alone = record(what.name.to_owned(), what.unit, ours);
    Result {
        peer: Some(against),
        peer_range: Some(range(&peer)),
        peer_name: Some(what.peer_name.to_owned()),
        ratio: Some(alone.ours / against),
        ratio_range: Some(range(&ratios)),
        higher_is_better: what.higher_is_better,
        goal: what.goal,
        runs: runs.into_iter().map(|(ours, peer)| (ours, Some(peer))).collect(),
        ..alone
    }
}

/// The line of what has no peer; smaller is better.
pub fn record(name: String, unit: &str, samples: Vec<f64>) -> Result {
    Result {
        name,
        unit: unit.to_owned(),
        ours: median(samples.clone()),
        ours_range: range(&samples),
        peer: None,
        peer_range: None,
        peer_name: None,
        ratio: None,
        ratio_range: None,
        higher_is_better: false,
        goal: None,
        runs: samples.into_iter().map(|sample| (sample, None)).collect(),
    }
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
        assert_eq!((result.ours_range, result.peer_range), ([1.0, 5.0], Some([2.0, 10.0])));
        assert_eq!(result.met(), Some(true));
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let line = serde_json::to_value(record("x".into(), "ns", vec![3.0, 1.0, 2.0])).unwrap();
        assert_eq!(line["ours"], 2.0);
        let fields = ["peer", "peer_range", "peer_name", "ratio", "ratio_range", "goal"];
        assert!(fields.iter().all(|field| line[field].is_null()));
        assert_eq!(line["runs"][0], serde_json::json!([3.0, null]));
    }

    #[test]
    fn a_failing_sample_is_no_result() {
        assert!(compare(&WHAT, 5, || anyhow::bail!("no traffic"), || Ok(1.0)).is_err());
    }

    proptest! {
        #[test]
        fn the_ratio_is_within_its_range(runs in proptest::collection::vec((0.1..1e6, 0.1..1e6), 1..20)) {
            // An even number has a mean for its median, which may be anywhere between two samples.
            prop_assume!(runs.len() % 2 == 1);
            let result = summarize(&WHAT, runs);
            let (ratio, [least, most]) = (result.ratio.unwrap(), result.ratio_range.unwrap());
            prop_assert!(least <= ratio && ratio <= most);
        }
    }
}
