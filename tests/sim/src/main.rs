//! `tombolo-sim`: runs seeds of the simulation, and replays one.

use std::{
    io::Write,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Parser;
use tombolo_sim::{Mutant, run};

/// Simulates many clusters on a virtual clock; a seed that fails is printed and replays.
#[derive(Parser)]
struct Args {
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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    let mut out = std::io::stdout().lock();
    let (begin, mut events, mut applied, mut losses, mut failed) = (Instant::now(), 0, 0, 0, Vec::new());
    for seed in seeds.clone() {
        // The core must not panic either; a broken driver may make it.
        match catch_unwind(AssertUnwindSafe(|| run(seed, args.mutant))) {
            Ok(Ok(report)) => {
                events += report.events;
                applied += report.applied;
                losses += report.losses;
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
    let rate = f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / seconds;
    writeln!(
        out,
        "{count} seeds, {events} events, {applied} entries applied, {losses} disks lost, {seconds:.1} s, {rate:.0} events/s, {} failed",
        failed.len()
    )?;
    if args.mutant.is_none() && !failed.is_empty() {
        bail!("replay with --seed {}", failed.first().copied().unwrap_or_default());
    }
    Ok(())
}
