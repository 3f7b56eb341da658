//! The life of the own member: opened or founded, run, and replaced when the cluster joins or leaves.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tombolo_mesh_core::membership::{self, Durable, MeshId};
use tombolo_mesh_net::{
    raft::{Membership, Stopped},
    storage::{MemberStorage, StorageError},
};
use tracing::{error, info, warn};

use super::{
    Mesh,
    peers::{PeerSet, Sink},
    record,
};

/// How long to wait before a member that has stopped is started again.
const RETRY: Duration = Duration::from_secs(2);
/// How long a member may take to finish what it is storing.
const STOP: Duration = Duration::from_secs(5);

/// Another member in place of the one that runs.
pub(super) enum Switch {
    /// With this state, in another mesh.
    Become(Box<Durable>, oneshot::Sender<Result<(), String>>),
    /// The same, which goes on without the members that do not answer.
    Recover(oneshot::Sender<Result<(), String>>),
}

/// Why a member has ended.
enum End {
    Stopped(String),
    /// The mesh has decided to go on without this cluster.
    Removed,
    Switch(Switch),
}

/// Runs the member and the sessions with other clusters.
pub struct Runner {
    mesh: Mesh,
    peers: PeerSet,
    switches: mpsc::Receiver<Switch>,
}

/// The state of a mesh that has only this cluster.
pub(super) fn founded(mesh: &Mesh) -> Durable {
    let nodes = mesh.0.parts.nodes.borrow().clone().unwrap_or_default();
    Durable::found(MeshId(rand::random()), &record::unsigned(mesh, &nodes, 1))
}

impl Runner {
    pub(super) fn new(mesh: Mesh, switches: mpsc::Receiver<Switch>) -> Self {
        Self { peers: PeerSet::new(mesh.clone()), mesh, switches }
    }

    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        loop {
            let end = match self.open().await {
                Ok(storage) => self.member(storage).await,
                Err(error) => End::Stopped(error.to_string()),
            };
            match end {
                End::Stopped(why) => {
                    error!(why, "membership has stopped");
                    self.mesh.0.problems.send_modify(|problems| problems.member = Some(why));
                    if let Some(switch) = self.peers.unless(self.switches.recv(), sleep(RETRY)).await {
                        self.switch(switch).await;
                    }
                }
                End::Removed => {
                    warn!("this cluster is no member of the mesh any more, it is alone");
                    self.peers.dismiss().await;
                    if let Err(why) = self.replace(&founded(&self.mesh)).await {
                        error!(why, "cannot store the new membership");
                        sleep(RETRY).await;
                    }
                }
                End::Switch(switch) => self.switch(switch).await,
            }
        }
    }

    async fn open(&self) -> Result<MemberStorage, StorageError> {
        let cluster = self.mesh.0.config.local.cluster_id;
        match MemberStorage::open((self.mesh.0.parts.stores)(), cluster).await {
            Err(StorageError::Empty) => {
                info!("a new mesh is founded");
                MemberStorage::create((self.mesh.0.parts.stores)(), founded(&self.mesh)).await
            }
            opened => opened,
        }
    }

    /// Runs a member until it ends.
    async fn member(&mut self, storage: MemberStorage) -> End {
        let described = match storage.durable().described() {
            Ok(Some(state)) => Arc::new(state),
            Ok(None) => {
                return End::Stopped("membership data names no mesh: leave, and join again".to_owned());
            }
            Err(error) => return End::Stopped(error.to_string()),
        };
        let inner = &self.mesh.0;
        let sink = Box::new(Sink(inner.peers.clone()));
        let started = Membership::start(described.mesh, inner.config.timing, storage, sink);
        let (membership, task) = match started {
            Ok((membership, task)) => (membership, AbortOnDropHandle::new(task)),
            Err(error) => return End::Stopped(error.to_string()),
        };
        info!(mesh = %described.mesh, member = %membership.watch().borrow().status.member, "member of the mesh");
        inner.problems.send_modify(|problems| problems.member = None);
        inner.member.send_replace(Some(membership.clone()));
        let mut task = task;
        let end = tokio::select! {
            stopped = &mut task => End::Stopped(reason(stopped)),
            () = self.peers.follow(membership.watch(), described) => End::Removed,
            Some(switch) = self.switches.recv() => End::Switch(switch),
            never = record::keep(&self.mesh, &membership) => match never {},
        };
        inner.member.send_replace(None);
        drop(membership);
        if !matches!(end, End::Stopped(_)) {
            // It ends with its last handle, once it has finished what it is storing.
            let _ = timeout(STOP, task).await;
        }
        end
    }

    async fn switch(&mut self, switch: Switch) {
        let (result, reply) = match switch {
            Switch::Become(durable, reply) => {
                self.peers.dismiss().await;
                (self.replace(&durable).await, reply)
            }
            Switch::Recover(reply) => (self.recover().await, reply),
        };
        // Who asked may have gone.
        let _ = reply.send(result);
    }

    async fn recover(&self) -> Result<(), String> {
        let storage = self.open().await.map_err(|e| e.to_string())?;
        let recovered = membership::recover(storage.durable()).map_err(|e| e.to_string())?;
        self.replace(&recovered).await
    }

    async fn replace(&self, durable: &Durable) -> Result<(), String> {
        let replaced = MemberStorage::replace((self.mesh.0.parts.stores)(), durable.clone()).await;
        replaced.map(drop).map_err(|e| e.to_string())
    }
}

fn reason(stopped: Result<Stopped, tokio::task::JoinError>) -> String {
    stopped.map_or_else(|error| error.to_string(), |stopped| stopped.to_string())
}
