//! What this replica does and knows, for the status command, health checks and metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tombolo_model::{ClusterId, ClusterName, Kind};

/// The answer to the status command, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// This cluster.
    pub cluster: ClusterName,
    /// Its number.
    pub cluster_id: ClusterId,
    /// The pod of this replica.
    pub pod: String,
    /// Whether it leads: the others wait and know nothing.
    pub leader: bool,
    /// Whether everything of the cluster has been read since it leads.
    pub complete: bool,
    /// Changes given out since it leads.
    pub transactions: u64,
    /// Nodes with a session.
    pub sessions: BTreeSet<String>,
    /// Records by kind: `identities`, `nodes`, `endpoints`, `services`, `policies`.
    pub records: BTreeMap<String, u64>,
}

/// The status, shared by those who write it and those who show it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<watch::Sender<Status>>);

impl Shared {
    /// Of a replica that does not lead.
    pub fn new(cluster: ClusterName, cluster_id: ClusterId, pod: String) -> Self {
        Self(Arc::new(watch::Sender::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster,
            cluster_id,
            pod,
            leader: false,
            complete: false,
            transactions: 0,
            sessions: BTreeSet::new(),
            records: none(),
        })))
    }

    /// The status now.
    pub fn get(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }

    /// Follows it.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// A node has a session, or none any more.
    pub fn session(&self, node: String, up: bool) {
        self.update(|status| {
            if up {
                status.sessions.insert(node);
            } else {
                status.sessions.remove(&node);
            }
        });
    }

    /// Records of this kind have come (positive) or gone.
    pub fn count(&self, changes: &BTreeMap<Kind, i64>) {
        self.update(|status| {
            status.transactions += 1;
            for (kind, change) in changes {
                let records = status.records.entry(name(*kind).to_owned()).or_default();
                *records = records.saturating_add_signed(*change);
            }
        });
    }

    /// Leadership began or ended: what was known before is void.
    pub fn lead(&self, leader: bool) {
        self.update(|status| {
            status.leader = leader;
            status.complete = false;
            status.transactions = 0;
            status.sessions.clear();
            status.records = none();
        });
    }
}

fn none() -> BTreeMap<String, u64> {
    Kind::ALL.into_iter().map(|kind| (name(kind).to_owned(), 0)).collect()
}

/// The name of a kind, as status and metrics have it.
pub const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Identity => "identities",
        Kind::Node => "nodes",
        Kind::Endpoint => "endpoints",
        Kind::Service => "services",
        Kind::Policy => "policies",
    }
}
