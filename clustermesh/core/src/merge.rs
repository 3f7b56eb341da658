//! Global services: a service of the own cluster with the backends of its namesakes in other clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tombolo_model::{
    Backend, BackendState, ClusterId, OnClusterLoss, Record, RecordKey, ServicePort, ServiceRecord,
};

use crate::wire::Change;

/// The services of all clusters, merged as they change.
#[derive(Debug)]
pub struct GlobalServices {
    cluster: ClusterId,
    services: BTreeMap<Name, BTreeMap<ClusterId, Arc<Record>>>,
    /// What has changed since it was last merged, and whether the own cluster's service was removed meanwhile.
    changed: BTreeMap<Name, bool>,
    excluded: BTreeSet<ClusterId>,
}

/// Namespace and name.
type Name = (String, String);

impl GlobalServices {
    /// No services, seen from `cluster`.
    pub const fn new(cluster: ClusterId) -> Self {
        Self { cluster, services: BTreeMap::new(), changed: BTreeMap::new(), excluded: BTreeSet::new() }
    }

    /// Takes a change of a service of any cluster. Changes of other kinds do not matter here.
    pub fn take(&mut self, change: Change) {
        let RecordKey::Service(cluster, namespace, name) = change.key() else { return };
        let name = (namespace, name);
        let removed = self.changed.entry(name.clone()).or_default();
        match change {
            Change::Upsert(record) => {
                self.services.entry(name).or_default().insert(cluster, record);
            }
            Change::Remove(_) => {
                *removed |= cluster == self.cluster;
                if let Some(group) = self.services.get_mut(&name) {
                    group.remove(&cluster);
                    if group.is_empty() {
                        self.services.remove(&name);
                    }
                }
            }
        }
    }

    /// How the own cluster's services have changed since this was asked last. Each is merged once, in however many
    /// clusters it has changed.
    pub fn changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        let change = |(name, removed): (Name, bool)| {
            let merged = self.services.get(&name).and_then(|group| self.merged(group));
            let gone = || Change::Remove(RecordKey::Service(self.cluster, name.0, name.1));
            merged.or_else(|| removed.then(gone))
        };
        changed.into_iter().filter_map(change).collect()
    }

    /// Changes whose backends are left out, and gives the services that this changes.
    pub fn set_excluded(&mut self, excluded: BTreeSet<ClusterId>) -> Vec<Change> {
        let affected: BTreeSet<_> = self.excluded.symmetric_difference(&excluded).copied().collect();
        self.excluded = excluded;
        let groups = self.services.values().filter(|group| group.keys().any(|c| affected.contains(c)));
        groups.filter_map(|group| self.merged(group)).collect()
    }

    /// The cluster of each service, as often as it has services.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.services.values().flat_map(|group| group.keys().copied())
    }

    /// The services of other clusters.
    pub fn foreign(&self) -> impl Iterator<Item = &Arc<Record>> {
        let of_others = self.services.values().flatten().filter(|(cluster, _)| **cluster != self.cluster);
        of_others.map(|(_, record)| record)
    }

    fn merged(&self, group: &BTreeMap<ClusterId, Arc<Record>>) -> Option<Change> {
        let record = group.get(&self.cluster)?;
        let local = service(record)?;
        if !local.global {
            return Some(Change::Upsert(record.clone()));
        }
        let remote = group.iter().filter(|(c, _)| **c != self.cluster).filter_map(|(_, r)| service(r));
        Some(Record::Service(merge_service(local, remote, &self.excluded)).into())
    }
}

/// The local service with its own backends and, if it is global, those of the remote ones that are global and shared.
///
/// Ports correspond when name and protocol are the same; the port number is the local one. Backends are ordered by
/// address. Those of `excluded` clusters are left out of a port unless nobody else there takes traffic or the local
/// service keeps them. Affinity is not applied: nodes choose among the backends by their clusters.
pub fn merge_service<'a>(
    local: &ServiceRecord,
    remote: impl IntoIterator<Item = &'a ServiceRecord>,
    excluded: &BTreeSet<ClusterId>,
) -> ServiceRecord {
    let mut merged = local.clone();
    if !local.global {
        return merged;
    }
    let nobody = BTreeSet::new();
    let excluded = if local.on_cluster_loss == OnClusterLoss::Keep { &nobody } else { excluded };
    let remote: Vec<_> = remote.into_iter().filter(|s| s.global && s.shared).collect();
    for port in &mut merged.ports {
        let others =
            remote.iter().filter_map(|s| same_port(s, port)).flat_map(|p| p.backends.iter().cloned());
        let others: Vec<_> = others.collect();
        port.backends = merge_backends(std::mem::take(&mut port.backends), others, excluded);
    }
    merged
}

fn same_port<'a>(service: &'a ServiceRecord, port: &ServicePort) -> Option<&'a ServicePort> {
    service.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol)
}

fn merge_backends(local: Vec<Backend>, remote: Vec<Backend>, excluded: &BTreeSet<ClusterId>) -> Vec<Backend> {
    let mut by_address = BTreeMap::new();
    for backend in local.into_iter().chain(remote) {
        by_address.entry((backend.address, backend.port)).or_insert(backend);
    }
    let takes_traffic = |b: &Backend| b.state != BackendState::NotReady && !excluded.contains(&b.cluster);
    let others_left = by_address.values().any(takes_traffic);
    by_address.into_values().filter(|b| !others_left || !excluded.contains(&b.cluster)).collect()
}

fn service(record: &Record) -> Option<&ServiceRecord> {
    match record {
        Record::Service(service) => Some(service),
        Record::Identity(_) | Record::Node(_) | Record::Endpoint(_) | Record::Policy(_) => None,
    }
}

#[cfg(test)]
mod tests;
