//! One daemon and a thousand nodes: how soon the last of them knows of a change.

use std::{
    io::{BufRead as _, Write as _, stdin, stdout},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use clap::Args;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tombolo_mesh_core::{
    replication::{Change, Delta, Limits, Scope},
    trust::{Service, SpiffeId},
    wire::NodeFacts,
};
use tombolo_mesh_net::{
    node::{NodeClient, NodeClientConfig, NodeServer},
    session::{Backoff, ExporterHandle},
    tls::{Credentials, TrustStore},
    transport::{Dialer, Stats},
};

use super::{
    ADDRESS, Scratch, against,
    generated::{Cluster, DAY},
    peers::ANY,
};
use crate::{
    Benchmark, Context,
    measure::Result,
    netns::{Netns, this_program},
    process::Process,
    propagation::monotonic,
    statistics::median,
};

/// `mesh.nodes.1000`.
pub const FANOUT: Benchmark = Benchmark {
    names: &["mesh.nodes.1000"],
    measures: "a thousand nodes are connected to one daemon over QUIC on loopback, each with a certificate and a socket of \
        its own; from just before an endpoint changes in the daemon's log until the last node has it, median of 20. The \
        peer is the limit that is set",
    leaves_out: "Kubernetes in front of the daemon and the maps behind the nodes, which share one process. Each of the two \
        processes has one CPU",
    run: fanout,
};

const NODES: u32 = 1000;
/// Objects that every node knows.
const OBJECTS: u32 = 200;
const CHANGES: u32 = 20;
/// Milliseconds.
const LIMIT: f64 = 50.0;

fn fanout(context: &Context) -> anyhow::Result<Vec<Result>> {
    let dir = Scratch::new("mesh-nodes")?;
    Cluster::new(1)?.save(&dir.0)?;
    let netns = Netns::fresh()?;
    netns.ip("link set lo up")?;
    let program = this_program()?;
    let path = dir.0.display().to_string();
    let mut daemon = netns.command(0, &[&program, "mesh-hub", "--dir", &path, "--address", ADDRESS]);
    let mut daemon = Process::talking(&mut daemon)?;
    ensure!(daemon.line()? == READY, "the daemon says something else");
    let count = NODES.to_string();
    let mut nodes = netns.command(1, &[&program, "mesh-nodes", "--dir", &path, "--daemon", ADDRESS]);
    let mut nodes = Process::start(nodes.args(["--count", &count]))?;
    ensure!(nodes.line()? == READY, "the nodes say something else");
    let mut runs = Vec::new();
    let mut version = 0;
    for _ in 0..context.rounds {
        let mut times = Vec::new();
        for _ in 0..CHANGES {
            version += 1;
            daemon.tell(&version.to_string())?;
            let began: Duration = serde_json::from_str(&daemon.line()?)?;
            let ended: Duration = serde_json::from_str(&nodes.line()?)?;
            times.push(ended.saturating_sub(began).as_secs_f64() * 1e3);
            // Acknowledgements come behind.
            std::thread::sleep(Duration::from_millis(50));
        }
        runs.push((median(times), LIMIT));
    }
    Ok(vec![against("mesh.nodes.1000".to_owned(), "ms", runs)])
}

/// What both processes say when they are.
const READY: &str = "ready";
/// The endpoint that changes.
const CHANGING: u32 = 7;

/// The daemon, as far as nodes see it.
#[derive(Args)]
pub struct Hub {
    /// Where its authority is.
    #[arg(long)]
    dir: PathBuf,
    /// Where it listens.
    #[arg(long)]
    address: SocketAddr,
}

impl Hub {
    /// Changes the endpoint to the version of each line of standard input, and says when.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = Cluster::load(1, &self.dir)?;
        let exporter = ExporterHandle::new(cluster.id);
        exporter.apply(cluster.records(OBJECTS).into_iter().map(Into::into));
        exporter.set_scope(Scope::AllBut([].into()));
        let (events, mut told) = mpsc::channel(64);
        let stats = Arc::<Stats>::default();
        let _guard = runtime.enter();
        let (mut listener, _dialer) = cluster.listen(self.address, &TrustStore::new(), &stats)?;
        let server = NodeServer::new(cluster.local(), exporter.clone(), events, stats);
        runtime.spawn(async move { while told.recv().await.is_some() {} });
        runtime.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(accepted) = listener.accept().await {
                let server = server.clone();
                if accepted.service == Service::Node {
                    // How it ends is told by the nodes, which then hear nothing.
                    sessions.spawn(async move { drop(server.serve(accepted).await) });
                }
            }
        });
        writeln!(stdout(), "{READY}")?;
        for line in stdin().lock().lines() {
            let version = line?.parse()?;
            let change = Change::from(cluster.endpoint(CHANGING, version));
            writeln!(stdout(), "{}", serde_json::to_string(&monotonic()?)?)?;
            exporter.apply([change]);
        }
        Ok(())
    }
}

/// A thousand nodes.
#[derive(Args)]
pub struct Nodes {
    /// Where the authority of their cluster is.
    #[arg(long)]
    dir: PathBuf,
    /// Where the daemon listens.
    #[arg(long)]
    daemon: SocketAddr,
    /// How many.
    #[arg(long)]
    count: u32,
}

impl Nodes {
    /// Says when all nodes have everything, and then when the last one has each change.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.listen())
    }

    async fn listen(self) -> anyhow::Result<()> {
        let cluster = Cluster::load(1, &self.dir)?;
        let trust = TrustStore::new();
        trust.set_pem(&cluster.name, cluster.authority.bundle_pem())?;
        let (sender, mut heard) = mpsc::channel(1024);
        let (servers, facts) = (watch::channel(vec![self.daemon]).1, watch::channel(NodeFacts::default()).1);
        let mut tasks = JoinSet::new();
        for number in 0..self.count {
            let id = SpiffeId::Node(cluster.name.clone(), format!("node-{number}").parse()?);
            let credentials = Credentials::none();
            cluster.authority.introduce(&credentials, &id, SystemTime::now(), DAY)?;
            let config = NodeClientConfig {
                local: cluster.local(),
                dialer: Dialer::bind(ANY, credentials, trust.clone())?,
                servers: servers.clone(),
                facts: facts.clone(),
                limits: Limits::default(),
                backoff: Backoff::default(),
            };
            let (deltas, received) = mpsc::channel(4);
            tasks.spawn(NodeClient::new(config, deltas, Arc::default()).run());
            tasks.spawn(pass_on(received, sender.clone()));
        }
        drop(sender);
        let key = cluster.endpoint(CHANGING, 0).key();
        let (mut complete, mut changed) = (0, 0);
        while let Some(delta) = heard.recv().await {
            if complete < self.count {
                complete += u32::from(delta.complete);
                if complete == self.count {
                    writeln!(stdout(), "{READY}")?;
                }
                continue;
            }
            if delta.changes.iter().any(|change| change.key() == key) {
                changed += 1;
                if changed == self.count {
                    changed = 0;
                    writeln!(stdout(), "{}", serde_json::to_string(&monotonic()?)?)?;
                }
            }
        }
        Ok(())
    }
}

async fn pass_on(mut received: mpsc::Receiver<Delta>, to: mpsc::Sender<Delta>) {
    while let Some(delta) = received.recv().await {
        if to.send(delta).await.is_err() {
            return;
        }
    }
}
