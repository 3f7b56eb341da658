//! `tombolo-sim`: runs seeds of the simulation, and replays one.

use std::{
    io::Write,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Parser;
use tombolo_sim::{Mutant, Scenario, Trouble, Violation, replication, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates many clusters on a virtual clock; a seed that fails is printed and replays.
#[derive(Parser)]
struct Args {
    /// Simulate replication instead of membership.
    #[arg(long)]
    replication: bool,
    /// Run this seed only.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds.
    #[arg(long, default_value = "0..200", value_parser = parse_range)]
    seeds: Range<u64>,
    /// Break something on purpose; every seed that notices is counted.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// At most so many clusters.
    #[arg(long, default_value_t = u16::MAX, hide_default_value = true, value_parser = clap::value_parser!(u16).range(2..))]
    clusters: u16,
    /// How much of the usual time of trouble passes, in a hundred parts.
    #[arg(long, default_value_t = 100)]
    length: u32,
    /// Trouble that does not happen.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Trouble>,
}

impl Args {
    fn scenario(&self, seed: u64) -> Scenario {
        let without = self.without.iter().copied().collect();
        Scenario { clusters: self.clusters, length: self.length, without, ..Scenario::new(seed, self.mutant) }
    }

    fn run(&self, scenario: &Scenario) -> Result<Done, Violation> {
        if self.replication {
            replication::run(scenario).map(|report| (report.events, format!("{report:?}")))
        } else {
            run(scenario).map(|report| (report.events, format!("{report:?}")))
        }
    }
}

fn parse_range(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("a range is written like 0..200")?;
    Ok(from.parse()?..to.parse()?)
}

/// Events of a run, and what else it did.
type Done = (u64, String);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seeds = args.seed.map_or_else(|| args.seeds.clone(), |seed| seed..seed + 1);
    let mut out = std::io::stdout().lock();
    let (begin, mut events, mut last, mut failed) = (Instant::now(), 0, String::new(), Vec::new());
    for seed in seeds.clone() {
        let once = || args.run(&args.scenario(seed));
        // The cores must not panic either; a broken driver may make them.
        match catch_unwind(AssertUnwindSafe(once)) {
            Ok(Ok((more, done))) => {
                events += more;
                last = done;
            }
            Ok(Err(violation)) => {
                writeln!(out, "seed {seed}: {violation}")?;
                failed.push(seed);
            }
            Err(_) => {
                writeln!(out, "seed {seed}: panic")?;
                failed.push(seed);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let count = seeds.end.saturating_sub(seeds.start);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = events as f64 / seconds;
    let failures = failed.len();
    writeln!(out, "{count} seeds, {events} events, {seconds:.1} s, {rate:.0} events/s, {failures} failed")?;
    if count == 1 {
        writeln!(out, "{last}")?;
    }
    let Some(&seed) = failed.first() else { return Ok(()) };
    let smallest = args.scenario(seed).shrink(|scenario| args.run(scenario).map(drop));
    let which = if args.replication { "--replication " } else { "" };
    let replay = format!("the smallest run like seed {seed} that fails: {which}{smallest}");
    if args.mutant.is_some() {
        return Ok(writeln!(out, "{replay}")?);
    }
    bail!("{replay}")
}
