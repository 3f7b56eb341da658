//! Whether a run of the benchmarks is worse than an earlier one.
//!
//! What is compared is the ratio to the peer, since a bare figure belongs to the machine and the hour; of lines without a
//! peer, the figure itself. Lines against a limit, and those without a peer, say something only when both runs were made
//! on the same machine.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context as _, ensure};
use comfy_table::{Table, presets::NOTHING};
use serde::Deserialize;

use crate::{
    report::{figure, range},
    statistics::{Range, median, range as range_of},
};

/// Two runs, line by line.
#[derive(Debug)]
pub struct Comparison {
    lines: Vec<Line>,
    missing: Vec<String>,
    added: Vec<String>,
}

#[derive(Debug)]
struct Line {
    name: String,
    unit: String,
    old: Value,
    new: Value,
    /// By how much the new one is worse, as a part of the old one; negative when it is better.
    worse: f64,
    verdict: Verdict,
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
struct Value {
    median: f64,
    range: Range,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Worse by more than is tolerated, and beyond the spread.
    Worse,
    /// Better by as much.
    Better,
    /// Within the tolerance.
    Same,
    /// Beyond the tolerance, but either run has seen the other one's median.
    Noise,
    /// Against another peer, or in another unit.
    Incomparable,
}

/// A line of a file, as far as it is needed.
#[derive(Deserialize)]
struct Recorded {
    name: String,
    unit: String,
    peer_name: Option<String>,
    higher_is_better: bool,
    runs: Vec<(f64, Option<f64>)>,
}

type File = BTreeMap<String, Recorded>;

/// Compares the latest run of each line in both files. `tolerance` is a part of the old figure, like 0.1.
pub fn files(old: &Path, new: &Path, tolerance: f64) -> anyhow::Result<Comparison> {
    let load = |path: &Path| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        read(&text).with_context(|| format!("{} is no file of results", path.display()))
    };
    let compared = compare(&load(old)?, &load(new)?, tolerance);
    ensure!(
        !compared.lines.is_empty(),
        "{} and {} have no benchmark in common",
        old.display(),
        new.display()
    );
    Ok(compared)
}

/// The latest run of each name.
fn read(text: &str) -> anyhow::Result<File> {
    let mut file = File::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let recorded: Recorded = serde_json::from_str(line).with_context(|| format!("line {}", n + 1))?;
        ensure!(!recorded.runs.is_empty(), "line {}: {} has no runs", n + 1, recorded.name);
        file.insert(recorded.name.clone(), recorded);
    }
    Ok(file)
}

fn compare(old: &File, new: &File, tolerance: f64) -> Comparison {
    let lines = old.iter().filter_map(|(name, old)| Some(line(old, new.get(name)?, tolerance))).collect();
    let without = |these: &File, those: &File| {
        these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
    };
    Comparison { lines, missing: without(old, new), added: without(new, old) }
}

fn line(old: &Recorded, new: &Recorded, tolerance: f64) -> Line {
    let (before, after) = (old.value(), new.value());
    let change = (after.median - before.median) / before.median;
    let worse = if old.higher_is_better { -change } else { change };
    // Nothing, and still nothing.
    let worse = if worse.is_nan() { 0.0 } else { worse };
    let what = |r: &Recorded| (r.unit.clone(), r.peer_name.clone(), r.higher_is_better);
    let verdict = if what(old) != what(new) {
        Verdict::Incomparable
    } else if worse.abs() <= tolerance {
        Verdict::Same
    } else if before.has_seen(after) && after.has_seen(before) {
        Verdict::Noise
    } else if worse > 0.0 {
        Verdict::Worse
    } else {
        Verdict::Better
    };
    let unit = if old.peer_name.is_some() { "ratio".to_owned() } else { old.unit.clone() };
    Line { name: old.name.clone(), unit, old: before, new: after, worse, verdict }
}

impl Recorded {
    fn value(&self) -> Value {
        let (ours, peer): (Vec<_>, Vec<_>) = self.runs.iter().copied().unzip();
        match peer.into_iter().collect::<Option<Vec<_>>>() {
            Some(peer) => {
                let ratios: Vec<_> = ours.iter().zip(&peer).map(|(ours, peer)| ours / peer).collect();
                Value { median: median(ours) / median(peer), range: range_of(&ratios) }
            }
            None => Value { range: range_of(&ours), median: median(ours) },
        }
    }
}

impl Value {
    fn has_seen(self, other: Self) -> bool {
        (self.range[0]..=self.range[1]).contains(&other.median)
    }
}

impl Comparison {
    /// Names of those that are worse.
    pub fn worse(&self) -> Vec<&str> {
        let worse = self.lines.iter().filter(|line| line.verdict == Verdict::Worse);
        worse.map(|line| &*line.name).collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["benchmark", "old", "", "new", "", "of", "change", ""]);
        for line in &self.lines {
            table.add_row([
                line.name.clone(),
                figure(line.old.median),
                range(line.old.range),
                figure(line.new.median),
                range(line.new.range),
                line.unit.clone(),
                line.change(),
                line.verdict.to_string(),
            ]);
        }
        write!(f, "{table}")?;
        for (names, what) in [(&self.missing, "only in the old file"), (&self.added, "only in the new file")]
        {
            if !names.is_empty() {
                write!(f, "\n{what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Line {
    fn change(&self) -> String {
        let percent = self.worse.abs() * 100.0;
        match (self.verdict, self.worse > 0.0) {
            (Verdict::Incomparable, _) => "-".to_owned(),
            (_, true) => format!("{percent:.1} % worse"),
            (_, false) => format!("{percent:.1} % better"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worse => "WORSE",
            Self::Better => "better",
            Self::Same => "",
            Self::Noise => "within the spread of both",
            Self::Incomparable => "against another peer or in another unit",
        })
    }
}

#[cfg(test)]
mod tests;
