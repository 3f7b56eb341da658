//! The table that people read and the lines that programs read.

use std::{fs::OpenOptions, io::Write, path::Path};

use anyhow::Context;
use comfy_table::{Table, presets::NOTHING};

use crate::{measure::Result, statistics::Range};

/// The table, a line per comparison: medians, and behind each the smallest and the largest.
pub fn table(results: &[Result]) -> String {
    let mut table = Table::new();
    let header = ["benchmark", "ours", "", "peer", "", "unit", "against", "ratio", "", "goal", "met"];
    table.load_style(NOTHING).set_header(header);
    for r in results {
        let sign = if r.higher_is_better { "≥" } else { "≤" };
        table.add_row([
            r.name.clone(),
            figure(r.ours),
            range(r.ours_range),
            or_none(r.peer.map(figure)),
            or_none(r.peer_range.map(range)),
            r.unit.clone(),
            or_none(r.peer_name.clone()),
            or_none(r.ratio.map(figure)),
            or_none(r.ratio_range.map(range)),
            or_none(r.goal.map(|goal| format!("{sign} {goal}"))),
            or_none(r.met().map(|met| if met { "yes" } else { "no" }.to_owned())),
        ]);
    }
    table.to_string()
}

/// Four digits or more, as people compare them.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Both ends; one when they are the same.
pub fn range([least, most]: Range) -> String {
    if least.total_cmp(&most).is_eq() {
        String::new()
    } else {
        format!("{}–{}", figure(least), figure(most))
    }
}

fn or_none(cell: Option<String>) -> String {
    cell.unwrap_or("-".to_owned())
}

/// Appends one JSON object per line.
pub fn append(path: &Path, results: &[Result]) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).context("cannot write the results")?;
    for result in results {
        writeln!(file, "{}", serde_json::to_string(result)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Comparison, record, summarize};

    #[test]
    fn the_table_shows_medians_and_spreads() {
        let what = Comparison {
            name: "pod.same.throughput",
            unit: "Gbit/s",
            peer_name: "veth pair",
            higher_is_better: true,
            goal: Some(0.98),
        };
        let runs = vec![(18.0, 20.0), (17.0, 17.0), (19.0, 18.0)];
        let table = table(&[summarize(&what, runs), record("datapath.ns".into(), "ns", vec![310.0; 3])]);
        let rows: Vec<Vec<_>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
        let wanted = "pod.same.throughput 18.00 17.00–19.00 18.00 17.00–20.00 Gbit/s veth pair 1.000 0.900–1.056 ≥ 0.98 yes";
        assert_eq!(rows[1].join(" "), wanted);
        assert_eq!(rows[2].join(" "), "datapath.ns 310.0 - - ns - - - - -");
    }
}
