//! What a node's agent needs for a large mesh: a generated cluster with 50,000 endpoints joins the playground.

use std::{
    fs,
    io::{Write as _, stdout},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;
use tokio::sync::watch;
use tombolo_clustermesh::mesh::record::Nodes;
use tombolo_mesh_net::{session::ExporterHandle, storage::MemoryStore};
use tombolo_playground::{Cluster as Machines, layout::Layout, place::Place};

use super::{Process, against, daemon::Part, generated::Cluster};
use crate::{
    Benchmark, Context,
    measure::Result,
    netns::{finish, this_program},
    scope::eventually,
};

/// `agent.memory.50k`.
pub const MEMORY: Benchmark = Benchmark {
    names: &["agent.memory.50k"],
    measures: "the resident memory of the agents of the playground's first cluster, MB, the largest of them, when a \
        generated cluster with 50,000 endpoints has joined and every agent knows all of them. The peer is the limit that \
        is set",
    leaves_out: "maps in the kernel, which belong to no process; a network between the clusters that is not this machine",
    run: memory,
};

/// Its number, which is part of its addresses.
const NUMBER: u8 = 200;
const ENDPOINTS: u64 = 50_000;
/// The other objects of a generated cluster.
const OTHERS: u64 = 100;
/// MB.
const LIMIT: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(120);
const JOINED: &str = "joined";

fn memory(context: &Context) -> anyhow::Result<Vec<Result>> {
    let east = context.first_cluster()?;
    let token = tombolo(&east, &["token", "create"])?;
    let place = Place::underlay(&Layout::from_environment())?;
    let address = format!("{}:4240", east.addresses().router());
    let objects = (ENDPOINTS + OTHERS).to_string();
    let argv =
        [&this_program()?, "mesh-big", "--token", token.trim(), "--address", &address, "--objects", &objects];
    let mut big = place.command("bench", &argv.map(str::to_owned))?;
    let mut big = Process::start(big.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let measured = big.line().and_then(|line| {
        ensure!(line == JOINED, "the large cluster says {line:?}");
        eventually(PATIENCE, || knows(&east, |n| n >= ENDPOINTS))?;
        // What was needed on the way is given back, or not.
        std::thread::sleep(Duration::from_secs(5));
        (0..context.rounds).map(|_| Ok((largest(&east)?, LIMIT))).collect()
    });
    drop(big);
    tombolo(&east, &["disconnect", "--cluster", &format!("c{NUMBER}")])?;
    eventually(PATIENCE, || knows(&east, |n| n < ENDPOINTS))?;
    Ok(vec![against("agent.memory.50k".to_owned(), "MB", measured?)])
}

fn tombolo(cluster: &Machines, arguments: &[&str]) -> anyhow::Result<String> {
    finish(&mut command(cluster, arguments), &format!("tombolo {}", arguments.join(" ")))
}

fn command(cluster: &Machines, arguments: &[&str]) -> Command {
    let host = format!("target/{}-unknown-linux-gnu/release/tombolo", std::env::consts::ARCH);
    let mut command = Command::new(tombolo_playground::layout::checkout().join(host));
    command.args(arguments).arg("--kubeconfig").arg(cluster.kubeconfig());
    command
}

/// Whether every agent's number of remote endpoints is as wanted.
fn knows(cluster: &Machines, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
    // Exits with 1 when something is wrong, and says what it knows all the same.
    let output = command(cluster, &["status", "-o", "json"]).output()?;
    let status: Value = serde_json::from_slice(&output.stdout).context("the status cannot be read")?;
    let nodes = status["nodes"].as_array().context("no nodes")?;
    let counts: Vec<_> =
        nodes.iter().filter_map(|node| node["counts"]["remote-endpoints"].as_u64()).collect();
    ensure!(
        counts.len() == cluster.nodes().len() && counts.iter().all(|n| wanted(*n)),
        "agents know {counts:?}"
    );
    Ok(())
}

/// The resident memory of the largest agent, MB.
fn largest(cluster: &Machines) -> anyhow::Result<f64> {
    let mut largest: f64 = 0.0;
    for node in cluster.nodes() {
        for pid in cluster.place(&node)?.cgroup().all_processes() {
            if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("tombolo-node")) {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
                let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
                largest = largest.max(kib * 1024.0 / 1e6);
            }
        }
    }
    ensure!(largest > 0.0, "no agent runs");
    Ok(largest)
}

/// The large cluster: a real daemon's part in the mesh, with generated records.
#[derive(Args)]
pub struct Big {
    #[arg(long)]
    token: String,
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    objects: u32,
}

impl Big {
    /// Joins, says so, and stays until it is killed.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.join())
    }

    async fn join(self) -> anyhow::Result<()> {
        let cluster = Cluster::new(NUMBER)?;
        let exporter = ExporterHandle::new(cluster.id);
        exporter.apply(cluster.records(self.objects).into_iter().map(Into::into));
        let known =
            Nodes { pod_prefixes: cluster.containment().pod_prefixes, ..Nodes::read(&exporter, cluster.id) };
        let (_nodes, known_nodes) = watch::channel(Some(known));
        let part = Part::new(&cluster, self.address, &exporter, MemoryStore::default(), known_nodes)?;
        let (mesh, _tasks) = part.start();
        while mesh.status().is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        mesh.join(&self.token).await?;
        writeln!(stdout(), "{JOINED}")?;
        std::future::pending().await
    }
}
