//! What must hold, whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tombolo_mesh_core::replication::{Change, Delta, Receiver};
use tombolo_model::{Address, ClusterId, Record, RecordKey};

use super::origin::{Origin, PERMANENT};
use crate::Violation;

type Origins = BTreeMap<ClusterId, Origin>;

/// What a node knows.
#[derive(Default)]
pub(super) struct View {
    records: BTreeMap<RecordKey, Arc<Record>>,
}

impl View {
    /// Takes a delta as a whole, and looks at what a packet could meet now.
    pub(super) fn apply(&mut self, delta: &Delta, origins: &Origins) -> Result<(), Violation> {
        for change in &delta.changes {
            match change {
                Change::Upsert(record) => drop(self.records.insert(record.key(), record.clone())),
                Change::Remove(key) => {
                    self.records.remove(key);
                    kept(key, origins)?;
                }
            }
        }
        for change in &delta.changes {
            if let Change::Upsert(record) = change {
                genuine(record, origins)?;
            }
        }
        for (key, record) in &self.records {
            // A pod that is gone sends nothing.
            if let Record::Endpoint(endpoint) = &**record
                && !self.records.contains_key(&RecordKey::Identity(endpoint.identity))
                && honest(endpoint.cluster, origins).is_some_and(|o| o.truth.get(key) == Some(&**record))
            {
                return Err(Violation(format!("a node knows {endpoint:?} without its identity")));
            }
        }
        Ok(())
    }
}

/// All that is held of a cluster is about that cluster. Not by the code that admits it.
pub(super) fn contained(receiver: &Receiver, of: &Origin) -> Result<(), Violation> {
    let inside = |record: &Record| match record {
        Record::Identity(identity) => identity.id.cluster() == Some(of.id),
        Record::Endpoint(endpoint) => {
            endpoint.cluster == of.id
                && endpoint.identity.cluster() == Some(of.id)
                && endpoint.addresses.iter().all(|address| of.owns(*address))
        }
        Record::Service(service) => {
            let mut backends = service.ports.iter().flat_map(|port| &port.backends);
            service.cluster == of.id && backends.all(|b| b.cluster == of.id && of.owns(b.address))
        }
        Record::Node(node) => node.cluster == of.id,
        Record::Policy(_) => false,
    };
    match receiver.records().values().find(|record| !inside(record)) {
        Some(record) => Err(Violation(format!("cluster {} is believed {record:?}", of.id))),
        None => Ok(()),
    }
}

/// On a healed mesh everybody knows what exists, and nothing else.
pub(super) fn settled<'a>(
    own: &Origin,
    view: &View,
    heard: impl Fn(ClusterId) -> Option<&'a Receiver>,
    origins: &Origins,
) -> Result<(), Violation> {
    for origin in origins.values().filter(|origin| !origin.hostile) {
        let is_about =
            |key: &&RecordKey| key.cluster() == Some(origin.id) && !matches!(key, RecordKey::Service(..));
        let known: BTreeMap<_, _> =
            view.records.iter().filter(|(key, _)| is_about(key)).map(|(k, r)| (k, &**r)).collect();
        let exists: BTreeMap<_, _> = origin.truth.iter().filter(|(key, _)| is_about(key)).collect();
        if known != exists {
            return Err(Violation(format!(
                "a node of cluster {} knows {known:?} of cluster {}, where there is {exists:?}",
                own.id, origin.id
            )));
        }
        let Some(receiver) = heard(origin.id) else { continue };
        let shared: BTreeSet<&RecordKey> =
            origin.truth.iter().filter(|(_, r)| is_shared(r)).map(|(k, _)| k).collect();
        if !receiver.records().keys().eq(shared) {
            return Err(Violation(format!("cluster {} did not hear all of cluster {}", own.id, origin.id)));
        }
    }
    for (key, record) in own.truth.iter().filter(|(key, _)| matches!(key, RecordKey::Service(..))) {
        let known = view.records.get(key).map(|record| backends(record, origins)).unwrap_or_default();
        let all = origins.values().filter(|origin| !origin.hostile || origin.id == own.id);
        let theirs = all.filter_map(|origin| namesake(key, origin)).filter(|service| is_shared(service));
        let exists: BTreeSet<_> =
            theirs.chain([record]).flat_map(|service| backends(service, origins)).collect();
        if known != exists {
            return Err(Violation(format!("a node has {known:?} behind {key:?}, where there is {exists:?}")));
        }
    }
    Ok(())
}

/// What always exists is never dropped.
fn kept(key: &RecordKey, origins: &Origins) -> Result<(), Violation> {
    let RecordKey::Endpoint(cluster, _, name) = key else { return Ok(()) };
    let permanent = (0..PERMANENT).any(|pod| *name == format!("pod-{pod}"));
    if permanent && honest(*cluster, origins).is_some() {
        return Err(Violation(format!("a node has dropped {key:?}, which exists")));
    }
    Ok(())
}

/// Nothing is visible of an honest cluster that it has not said itself.
fn genuine(record: &Arc<Record>, origins: &Origins) -> Result<(), Violation> {
    if let Record::Service(service) = &**record {
        let mut backends = service.ports.iter().flat_map(|port| &port.backends);
        let foreign = backends.find(|b| origins.get(&b.cluster).is_none_or(|origin| !origin.owns(b.address)));
        return match foreign {
            Some(backend) => Err(Violation(format!("{:?} has the backend {backend:?}", record.key()))),
            None => Ok(()),
        };
    }
    let Some(origin) = record.cluster().and_then(|id| honest(id, origins)) else { return Ok(()) };
    if origin.has_said(record) {
        return Ok(());
    }
    Err(Violation(format!("a node believes {record:?}, which cluster {} never said", origin.id)))
}

fn honest(id: ClusterId, origins: &Origins) -> Option<&Origin> {
    origins.get(&id).filter(|origin| !origin.hostile)
}

fn namesake<'a>(key: &RecordKey, origin: &'a Origin) -> Option<&'a Record> {
    let RecordKey::Service(_, namespace, name) = key else { return None };
    origin.truth.get(&RecordKey::Service(origin.id, namespace.clone(), name.clone()))
}

fn is_shared(record: &Record) -> bool {
    !matches!(record, Record::Service(service) if !service.shared)
}

/// Addresses behind a service, but for those of hostile clusters.
fn backends(record: &Record, origins: &Origins) -> BTreeSet<Address> {
    let Record::Service(service) = record else { return BTreeSet::new() };
    let all = service.ports.iter().flat_map(|port| &port.backends);
    all.filter(|b| honest(b.cluster, origins).is_some()).map(|b| b.address).collect()
}
