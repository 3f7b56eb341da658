//! Runs the tests of the workspace, on as few playgrounds as possible, and says what became of each.
//!
//! Tests that need root or a playground say so in their `#[ignore = "needs …"]` ([`registration`]). `runner check`
//! finds tests and files that nothing would run.

mod attributes;
mod check;
mod interrupt;
mod judge;
mod plan;
mod playground;
mod process;
mod registration;
mod report;
mod run;
mod source;
mod workspace;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::registration::Where;
use crate::run::Choice;
use crate::workspace::{Registered, Workspace};

/// Runs the tests of this workspace.
///
/// Tests that need root or a playground say so in their `#[ignore = "needs …"]`; the others need nothing.
#[derive(Debug, Parser)]
#[command(name = "runner", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run tests; ends a playground that runs.
    #[command(
        after_help = "Examples:\n  runner run\n  runner run --only fast\n  runner run --long five::partition\n  \
        runner run network policy::egress_by_namespace"
    )]
    Run(Selection),
    /// List tests that need something, and what they need; those of `make test`, or the long ones with `--long`.
    #[command(after_help = "Examples:\n  runner list --only clusters\n  runner list --long")]
    List(Selection),
    /// Find tests and files that nothing would run. Compiles nothing.
    #[command(after_help = "Example:\n  runner check")]
    Check,
}

#[derive(Debug, Args)]
struct Selection {
    /// Only tests of this kind; repeat for several.
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// Tests that are registered as long, instead of the others.
    #[arg(long)]
    long: bool,
    /// Parts of names, as `runner list` shows them; one of them must fit.
    filters: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Tests that need nothing.
    Fast,
    /// Tests that need root, or only time.
    Root,
    /// Tests that need a playground.
    Clusters,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let workspace = Workspace::read()?;
    match arguments.verb {
        Verb::Run(selection) => {
            let choice = selection.choose(&workspace)?;
            if choice.plain.is_empty() && choice.registered.is_empty() {
                bail!(
                    "no test fits {:?}; `runner list` and `runner list --long` name those that need something, and \
                     the others are chosen by their package: `cargo test --workspace NAME` runs one of them",
                    selection.filters
                );
            }
            interrupt::watch(&workspace.root)?;
            let well = run::run(&workspace, &choice)?;
            Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Verb::List(selection) => {
            for test in selection.choose(&workspace)?.registered {
                say(&format!("{}  {}", test.title(&workspace), reason(&workspace, &test)))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Check => {
            let findings = check::findings(&workspace)?;
            findings.iter().try_for_each(|finding| say(finding))?;
            let count = workspace.registered().map(|all| all.len()).unwrap_or_default();
            if findings.is_empty() {
                say(&format!("tests: {count} say what they need, and no file is left out"))?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

impl Selection {
    fn choose(&self, workspace: &Workspace) -> Result<Choice> {
        let wants = |kind| self.only.is_empty() || self.only.contains(&kind);
        let fits =
            |name: &str| self.filters.is_empty() || self.filters.iter().any(|part| name.contains(part));
        let mut registered = workspace.registered()?;
        registered.retain(|test| {
            let kind = if test.registration.place == Where::Machine { Kind::Root } else { Kind::Clusters };
            wants(kind) && self.long == test.registration.long && fits(&test.title(workspace))
        });
        let plain = workspace.suites.iter().enumerate().filter(|(_, suite)| suite.has_plain_tests());
        let mut choice = Choice { plain: Vec::new(), registered };
        if wants(Kind::Fast) && !self.long {
            // A part of a suite's own name stands for all of its tests.
            choice.plain = plain.filter(|(_, suite)| fits(&suite.title())).map(|(index, _)| index).collect();
        }
        Ok(choice)
    }
}

impl Registered {
    /// Its name with that of its suite.
    fn title(&self, workspace: &Workspace) -> String {
        format!("{}::{}", workspace.suites[self.suite].title(), self.name)
    }
}

fn reason(workspace: &Workspace, test: &Registered) -> String {
    let functions = &workspace.suites[test.suite].source.functions;
    functions.iter().find(|f| f.name == test.name).and_then(|f| f.ignored.clone()).unwrap_or_default()
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
