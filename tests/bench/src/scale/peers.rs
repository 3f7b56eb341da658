//! The other clusters of a mesh: one process with a listener, an exporter and a session for each.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tombolo_mesh_core::{
    replication::{Containment, Limits, Scope},
    trust::Service,
    wire::Observation,
};
use tombolo_mesh_net::{
    peer::{Peer, PeerConfig, PeerEvent},
    session::{Backoff, ExporterHandle, Local},
    tls::TrustStore,
    transport::{Dialer, Listener, Stats},
};
use tombolo_model::ClusterId;

use super::generated::Cluster;

/// Where loopback sockets are.
pub const ANY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

/// The mesh of one daemon, and all others in this process.
#[derive(Args)]
pub struct Peers {
    /// Clusters besides that of the daemon.
    #[arg(long)]
    clusters: u8,
    /// Objects of each.
    #[arg(long)]
    objects: u32,
    /// Where the daemon's authority is.
    #[arg(long)]
    authority: PathBuf,
    /// Where the daemon will listen.
    #[arg(long)]
    daemon: SocketAddr,
}

/// What the daemon has to know of a cluster.
#[derive(Serialize, Deserialize)]
pub struct Listed {
    /// Its number.
    pub number: u8,
    /// Its authority (DER).
    pub ca: Vec<u8>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Peers {
    /// Prints who there is, and serves them for ever.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let daemon = Cluster::load(1, &self.authority)?;
        let stats: Arc<Stats> = Arc::default();
        let (sender, mut events) = mpsc::channel(64);
        let (mut listed, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 2..=self.clusters.saturating_add(1) {
            let cluster = Cluster::new(number)?;
            let trust = TrustStore::new();
            trust.set_pem(&daemon.name, daemon.authority.bundle_pem())?;
            let (listener, dialer) = cluster.listen(ANY, &trust, &stats)?;
            let exporter = ExporterHandle::new(cluster.id);
            exporter.apply(cluster.records(self.objects).into_iter().map(Into::into));
            exporter.set_scope(Scope::AllBut([].into()));
            let ca = cluster.authority.certificate().to_vec();
            listed.push(Listed { number, ca, address: listener.local_address()? });
            let (local, with) = (cluster.local(), daemon.containment());
            let session = Session { local, exporter, with, at: self.daemon, stats: stats.clone() };
            session.start(listener, dialer, sender.clone(), &mut tasks);
        }
        writeln!(stdout(), "{}", serde_json::to_string(&listed)?)?;
        while events.recv().await.is_some() {}
        Ok(())
    }
}

/// One cluster's sessions with another one.
pub struct Session {
    /// Whose.
    pub local: Local,
    /// What it says.
    pub exporter: ExporterHandle,
    /// With whom.
    pub with: Containment,
    /// Where that one listens.
    pub at: SocketAddr,
    /// Counts.
    pub stats: Arc<Stats>,
}

impl Session {
    /// Serves and dials.
    pub fn start(
        self,
        mut listener: Listener,
        dialer: Dialer,
        events: mpsc::Sender<(ClusterId, PeerEvent)>,
        tasks: &mut JoinSet<()>,
    ) {
        let config = PeerConfig {
            local: self.local,
            exporter: self.exporter,
            containment: watch::channel(self.with).1,
            limits: Limits::default(),
            backoff: Backoff::new(std::time::Duration::from_millis(100), std::time::Duration::from_secs(2)),
            membership: watch::channel(None).1,
            observation: watch::channel(Observation::default()).1,
        };
        let peer = Peer::new(config, events, self.stats);
        let (dialling, at) = (peer.clone(), watch::channel(vec![self.at]).1);
        tasks.spawn(async move { dialling.dial(dialer, at).await });
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(accepted) = listener.accept().await {
                let peer = peer.clone();
                if accepted.service == Service::Peer {
                    // How it ends is told by the daemon's own measurements.
                    sessions.spawn(async move { drop(peer.serve(accepted).await) });
                }
            }
        });
    }
}
