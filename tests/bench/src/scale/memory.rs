//! What a node's agent needs for a large mesh: a generated cluster with 50,000 endpoints joins the playground.

use std::{
    io::{Write as _, stdout},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;
use tokio::sync::watch;
use tombolo_clustermesh::mesh::record::Nodes;
use tombolo_mesh_net::{session::ExporterHandle, storage::MemoryStore};
use tombolo_playground::{Cluster as Machines, layout::Layout, place::Place};

use super::{against, daemon::Part, generated::Cluster};
use crate::{
    Benchmark, Context,
    measure::Result,
    netns::{finish, this_program},
    process::{Process, resident},
    scope::{eventually, processes},
};

/// `agent.memory.50k`.
pub const MEMORY: Benchmark = Benchmark {
    names: &["agent.memory.50k"],
    measures: "the resident memory of the agents of the playground's first cluster, MB, the largest of them, when a \
        generated cluster with 50,000 endpoints has joined and every agent knows all of them; for every sample another \
        cluster joins and leaves. The peer is the limit that is set",
    leaves_out: "maps in the kernel, which belong to no process; a network between the clusters that is not this machine. \
        The agents run on from sample to sample, so what they do not give back is in the next one",
    run: memory,
};

/// Its number, which is part of its addresses: for every sample another one, from the first on and round again.
const NUMBERS: (u8, u8) = (200, 50);
const ENDPOINTS: u64 = 50_000;
/// The other objects of a generated cluster.
const OTHERS: u64 = 100;
/// MB.
const LIMIT: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(120);
const JOINED: &str = "joined";

fn memory(context: &Context) -> anyhow::Result<Vec<Result>> {
    let east = context.first_cluster()?;
    let number = |round| anyhow::Ok(NUMBERS.0 + u8::try_from(round % usize::from(NUMBERS.1))?);
    let sample = |round| anyhow::Ok((filled(&east, number(round)?)?, LIMIT));
    let runs = (0..context.rounds).map(sample).collect::<anyhow::Result<_>>()?;
    Ok(vec![against("agent.memory.50k".to_owned(), "MB", runs)])
}

/// What the largest agent holds when the cluster of this number has joined; it has left again when this returns.
fn filled(east: &Machines, number: u8) -> anyhow::Result<f64> {
    eventually(PATIENCE, || knows(east, |n| n < ENDPOINTS))?;
    let token = tombolo(east, &["token", "create"])?;
    let place = Place::underlay(&Layout::from_environment())?;
    let address = format!("{}:4240", east.addresses().router());
    let objects = (ENDPOINTS + OTHERS).to_string();
    let (program, own) = (this_program()?, number.to_string());
    let mut argv = vec![&*program, "mesh-big", "--number", &own, "--token", token.trim()];
    argv.extend(["--address", &address, "--objects", &objects]);
    let argv: Vec<_> = argv.into_iter().map(str::to_owned).collect();
    let mut big = place.command("bench", &argv)?;
    let mut big = Process::start(big.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let measured = big.line().and_then(|line| {
        ensure!(line == JOINED, "the large cluster says {line:?}");
        eventually(PATIENCE, || knows(east, |n| n >= ENDPOINTS))?;
        // What was needed on the way is given back, or not.
        thread::sleep(Duration::from_secs(5));
        largest(east)
    });
    drop(big);
    tombolo(east, &["disconnect", "--cluster", &format!("c{number}")])?;
    eventually(PATIENCE, || knows(east, |n| n < ENDPOINTS))?;
    measured
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
        for pid in processes(cluster, &node, "tombolo-node")? {
            largest = largest.max(resident(pid)?);
        }
    }
    ensure!(largest > 0.0, "no agent runs");
    Ok(largest)
}

/// The large cluster: a real daemon's part in the mesh, with generated records.
#[derive(Args)]
pub struct Big {
    #[arg(long)]
    number: u8,
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
        let cluster = Cluster::new(self.number)?;
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
