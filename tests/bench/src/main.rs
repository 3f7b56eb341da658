//! Benchmarks against peers, side by side in one run, on a playground that runs; those of the programs alone need none.
//!
//! Both ends, the clusters and the peers share one machine, so a ratio is the result and never a bare figure. A
//! benchmark whose traffic did not take the path that it claims is an error and not a line of the table.

mod client;
mod cni;
mod compare;
mod datapath;
mod inside;
mod measure;
mod mesh;
mod netns;
mod pods;
mod process;
mod propagation;
mod report;
mod scale;
mod scope;
mod service;
mod statistics;
mod throughput;
mod wireguard;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use tombolo_playground::{Cluster, Playground, layout};

/// What every benchmark is given.
pub struct Context {
    /// Samples of each side.
    rounds: usize,
    /// Length of a sample of throughput or round trips, seconds.
    seconds: u64,
}

impl Context {
    fn clusters(&self) -> anyhow::Result<Vec<Cluster>> {
        let playground = Playground::attach(&layout::Layout::from_environment());
        Ok(playground.context("this benchmark needs the playground")?.clusters())
    }

    fn first_cluster(&self) -> anyhow::Result<Cluster> {
        self.clusters()?.into_iter().next().context("the playground has no cluster")
    }

    fn two_clusters(&self) -> anyhow::Result<[Cluster; 2]> {
        let clusters = self.clusters()?.into_iter().take(2).collect::<Vec<_>>();
        clusters.try_into().map_err(|_| anyhow::anyhow!("the playground has one cluster; two are needed"))
    }

    fn two_nodes(&self, cluster: &Cluster) -> anyhow::Result<[String; 2]> {
        let nodes = cluster.nodes().into_iter().take(2).collect::<Vec<_>>();
        nodes
            .try_into()
            .map_err(|_| anyhow::anyhow!("cluster {} has one node; two are needed", cluster.name()))
    }
}

/// One run with one or more lines in the table.
struct Benchmark {
    /// The lines' names.
    names: &'static [&'static str],
    measures: &'static str,
    leaves_out: &'static str,
    run: fn(&Context) -> anyhow::Result<Vec<measure::Result>>,
}

const BENCHMARKS: [&Benchmark; 25] = [
    &pods::SAME_THROUGHPUT,
    &pods::SAME_FOUR,
    &pods::SAME_RR,
    &pods::CROSS_THROUGHPUT,
    &pods::CROSS_FOUR,
    &pods::CROSS_MTU,
    &pods::CROSS_FORWARD,
    &pods::CROSS_RR,
    &service::CONNECT_100,
    &service::CONNECT_10K,
    &cni::CALLS,
    &cni::SIXTEEN,
    &cni::NEW,
    &mesh::THROUGHPUT,
    &mesh::FOUR,
    &mesh::BOTH,
    &mesh::UDP,
    &mesh::CPU,
    &propagation::PROPAGATION,
    &propagation::LATENCY,
    &scale::SYNC,
    &scale::RESUME,
    &scale::FANOUT,
    &scale::MEMORY,
    &datapath::PROGRAMS,
];

/// Measures tombolo and its peers in turn on the playground that runs; needs root.
#[derive(Parser)]
#[command(name = "bench", version, after_help = "Example:\n  bench --only pod.same --rounds 7")]
struct Arguments {
    /// Only the benchmarks whose names begin so
    #[arg(long, default_value = "", value_name = "NAME")]
    only: String,
    /// Samples of each side, at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(5..))]
    rounds: u16,
    /// Length of a sample of throughput or round trips, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Say what each benchmark measures and what it leaves out, and measure nothing
    #[arg(long)]
    list: bool,
    /// Compare the latest run of each benchmark in two files of results, and measure nothing; fails if one is worse
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["only", "list", "rounds", "seconds"])]
    compare: Option<Vec<PathBuf>>,
    /// By how much a benchmark may be worse, percent; more is still no regression when each run has seen the other's
    /// median
    #[arg(long, default_value_t = 10, value_name = "PERCENT", requires = "compare", value_parser = clap::value_parser!(u8).range(0..=100))]
    tolerance: u8,
    #[command(subcommand)]
    inside: Option<inside::Command>,
}

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(command) = arguments.inside {
        return inside::run(command).map(|()| ExitCode::SUCCESS);
    }
    if let Some([old, new]) = arguments.compare.as_deref() {
        return no_regression(old, new, arguments.tolerance);
    }
    let mut stdout = io::stdout();
    let wanted = |b: &&&Benchmark| b.names.iter().any(|name| name.starts_with(&arguments.only));
    let chosen: Vec<_> = BENCHMARKS.iter().filter(wanted).collect();
    anyhow::ensure!(!chosen.is_empty(), "only is {:?}; --list names the benchmarks", arguments.only);
    if arguments.list {
        for benchmark in chosen {
            let Benchmark { names, measures, leaves_out, .. } = benchmark;
            writeln!(stdout, "{}\n  measures: {measures}\n  leaves out: {leaves_out}", names.join(", "))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let context = Context { rounds: arguments.rounds.into(), seconds: arguments.seconds };
    let file = layout::checkout().join("target/bench/results.json");
    let (mut results, mut left_out, mut failed) = (Vec::new(), Vec::new(), false);
    for benchmark in chosen {
        writeln!(io::stderr(), "{} …", benchmark.names.join(", "))?;
        match (benchmark.run)(&context) {
            Ok(lines) => {
                report::append(&file, &lines)?;
                results.extend(lines);
                left_out.push(format!("{} leaves out {}", benchmark.names.join(", "), benchmark.leaves_out));
            }
            Err(error) => {
                failed = true;
                writeln!(io::stderr(), "{} failed: {error:#}", benchmark.names.join(", "))?;
            }
        }
    }
    let table = report::table(&results);
    writeln!(stdout, "{table}\nMedians, and the smallest and the largest of {} samples.", context.rounds)?;
    writeln!(stdout, "{}\n{}", left_out.join("\n"), file.display())?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn no_regression(old: &Path, new: &Path, tolerance: u8) -> anyhow::Result<ExitCode> {
    let compared = compare::files(old, new, f64::from(tolerance) / 100.0)?;
    writeln!(io::stdout(), "{compared}")?;
    let worse = compared.worse();
    anyhow::ensure!(worse.is_empty(), "worse by more than {tolerance} %: {}", worse.join(", "));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn names_are_told_apart_and_every_benchmark_says_what_it_is() {
        let mut names: Vec<_> = BENCHMARKS.iter().flat_map(|benchmark| benchmark.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(
            BENCHMARKS
                .iter()
                .all(|b| !b.names.is_empty() && !b.measures.is_empty() && !b.leaves_out.is_empty())
        );
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        Arguments::command().debug_assert();
        let parse = |words: &str| Arguments::try_parse_from(words.split(' '));
        assert_eq!(parse("bench --compare a b").unwrap().tolerance, 10);
        for bad in
            ["--compare a", "--compare a b --only pod", "--tolerance 5", "--compare a b --tolerance 101"]
        {
            assert!(parse(&format!("bench {bad}")).is_err(), "{bad}");
        }
    }
}
