//! What people read on the terminal: results on stdout, progress on stderr.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

/// The form of a result.
#[derive(clap::ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// Stable, for programs.
    Json,
    /// Stable, for programs and people.
    Yaml,
}

impl Format {
    /// JSON or YAML; a table is made by whoever knows its columns.
    pub fn render<T: Serialize>(self, value: &T) -> anyhow::Result<String> {
        Ok(match self {
            Self::Yaml => serde_yaml_ng::to_string(value)?.trim_end().to_owned(),
            Self::Json | Self::Table => serde_json::to_string_pretty(value)?,
        })
    }
}

/// Prints one line of the result.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Says what long work is doing.
pub fn progress(text: &str) {
    // Progress that nobody can read is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table as kubectl prints it: no borders, columns by spaces.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    text.lines().map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end()).collect::<Vec<_>>().join("\n")
}
