//! Files of results against each other.

use proptest::prelude::*;

use super::*;
use crate::measure;

const TOLERANCE: f64 = 0.1;

/// A line of a file, as a run writes it.
fn recorded(name: &'static str, higher_is_better: bool, runs: &[(f64, f64)]) -> String {
    let what = measure::Comparison { name, unit: "x", peer_name: "peer", higher_is_better, goal: None };
    serde_json::to_string(&measure::summarize(&what, runs.to_vec())).unwrap()
}

fn bare(name: &str, samples: &[f64]) -> String {
    serde_json::to_string(&measure::record(name.to_owned(), "ns", samples.to_vec())).unwrap()
}

fn compared(old: &str, new: &str) -> Comparison {
    compare(&read(old).unwrap(), &read(new).unwrap(), TOLERANCE)
}

fn verdict(old: &str, new: &str) -> Verdict {
    compared(old, new).lines[0].verdict
}

/// A ratio that is the same in all rounds.
fn steady(ratio: f64) -> Vec<(f64, f64)> {
    vec![(ratio * 4.0, 4.0), (ratio * 5.0, 5.0), (ratio * 6.0, 6.0)]
}

#[test]
fn worse_is_less_where_higher_is_better() {
    let line = |higher, ratio| recorded("a", higher, &steady(ratio));
    assert_eq!(verdict(&line(true, 1.0), &line(true, 0.8)), Verdict::Worse);
    assert_eq!(verdict(&line(true, 1.0), &line(true, 1.2)), Verdict::Better);
    assert_eq!(verdict(&line(false, 1.0), &line(false, 1.2)), Verdict::Worse);
    assert_eq!(verdict(&line(false, 1.0), &line(false, 0.8)), Verdict::Better);
    assert_eq!(verdict(&line(false, 1.0), &line(false, 1.09)), Verdict::Same);
}

#[test]
fn the_ratio_counts_and_not_the_machine() {
    let (slow, fast) = (recorded("a", true, &[(1.0, 2.0); 5]), recorded("a", true, &[(10.0, 20.0); 5]));
    assert_eq!(verdict(&fast, &slow), Verdict::Same);
}

#[test]
fn what_both_runs_have_seen_is_noise() {
    let old = recorded("a", false, &[(0.9, 1.0), (1.0, 1.0), (1.3, 1.0)]);
    let within = recorded("a", false, &[(0.9, 1.0), (1.2, 1.0), (1.4, 1.0)]);
    // The old run has been as slow, but the new one never as fast as the old.
    let beyond = recorded("a", false, &[(1.1, 1.0), (1.2, 1.0), (1.4, 1.0)]);
    assert_eq!(verdict(&old, &within), Verdict::Noise);
    assert_eq!(verdict(&old, &beyond), Verdict::Worse);
}

#[test]
fn the_latest_run_counts_and_missing_lines_are_named() {
    let (bad, good) = (recorded("a", true, &steady(0.5)), recorded("a", true, &steady(1.0)));
    let old = [&good, &recorded("b", true, &steady(1.0))].map(String::as_str).join("\n");
    let new = [&bad, &good, "", &recorded("c", true, &steady(1.0))].join("\n");
    let both = compared(&old, &new);
    assert!(both.worse().is_empty());
    let text = both.to_string();
    assert!(text.contains("only in the old file: b") && text.contains("only in the new file: c"), "{text}");
    assert_eq!(compared(&new, &bad).worse(), ["a"]);
}

#[test]
fn without_a_peer_the_figure_counts() {
    assert_eq!(verdict(&bare("a", &[100.0, 101.0]), &bare("a", &[120.0, 121.0])), Verdict::Worse);
    assert_eq!(verdict(&bare("a", &[0.0]), &bare("a", &[0.0])), Verdict::Same);
    assert_eq!(verdict(&bare("a", &[0.0]), &bare("a", &[1.0])), Verdict::Worse);
    assert_eq!(verdict(&bare("a", &[1.0]), &recorded("a", false, &steady(9.0))), Verdict::Incomparable);
}

#[test]
fn a_file_from_before_there_were_ranges_is_read() {
    let line = r#"{"name":"a","unit":"s","ours":1.0,"peer":2.0,"peer_name":"p","ratio":0.5,
        "higher_is_better":false,"goal":null,"runs":[[1.0,2.0]]}"#;
    let value = read(&line.replace('\n', "")).unwrap()["a"].value();
    assert_eq!((value.median, value.range), (0.5, [0.5, 0.5]));
}

#[test]
fn what_is_no_result_is_refused_by_its_line() {
    let bad = format!("{}\nnonsense", bare("a", &[1.0]));
    assert!(read(&bad).err().unwrap().to_string().contains("line 2"));
    assert!(read(&bare("a", &[])).err().unwrap().to_string().contains("has no runs"));
}

proptest! {
    #[test]
    fn a_run_is_never_worse_than_itself(runs in proptest::collection::vec((0.0..1e6, 0.1..1e6), 1..20)) {
        let line = recorded("a", true, &runs);
        prop_assert!(compared(&line, &line).worse().is_empty());
    }

    #[test]
    fn what_is_worse_one_way_is_not_worse_the_other(a in 0.1..1e3, b in 0.1..1e3, higher in any::<bool>()) {
        let (old, new) = (recorded("a", higher, &steady(a)), recorded("a", higher, &steady(b)));
        let (there, back) = (verdict(&old, &new), verdict(&new, &old));
        prop_assert!(there != Verdict::Worse || back != Verdict::Worse);
        prop_assert!((a - b).abs() < 0.3 * a.max(b) || [there, back].contains(&Verdict::Worse));
    }
}
