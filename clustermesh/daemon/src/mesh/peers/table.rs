//! The table of the sessions with other clusters, for those who send, serve or show.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tombolo_mesh_core::{
    membership::{Envelope, MemberId},
    replication::Containment,
};
use tombolo_mesh_net::{
    peer::{Peer, PeerStatus},
    raft::MessageSink,
};
use tombolo_model::{ClusterId, ClusterName};

/// The sessions with other clusters, by cluster. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::mesh) struct PeerTable(Arc<Mutex<BTreeMap<ClusterId, Entry>>>);

/// What is known of one of them.
pub(super) struct Entry {
    pub(super) name: ClusterName,
    pub(super) peer: Peer,
    pub(super) status: watch::Receiver<PeerStatus>,
    pub(super) member: MemberId,
    pub(super) ca: Vec<Vec<u8>>,
    pub(super) containment: watch::Sender<Containment>,
    pub(super) addresses: watch::Sender<Vec<std::net::SocketAddr>>,
    /// All of its records have arrived once.
    pub(super) complete: bool,
    /// Since when it is known.
    pub(super) since: Instant,
    /// Since when it is no member any more.
    pub(super) removed: Option<Instant>,
    pub(super) _dial: AbortOnDropHandle<()>,
}

impl PeerTable {
    pub(in crate::mesh) fn by_name(&self, name: &ClusterName) -> Option<Peer> {
        self.entries().values().find(|entry| entry.name == *name).map(|entry| entry.peer.clone())
    }

    /// The state of the session with a cluster, and whether all of its records have arrived once.
    pub(in crate::mesh) fn status(&self, cluster: ClusterId) -> Option<(PeerStatus, bool)> {
        self.entries().get(&cluster).map(|entry| (entry.status.borrow().clone(), entry.complete))
    }

    /// [`PeerTable::status`] of all.
    pub(in crate::mesh) fn all(&self) -> BTreeMap<ClusterId, (PeerStatus, bool)> {
        let of = |entry: &Entry| (entry.status.borrow().clone(), entry.complete);
        self.entries().iter().map(|(id, entry)| (*id, of(entry))).collect()
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what members have to say to each other.
pub(in crate::mesh) struct Sink(pub(in crate::mesh) PeerTable);

impl MessageSink for Sink {
    fn send(&mut self, message: Envelope) {
        let peer = message.to.cluster().and_then(|id| self.0.entries().get(&id).map(|e| e.peer.clone()));
        if let Some(peer) = peer {
            peer.send_membership(message.bytes.into());
        }
    }
}
