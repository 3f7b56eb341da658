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
use tombolo_model::Record;
use tracing::{error, info, warn};

use super::{
    Mesh, memory,
    peers::{Parted, PeerSet, Sink},
    record, rejoin,
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
    /// Its storage is lost or old: a new member has to take its place.
    Forgotten(String),
    /// The mesh has decided to go on without this cluster.
    Removed,
    Switch(Switch),
}

/// What comes after the loss of storage.
enum Next {
    Renewed(Result<Box<Durable>, String>),
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
    pub(super) fn new(mesh: Mesh, held: Vec<Arc<Record>>, switches: mpsc::Receiver<Switch>) -> Self {
        Self { peers: PeerSet::new(mesh.clone(), held), mesh, switches }
    }

    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        loop {
            let end = match self.open().await {
                Ok(storage) => self.member(storage).await,
                Err(error @ (StorageError::Empty | StorageError::RejoinNeeded(_))) => {
                    End::Forgotten(error.to_string())
                }
                Err(error) => End::Stopped(error.to_string()),
            };
            match end {
                End::Stopped(why) => {
                    error!(why, "membership has stopped");
                    self.pause(why).await;
                }
                End::Forgotten(why) => self.rejoin(why).await,
                End::Removed => {
                    warn!("this cluster is no member of the mesh any more, it is alone");
                    self.peers.dismiss().await;
                    self.begin(founded(&self.mesh)).await;
                }
                End::Switch(switch) => self.switch(switch).await,
            }
        }
    }

    async fn open(&self) -> Result<MemberStorage, StorageError> {
        let cluster = self.mesh.0.config.local.cluster_id;
        match MemberStorage::open((self.mesh.0.parts.stores)(), cluster).await {
            Err(StorageError::Empty) if memory::load(&self.mesh).await?.is_none() => {
                info!("a new mesh is founded");
                MemberStorage::create((self.mesh.0.parts.stores)(), founded(&self.mesh)).await
            }
            opened => opened,
        }
    }

    /// Has the mesh renew the member, whose storage is lost; the sessions with the others go on meanwhile.
    async fn rejoin(&mut self, why: String) {
        let known = match memory::load(&self.mesh).await {
            Ok(Some(known)) => known,
            Ok(None) => return self.pause(why).await,
            Err(error) => return self.pause(error.to_string()).await,
        };
        let own = self.mesh.0.config.local.cluster_id;
        if known.others(own).next().is_none() {
            warn!(why, "this cluster was alone in its mesh: a new one is founded");
            return self.begin(founded(&self.mesh)).await;
        }
        warn!(why, "the member begins anew");
        self.peers.remember(&known);
        self.mesh
            .0
            .problems
            .send_modify(|problems| problems.member = Some(format!("{why}: it is rejoining")));
        let (mesh, switches) = (&self.mesh, &mut self.switches);
        let next = async {
            tokio::select! {
                renewed = rejoin::renew(mesh, &known) => Some(Next::Renewed(renewed.map(Box::new))),
                switch = switches.recv() => switch.map(Next::Switch),
            }
        };
        match self.peers.unless(next, std::future::pending()).await {
            Some(Next::Renewed(Ok(durable))) => self.begin(*durable).await,
            Some(Next::Renewed(Err(error))) => {
                warn!(error, "the mesh does not renew the member");
                self.pause(format!("{why}, and it cannot rejoin yet: {error}")).await;
            }
            Some(Next::Switch(switch)) => self.switch(switch).await,
            None => {}
        }
    }

    /// Stores the state of a new member.
    async fn begin(&mut self, durable: Durable) {
        if let Err(why) = self.replace(&durable).await {
            error!(why, "cannot store the new membership");
            self.pause(why).await;
        }
    }

    /// Says why there is no member, and waits before it is tried again.
    async fn pause(&mut self, why: String) {
        self.mesh.0.problems.send_modify(|problems| problems.member = Some(why));
        if let Some(switch) = self.peers.unless(self.switches.recv(), sleep(RETRY)).await {
            self.switch(switch).await;
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
        let incarnation = membership.watch().borrow().status.member.incarnation();
        let end = tokio::select! {
            stopped = &mut task => ended(stopped),
            parted = self.peers.follow(membership.watch(), described) => match parted {
                Parted::Removed => End::Removed,
                Parted::Renewed => End::Forgotten("the mesh has a newer member of this cluster".to_owned()),
            },
            why = rejoin::outdated(&self.mesh, incarnation) => End::Forgotten(why),
            Some(switch) = self.switches.recv() => End::Switch(switch),
            never = record::keep(&self.mesh, &membership) => match never {},
            never = memory::keep(&self.mesh) => match never {},
        };
        inner.member.send_replace(None);
        drop(membership);
        if !task.is_finished() {
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

fn ended(stopped: Result<Stopped, tokio::task::JoinError>) -> End {
    match stopped {
        Ok(Stopped::Halted(halt)) => End::Forgotten(halt.to_string()),
        Ok(Stopped::Storage(error @ StorageError::RejoinNeeded(_))) => End::Forgotten(error.to_string()),
        Ok(stopped) => End::Stopped(stopped.to_string()),
        Err(error) => End::Stopped(error.to_string()),
    }
}
