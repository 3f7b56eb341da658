//! The exporter that all sessions of a process send from.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tombolo_mesh_core::replication::{Applied, Change, Exporter, Log, Scope};
use tombolo_model::{ClusterId, Kind, Record};

use super::unix_time_ms;

/// Shares an [`Exporter`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExporterHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    exporter: Mutex<Exporter>,
    /// Apart, as hundreds of sessions with other clusters need not wake for what concerns nodes only.
    nodes_changed: watch::Sender<()>,
    peers_changed: watch::Sender<()>,
}

/// Which log of the exporter a session sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Of everything.
    Nodes,
    /// Of what other clusters may know.
    Peers,
}

impl ExporterHandle {
    /// An exporter of this cluster that has nothing yet, with a new epoch.
    pub fn new(cluster: ClusterId) -> Self {
        let exporter = Exporter::new(cluster, rand::random(), Log::DEFAULT_HISTORY);
        Self(Arc::new(Shared {
            exporter: Mutex::new(exporter),
            nodes_changed: watch::Sender::new(()),
            peers_changed: watch::Sender::new(()),
        }))
    }

    /// [`Exporter::apply`], now.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Applied {
        self.change(|exporter| exporter.apply(changes, unix_time_ms()))
    }

    /// [`Exporter::set_excluded`], now.
    pub fn set_excluded(&self, excluded: BTreeSet<ClusterId>) -> Applied {
        self.change(|exporter| exporter.set_excluded(excluded, unix_time_ms()))
    }

    /// [`Exporter::set_scope`].
    pub fn set_scope(&self, scope: Scope) {
        self.change(|exporter| exporter.set_scope(scope));
    }

    /// [`Exporter::counts`].
    pub fn counts(&self) -> BTreeMap<ClusterId, BTreeMap<Kind, u64>> {
        self.0.exporter.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }

    /// [`Exporter::foreign`].
    pub fn foreign(&self) -> Vec<Arc<Record>> {
        self.0.exporter.lock().unwrap_or_else(PoisonError::into_inner).foreign()
    }

    /// Looks into a log. Sessions wait meanwhile.
    pub fn read<T>(&self, audience: Audience, look: impl FnOnce(&Log) -> T) -> T {
        let exporter = self.0.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        look(match audience {
            Audience::Nodes => exporter.nodes(),
            Audience::Peers => exporter.peers(),
        })
    }

    pub(crate) fn changes(&self, audience: Audience) -> watch::Receiver<()> {
        match audience {
            Audience::Nodes => self.0.nodes_changed.subscribe(),
            Audience::Peers => self.0.peers_changed.subscribe(),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Exporter) -> T) -> T {
        let mut exporter = self.0.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (exporter.nodes().version(), exporter.peers().version());
        let result = change(&mut exporter);
        let after = (exporter.nodes().version(), exporter.peers().version());
        drop(exporter);
        if before.0 != after.0 {
            self.0.nodes_changed.send_replace(());
        }
        if before.1 != after.1 {
            self.0.peers_changed.send_replace(());
        }
        result
    }
}
