//! What a cluster's daemon exports: to its nodes, and to other clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tombolo_model::{ClusterId, Kind, Record};

use super::{
    Scope,
    log::{Applied, Encoded, Log},
};
use crate::{merge::GlobalServices, wire::Change};

/// Turns the records of the own cluster and of the peers into two logs.
///
/// Nodes get everything, with the services of the own cluster merged with their namesakes elsewhere. Other clusters
/// get the own cluster's identities, nodes and endpoints, and those of its services that are global and shared.
#[derive(Debug)]
pub struct Exporter {
    cluster: ClusterId,
    services: GlobalServices,
    nodes: Log,
    peers: Log,
}

impl Exporter {
    /// An exporter of this cluster that has nothing yet. `epoch` is a random number; `history` is that of
    /// [`Log::new`].
    pub fn new(cluster: ClusterId, epoch: u64, history: usize) -> Self {
        Self {
            cluster,
            services: GlobalServices::new(cluster),
            nodes: Log::new(epoch, history),
            peers: Log::new(epoch, history),
        }
    }

    /// Makes the changes one transaction, for nodes and for peers. Changes of the own cluster's records come from its
    /// controllers, those of others from their deltas. What no receiver would accept is returned.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now_unix_ms: u64) -> Applied {
        let (mut to_nodes, mut to_peers, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            let cluster = change.cluster();
            let own = cluster == Some(self.cluster);
            if change.kind() == Kind::Service {
                if own {
                    let told = if shared(&change) { change.clone() } else { Change::Remove(change.key()) };
                    // What is too large for others is too large for nodes, which is said below.
                    to_peers.extend(Encoded::checked(told));
                }
                self.services.take(change);
                continue;
            }
            let foreign = !own && cluster.is_some();
            match if foreign { Encoded::decoded(change) } else { Encoded::checked(change) } {
                Ok(encoded) => {
                    to_peers.extend(own.then(|| encoded.clone()));
                    to_nodes.push(encoded);
                }
                Err(error) => refused.push(error),
            }
        }
        to_nodes.extend(Encoded::all(self.services.changes(), &mut refused));
        self.peers.take(to_peers, now_unix_ms);
        Applied { revision: self.nodes.take(to_nodes, now_unix_ms), refused }
    }

    /// Takes the backends of these clusters out of global services, unless no others are left.
    pub fn set_excluded(&mut self, excluded: BTreeSet<ClusterId>, now_unix_ms: u64) -> Applied {
        let changes = self.services.set_excluded(excluded);
        self.nodes.apply(changes, now_unix_ms)
    }

    /// Says of which clusters all records have been applied: [`Scope::Nothing`] until those of the own cluster have,
    /// then all but the members of the mesh that were never heard completely.
    pub fn set_scope(&mut self, scope: Scope) {
        self.peers.set_scope(match &scope {
            Scope::AllBut(pending) if !pending.contains(&self.cluster) => Scope::AllBut(BTreeSet::new()),
            Scope::AllBut(_) | Scope::Nothing => Scope::Nothing,
        });
        self.nodes.set_scope(scope);
    }

    /// How many records of each kind are known of each cluster. Policies belong to the own one.
    pub fn counts(&self) -> BTreeMap<ClusterId, BTreeMap<Kind, u64>> {
        let mut counts: BTreeMap<ClusterId, BTreeMap<Kind, u64>> = BTreeMap::new();
        let mut count = |cluster, kind, n| *counts.entry(cluster).or_default().entry(kind).or_default() += n;
        for ((cluster, kind), n) in self.nodes.counts().filter(|((_, kind), _)| *kind != Kind::Service) {
            count(cluster.unwrap_or(self.cluster), kind, n);
        }
        for cluster in self.services.clusters() {
            count(cluster, Kind::Service, 1);
        }
        counts
    }

    /// The records of all other clusters, as those said them.
    pub fn foreign(&self) -> Vec<Arc<Record>> {
        let is_foreign = |record: &Record| {
            record.kind() != Kind::Service && record.cluster().is_some_and(|cluster| cluster != self.cluster)
        };
        let plain = self.nodes.records().filter(|record| is_foreign(record)).cloned();
        plain.chain(self.services.foreign().cloned()).collect()
    }

    /// What nodes get.
    pub const fn nodes(&self) -> &Log {
        &self.nodes
    }

    /// What other clusters get.
    pub const fn peers(&self) -> &Log {
        &self.peers
    }
}

fn shared(change: &Change) -> bool {
    match change {
        Change::Upsert(record) => matches!(&**record, Record::Service(s) if s.global && s.shared),
        Change::Remove(_) => false,
    }
}

/// Convenience for callers that hold plain records.
impl From<Record> for Change {
    fn from(record: Record) -> Self {
        Self::Upsert(Arc::new(record))
    }
}
