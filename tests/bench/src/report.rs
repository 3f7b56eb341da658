//! The table that people read and the lines that programs read.

use std::{fs::OpenOptions, io::Write, path::Path};

use anyhow::Context;
use comfy_table::{Table, presets::NOTHING};

use crate::measure::Result;

/// The table, a line per comparison.
pub fn table(results: &[Result]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "benchmark",
        "ours",
        "peer",
        "unit",
        "against",
        "ratio",
        "goal",
        "met",
    ]);
    let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.3}"));
    for r in results {
        let sign = if r.higher_is_better { "≥" } else { "≤" };
        table.add_row([
            r.name.clone(),
            figure(Some(r.ours)),
            figure(r.peer),
            r.unit.clone(),
            r.peer_name.clone().unwrap_or("-".to_owned()),
            figure(r.ratio),
            r.goal.map_or("-".to_owned(), |goal| format!("{sign} {goal}")),
            r.met().map_or("-", |met| if met { "yes" } else { "no" }).to_owned(),
        ]);
    }
    table.to_string()
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
