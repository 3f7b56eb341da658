//! The real daemon's part in a mesh, without Kubernetes: its own cluster's records are generated, its storage is memory.

use std::{
    fs,
    io::{Write, stdout},
    net::SocketAddr,
    path::PathBuf,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet};
use tombolo_clustermesh::mesh::{Mesh, MeshConfig, Parts, Runner, record::Nodes};
use tombolo_mesh_core::{
    membership::{Durable, MeshId, MeshState},
    trust::Service,
};
use tombolo_mesh_net::{
    raft::Timing,
    session::ExporterHandle,
    storage::{MemberStorage, MemoryStore, ObjectStore},
    tls::TrustStore,
    transport::{Listener, Stats},
};

use super::{generated::Cluster, peers::Listed};
use crate::{
    process::{cpu, resident},
    propagation::monotonic,
};

/// What it says when its rest begins.
pub const RESTS: &str = "rests";
/// How long the mesh rests before its rest is measured.
const SETTLE: Duration = Duration::from_secs(5);

/// A daemon that joins a mesh, tells when it knows everything, and then rests.
#[derive(Args)]
pub struct Daemon {
    /// Where its authority is, and the list of the other clusters.
    #[arg(long)]
    dir: PathBuf,
    /// Where it listens.
    #[arg(long)]
    address: SocketAddr,
    /// Objects of its own cluster.
    #[arg(long)]
    objects: u32,
    /// How long it rests, seconds.
    #[arg(long)]
    rest: u64,
}

/// What it measures.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub struct Measured {
    /// From its start until all records of all clusters are known, seconds.
    pub sync: f64,
    /// What it holds then in memory (resident), MB.
    pub memory: f64,
    /// Records that its nodes would be told.
    pub records: u64,
    /// Part of a core that it uses while nothing happens, percent.
    pub rest: f64,
    /// How long nothing happened, seconds.
    pub rested: f64,
    /// Other clusters that answered when the rest was over.
    pub connected: u8,
}

impl Daemon {
    /// Prints what it measures, and after that when the last of the other clusters is no longer heard.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(self.measure())
    }

    async fn measure(self) -> anyhow::Result<()> {
        let cluster = Cluster::load(1, &self.dir)?;
        let others: Vec<Listed> = serde_json::from_slice(&fs::read(self.dir.join("clusters.json"))?)?;
        let store = store(&cluster, self.address, &others).await?;
        let exporter = ExporterHandle::new(cluster.id);
        let (nodes, known_nodes) = watch::channel(None);
        let part = Part::new(&cluster, self.address, &exporter, store, known_nodes)?;
        let started = Instant::now();
        exporter.apply(cluster.records(self.objects).into_iter().map(Into::into));
        nodes.send_replace(Some(Nodes::read(&exporter, cluster.id)));
        let (mesh, _tasks) = part.start();
        let synced = async {
            while !mesh
                .status()
                .is_ok_and(|s| s.members.len() > others.len() && s.members.iter().all(|m| m.synced))
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let limit = Duration::from_secs(120);
        tokio::time::timeout(limit, synced).await.context("the daemon did not hear all clusters")?;
        let sync = started.elapsed().as_secs_f64();
        let memory = resident(process::id())?;
        let counts = exporter.counts();
        let records = counts.values().flat_map(|kinds| kinds.values()).sum::<u64>();
        tokio::time::sleep(SETTLE).await;
        writeln!(stdout(), "{RESTS}")?;
        let (before, began) = (cpu(process::id())?, Instant::now());
        tokio::time::sleep(Duration::from_secs(self.rest)).await;
        let rested = began.elapsed().as_secs_f64();
        let rest = (cpu(process::id())? - before) / rested * 100.0;
        let others = || {
            anyhow::Ok(mesh.status()?.members.iter().filter(|m| m.connected && m.id != cluster.id).count())
        };
        let connected = u8::try_from(others()?)?;
        let measured = Measured { sync, memory, records, rest, rested, connected };
        writeln!(stdout(), "{}", serde_json::to_string(&measured)?)?;
        while others()? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(writeln!(stdout(), "{}", serde_json::to_string(&monotonic()?)?)?)
    }
}

/// What a member of long standing has stored: all clusters, of which it alone votes.
async fn store(cluster: &Cluster, address: SocketAddr, others: &[Listed]) -> anyhow::Result<MemoryStore> {
    let mut durable = Durable::found(MeshId(1), &cluster.record(address));
    let mut state = MeshState::decode(&durable.snapshot.data)?;
    for Listed { number, ca, address } in others {
        let mut record = Cluster::new(*number)?.record(*address);
        record.ca = vec![ca.clone()];
        state.clusters.insert(record.id, record);
    }
    durable.snapshot.data = state.encode();
    let store = MemoryStore::default();
    MemberStorage::create(Box::new(store.clone()), durable).await?;
    Ok(store)
}

/// A cluster's part in the mesh, not started yet.
pub(super) struct Part {
    listener: Listener,
    mesh: Mesh,
    runner: Runner,
}

impl Part {
    /// Listens at `address`.
    pub(super) fn new(
        cluster: &Cluster,
        address: SocketAddr,
        exporter: &ExporterHandle,
        store: MemoryStore,
        nodes: watch::Receiver<Option<Nodes>>,
    ) -> anyhow::Result<Self> {
        let (trust, stats) = (TrustStore::new(), Arc::<Stats>::default());
        let (listener, dialer) = cluster.listen(address, &trust, &stats)?;
        let memory = MemoryStore::default();
        let parts = Parts {
            exporter: exporter.clone(),
            authority: watch::channel(cluster.authority.clone()).1,
            trust,
            dialer,
            stats,
            stores: Arc::new(move || Box::new(store.clone()) as Box<dyn ObjectStore>),
            memory: Arc::new(move || Box::new(memory.clone()) as Box<dyn ObjectStore>),
            held: Vec::new(),
            nodes,
        };
        let config = MeshConfig {
            local: cluster.local(),
            advertise: vec![address],
            address,
            drain: Duration::from_secs(5),
            timing: Timing::default(),
        };
        let (mesh, runner) = Mesh::new(config, parts);
        Ok(Self { listener, mesh, runner })
    }

    /// Runs until the tasks are dropped.
    pub(super) fn start(self) -> (Mesh, JoinSet<()>) {
        let Self { listener, mesh, runner } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match runner.run().await {} });
        tasks.spawn(accept(listener, mesh.clone()));
        (mesh, tasks)
    }
}

async fn accept(mut listener: Listener, mesh: Mesh) {
    let mut sessions = JoinSet::new();
    while let Some(accepted) = listener.accept().await {
        let mesh = mesh.clone();
        if accepted.service == Service::Peer {
            sessions.spawn(async move { drop(mesh.serve_peer(accepted).await) });
        }
    }
}
