//! A mesh of many clusters: one real daemon, all others generated in a second process.

mod daemon;
mod fanout;
mod generated;
mod memory;
mod peers;
mod plot;
mod resume;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use tombolo_playground::layout;

pub use daemon::{Daemon, Measured};
pub use fanout::{FANOUT, Hub, Nodes};
pub use memory::{Big, MEMORY};
pub use peers::Peers;
pub use resume::RESUME;

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, record, summarize},
    netns::{Netns, this_program},
    process::Process,
    propagation::monotonic,
    statistics::median,
};
use generated::Cluster;
use plot::Curve;

/// Objects of each cluster.
const OBJECTS: u32 = 1100;
/// Clusters, the daemon's own among them; the last count is the one with goals.
const SIZES: [u8; 5] = [16, 32, 64, 128, 255];
/// How long a rest is at least, seconds: what sessions say at rest, they say this often.
const REST: u64 = 10;
/// The daemon's address in the namespace of the benchmark.
const ADDRESS: &str = "127.0.0.1:4240";

/// `mesh.sync.*` and `mesh.rest.*`.
pub const SYNC: Benchmark = Benchmark {
    names: &["mesh.sync", "mesh.rest", "mesh.growth"],
    measures: "a daemon starts as a member of a mesh of 16 to 255 clusters with 1,100 objects each (10 nodes, 40 \
        identities, 50 services with 4 backends, the rest endpoints), over QUIC on loopback. sync: seconds from its \
        start until it has all records of all clusters; memory: what it holds then. rest: its share of a core, and all \
        traffic in both directions, while nothing changes; found: seconds from the moment that all other clusters stop \
        until the last of them is known not to answer. growth: how many times as much twice as many clusters take, \
        sample by sample; target/bench/mesh-growth.svg shows the curves. The peer is the limit that is set",
    leaves_out: "Kubernetes and nodes: the own cluster's records are generated, storage is memory; the other clusters \
        share one process and have no sessions with each other. Each of the two processes has one CPU",
    run: sync,
};

/// Where the curves are drawn.
const PLOT: &str = "target/bench/mesh-growth.svg";

/// What a mesh costs, and the limits at 255 clusters.
const COSTS: [(&str, &str, f64); 4] = [
    ("mesh.sync", "s", 10.0),
    ("mesh.sync.memory", "MB", 400.0),
    ("mesh.rest.cpu", "%", 3.0),
    ("mesh.rest.traffic", "kbit/s", 500.0),
];
/// How soon the dead are found; the limit is the same for any number.
const FOUND: (&str, &str, f64) = ("mesh.rest.found", "s", 2.0);

fn sync(context: &Context) -> anyhow::Result<Vec<Result>> {
    let mut results = Vec::new();
    let mut curves =
        COSTS.map(|(name, unit, _)| Curve { title: format!("{name}, {unit}"), points: Vec::new() });
    let mut smaller: Vec<Sample> = Vec::new();
    for clusters in SIZES {
        let samples = samples(clusters, context)?;
        let median: [f64; COSTS.len()] =
            std::array::from_fn(|index| median(samples.iter().map(|sample| sample.costs[index]).collect()));
        let mut line = |(name, unit, limit), values: Vec<f64>| {
            let name = format!("{name}.{clusters}");
            results.push(if clusters == 255 {
                against(name, unit, values.into_iter().map(|value| (value, limit)).collect())
            } else {
                record(name, unit, values)
            });
        };
        for (index, cost) in COSTS.into_iter().enumerate() {
            line(cost, samples.iter().map(|sample| sample.costs[index]).collect());
        }
        line(FOUND, samples.iter().map(|sample| sample.found).collect());
        for (index, name) in ["sync", "memory"].into_iter().enumerate() {
            let growth =
                |(larger, smaller): (&Sample, &Sample)| (larger.costs[index] / smaller.costs[index], 2.0);
            let runs: Vec<_> = samples.iter().zip(&smaller).map(growth).collect();
            if !runs.is_empty() {
                results.push(against(format!("mesh.growth.{name}.{clusters}"), "times", runs));
            }
        }
        smaller = samples;
        for (curve, value) in curves.iter_mut().zip(median) {
            curve.points.push((clusters, value));
        }
    }
    plot::draw(&layout::checkout().join(PLOT), &curves)?;
    Ok(results)
}

fn against(name: String, unit: &'static str, runs: Vec<(f64, f64)>) -> Result {
    let what = Comparison { name: "", unit, peer_name: "limit", higher_is_better: false, goal: Some(1.0) };
    Result { name, ..summarize(&what, runs) }
}

/// What was measured of one daemon.
struct Sample {
    /// In the order of [`COSTS`].
    costs: [f64; COSTS.len()],
    found: f64,
}

fn samples(clusters: u8, context: &Context) -> anyhow::Result<Vec<Sample>> {
    let dir = Scratch::new(&format!("mesh-{clusters}"))?;
    Cluster::new(1)?.save(&dir.0)?;
    let netns = Netns::fresh()?;
    netns.ip("link set lo up")?;
    let program = this_program()?;
    let path = dir.0.display().to_string();
    let (count, objects) = ((clusters - 1).to_string(), OBJECTS.to_string());
    let mut peers = netns.command(1, &[&program, "mesh-peers", "--clusters", &count, "--objects", &objects]);
    let mut peers = Process::start(peers.args(["--authority", &path, "--daemon", ADDRESS]))?;
    fs::write(dir.0.join("clusters.json"), peers.line()?)?;
    let mut samples = Vec::new();
    for _ in 0..context.rounds {
        let rest = (context.seconds * 2).max(REST).to_string();
        let mut daemon = netns.command(0, &[&program, "mesh-daemon", "--dir", &path, "--address", ADDRESS]);
        let mut daemon = Process::start(daemon.args(["--objects", &objects, "--rest", &rest]))?;
        ensure!(daemon.line()? == daemon::RESTS, "the daemon says something else");
        let before = netns.bytes("lo")?;
        let measured: Measured = serde_json::from_str(&daemon.line()?)?;
        // Loopback counts each packet as sent and as received.
        let bytes = (netns.bytes("lo")? - before) / 2;
        let expected = u64::from(clusters) * u64::from(OBJECTS);
        ensure!(measured.records == expected, "the daemon has {} of {expected} records", measured.records);
        let connected = measured.connected;
        ensure!(connected == clusters - 1, "the daemon rested with {connected} of {} others", clusters - 1);
        #[expect(clippy::cast_precision_loss, reason = "bytes of seconds")]
        let traffic = bytes as f64 * 8.0 / 1000.0 / measured.rested;
        peers.signal(Signal::SIGSTOP)?;
        let stopped = monotonic()?;
        let found: Duration = serde_json::from_str(&daemon.line()?)?;
        peers.signal(Signal::SIGCONT)?;
        let found = found.checked_sub(stopped).context("the others were lost before they stopped")?;
        let found = found.as_secs_f64();
        samples.push(Sample { costs: [measured.sync, measured.memory, measured.rest, traffic], found });
    }
    Ok(samples)
}

/// A directory that goes away with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> anyhow::Result<Self> {
        let dir = layout::checkout().join("target/bench").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", Path::display(&dir)))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
