//! `tombolo-sim`: runs seeds of the simulation, and replays one.

use std::{
    io::Write,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Parser;
use tombolo_sim::{Mutant, Violation, replication, run};

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
}

fn parse_range(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("a range is written like 0..200")?;
    Ok(from.parse()?..to.parse()?)
}

/// Events of a run, and what else it did.
type Done = (u64, String);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    let mut out = std::io::stdout().lock();
    let (begin, mut events, mut last, mut failed) = (Instant::now(), 0, String::new(), Vec::new());
    for seed in seeds.clone() {
        let once = || if args.replication { replicate(seed, args.mutant) } else { decide(seed, args.mutant) };
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
    if args.mutant.is_none() && !failed.is_empty() {
        bail!("replay with --seed {}", failed.first().copied().unwrap_or_default());
    }
    Ok(())
}

fn decide(seed: u64, mutant: Option<Mutant>) -> Result<Done, Violation> {
    run(seed, mutant).map(|report| (report.events, format!("{report:?}")))
}

fn replicate(seed: u64, mutant: Option<Mutant>) -> Result<Done, Violation> {
    replication::run(seed, mutant).map(|report| (report.events, format!("{report:?}")))
}
