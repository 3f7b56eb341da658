//! This cluster's part in the mesh: its member of the Raft group, its sessions with other clusters, joining and
//! leaving.
//!
//! A cluster that has joined nobody is a mesh of its own with one member, so there is always a member. [`Runner`] runs
//! it, and replaces it when the cluster joins another mesh or leaves one; [`Mesh`] is the handle by which everything
//! else asks.

mod join;
mod liveness;
mod member;
mod membership;
mod memory;
mod peers;
mod problems;
pub mod record;
mod rejoin;
mod status;
mod tokens;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tombolo_mesh_core::{
    membership::{ClusterRecord, MeshState, Status},
    wire::Observation,
};
use tombolo_mesh_net::{
    mirror::Mirror,
    raft::{Membership, Timing},
    session::{Close, ExporterHandle, Local, SessionError},
    storage::ObjectStore,
    tls::{CertificateAuthority, TrustStore},
    transport::{Accepted, Dialer, Stats},
};
use tombolo_model::{ClusterName, Record};
use tracing::debug;

pub use self::{join::JoinFailure, member::Runner, tokens::parse_ttl};
use self::{member::Switch, peers::PeerTable, record::Nodes};

/// Who this cluster is.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Its name and number.
    pub local: Local,
    /// Where other clusters reach it; empty for the addresses of its nodes.
    pub advertise: Vec<SocketAddr>,
    /// Where this replica listens.
    pub address: SocketAddr,
    /// Silence after which the backends of a cluster are not used.
    pub drain: Duration,
    /// How time passes for the member.
    pub timing: Timing,
}

/// Opens the place of the member's durable state.
pub type Stores = Arc<dyn Fn() -> Box<dyn ObjectStore> + Send + Sync>;

/// What the mesh shares with the rest of the daemon.
#[derive(Clone)]
pub struct Parts {
    /// Takes the records of other clusters, and has the own ones.
    pub exporter: ExporterHandle,
    /// The own authority, and its successors.
    pub authority: watch::Receiver<Arc<CertificateAuthority>>,
    /// Gets the authorities of the other clusters.
    pub trust: Arc<TrustStore>,
    /// Dials other clusters.
    pub dialer: Dialer,
    /// Counts.
    pub stats: Arc<Stats>,
    /// The member's durable state.
    pub stores: Stores,
    /// Where the mesh is found again without that.
    pub memory: Stores,
    /// What the replica that led before has heard of other clusters.
    pub held: Vec<Arc<Record>>,
    /// The own nodes; none until the cluster has been read.
    pub nodes: watch::Receiver<Option<Nodes>>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    config: MeshConfig,
    parts: Parts,
    /// The member that runs now.
    member: watch::Sender<Option<Membership>>,
    known: watch::Sender<Option<Known>>,
    peers: PeerTable,
    mirror: Mirror,
    problems: watch::Sender<Problems>,
    /// What the other clusters are told of how this one sees the mesh.
    observation: watch::Sender<Observation>,
    /// Whether all that the other clusters have is here.
    synced: watch::Sender<bool>,
    switches: mpsc::Sender<Switch>,
    /// Held by who joins, leaves or recovers.
    changing: Mutex<()>,
    /// How many may ask to join at a time.
    doors: Arc<Semaphore>,
}

/// What is known of the mesh.
#[derive(Clone, Debug)]
struct Known {
    /// As the members decided; for one that has just joined, as it was told.
    state: Arc<MeshState>,
    /// Of the own member.
    status: Status,
    /// The own member has the state itself.
    caught_up: bool,
}

impl Known {
    /// The cluster whose member leads, if there is one and it is known.
    fn leader(&self) -> Option<&ClusterRecord> {
        self.state.clusters.get(&self.status.leader?.cluster()?)
    }
}

/// What is wrong, one sentence each.
#[derive(Clone, Debug, Default)]
struct Problems {
    /// With the own record.
    record: Option<String>,
    /// With the own member.
    member: Option<String>,
}

/// Whoever asks must be told to ask again.
#[derive(Debug, thiserror::Error)]
#[error("membership is not running in this replica: {0}")]
pub struct NotRunning(String);

impl Mesh {
    /// The handle, and what has to run for it.
    pub fn new(config: MeshConfig, mut parts: Parts) -> (Self, Runner) {
        let (switches, switched) = mpsc::channel(1);
        let mirror = Mirror::new(config.local.clone(), parts.exporter.clone(), parts.stats.clone());
        let held = std::mem::take(&mut parts.held);
        let mesh = Self(Arc::new(Inner {
            config,
            parts,
            member: watch::Sender::new(None),
            known: watch::Sender::new(None),
            peers: PeerTable::default(),
            mirror,
            problems: watch::Sender::default(),
            observation: watch::Sender::default(),
            synced: watch::Sender::new(false),
            switches,
            changing: Mutex::new(()),
            doors: Arc::new(Semaphore::new(join::DOORS)),
        }));
        (mesh.clone(), Runner::new(mesh, held, switched))
    }

    /// Serves a session that another cluster has begun.
    ///
    /// # Errors
    /// The session ended.
    pub async fn serve_peer(&self, accepted: Accepted) -> Result<(), SessionError> {
        let name = accepted.client.as_ref().map(|id| id.cluster().clone());
        match name.and_then(|name| self.0.peers.by_name(&name)) {
            Some(peer) => peer.serve(accepted).await,
            None => {
                let why = "this cluster is not in a mesh with the client's cluster";
                accepted.connection.close(Close::Denied.code(), why.as_bytes());
                debug!(client = ?accepted.client, "peer is not known");
                Ok(())
            }
        }
    }

    /// Serves a replica of this cluster that waits.
    ///
    /// # Errors
    /// The session ended.
    pub async fn serve_replica(&self, accepted: Accepted) -> Result<(), SessionError> {
        self.0.mirror.serve(accepted).await
    }

    /// Waits until all that the other clusters have is here, at most for `limit`.
    pub async fn first_sync(&self, limit: Duration) {
        // The sender lives as long as self.
        let _ = tokio::time::timeout(limit, self.0.synced.subscribe().wait_for(|synced| *synced)).await;
    }

    /// The clusters that do not know yet who vouches for this one, its next or former authority included. `known_since`
    /// is kept from call to call: the version of the membership since which this one's record says so.
    ///
    /// # Errors
    /// There is no member that runs.
    pub fn lacks_authorities(
        &self,
        authority: &CertificateAuthority,
        known_since: &mut Option<u64>,
    ) -> Result<Vec<ClusterName>, NotRunning> {
        let Known { state, .. } = self.known()?;
        let own = &self.0.config.local;
        let record = state.clusters.get(&own.cluster_id);
        let told = record.is_some_and(|record| record.ca == ders(authority));
        *known_since = known_since.filter(|since| told && *since <= state.version);
        if !told {
            return Ok(vec![own.cluster.clone()]);
        }
        let since = *known_since.get_or_insert(state.version);
        let knows = |id| {
            let (peer, _) = self.0.peers.status(id)?;
            Some(peer.observation?.membership >= since)
        };
        Ok(state
            .others(own.cluster_id)
            .filter(|c| knows(c.id) != Some(true))
            .map(|c| c.name.clone())
            .collect())
    }

    fn authority(&self) -> Arc<CertificateAuthority> {
        self.0.parts.authority.borrow().clone()
    }

    /// All authorities that are to be trusted for this cluster (DER).
    fn own_ca(&self) -> Vec<Vec<u8>> {
        ders(&self.authority())
    }

    fn membership(&self) -> Result<Membership, NotRunning> {
        let running = self.0.member.borrow().clone();
        running.ok_or_else(|| {
            let why = self.0.problems.borrow().member.clone();
            NotRunning(why.unwrap_or_else(|| "it is starting, try again".to_owned()))
        })
    }

    fn known(&self) -> Result<Known, NotRunning> {
        let known = self.0.known.borrow().clone();
        known.ok_or_else(|| NotRunning("it is starting, try again".to_owned()))
    }

    /// Has the member replaced, and waits until it is.
    async fn switch(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Switch,
    ) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        let ended = || "membership has ended in this replica: try again on the one that took over".to_owned();
        self.0.switches.send(make(reply)).await.map_err(|_| ended())?;
        done.await.map_err(|_| ended())?
    }
}

fn ders(authority: &CertificateAuthority) -> Vec<Vec<u8>> {
    authority.bundle().iter().map(|der| der.to_vec()).collect()
}
