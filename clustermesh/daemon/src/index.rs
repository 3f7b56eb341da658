//! The cluster as records: a synchronous index from Kubernetes objects to what nodes and other clusters are told.
//!
//! ```text
//! Namespace ─┐
//! Pod ───────┼─► Labels ─► MeshIdentity ─► IdentityRecord
//!            └─► EndpointRecord ◄── address reported by the node
//! Node ────────► NodeRecord ◄────── tunnel key reported by the node, until then that of its MeshNode
//! EndpointSlice ─► ServiceRecord ◄─ Service
//! NetworkPolicy, MeshNetworkPolicy ─► Policy ◄─ named ports of Pods
//! ```
//!
//! An object is put in by [`Index::apply`] or taken out by [`Index::delete`]; [`Index::take`] then gives everything
//! that changed as one transaction. Objects may come in any order: what lacks something waits until it is there.

mod identity;
mod labels;
mod node;
mod pod;
mod policy;
mod selector;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tombolo_api::MeshNodeSpec;
use tombolo_mesh_core::replication::Change;
use tombolo_model::{ClusterId, ClusterName, Labels, PolicyKey, Record, RecordKey, TunnelKey};

pub use self::policy::PolicyFinding;
use crate::allocator::Allocator;

/// Namespace and name; the namespace is empty for what is in none.
pub type ObjectName = (String, String);

/// Changes that belong together: first what is new, in the order of [`tombolo_model::Kind`], then what is gone,
/// in the reverse order. So an endpoint never names an identity that is not there.
pub type Transaction = Vec<Change>;

/// A kind of Kubernetes object that the index reads.
pub trait Indexed: Sized {
    /// Puts the object in, in place of one of the same name.
    fn apply(self, index: &mut Index);
    /// Takes the object of this name out.
    fn delete(name: &ObjectName, index: &mut Index);
    /// The names of all objects of this kind that are in.
    fn names(index: &Index) -> Vec<ObjectName>;
    /// The metadata of the object.
    fn meta(&self) -> &ObjectMeta;
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    cluster: ClusterName,
    id: ClusterId,
    allocator: Allocator,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<ObjectName, pod::Entry>,
    /// The pods of each set of labels.
    users: BTreeMap<Labels, BTreeSet<ObjectName>>,
    /// Sets of labels in use that have no MeshIdentity.
    wanted: BTreeSet<Labels>,
    reported: BTreeMap<ObjectName, node::Reported>,
    nodes: BTreeMap<String, node::Entry>,
    /// As the nodes report them.
    tunnels: BTreeMap<String, Option<TunnelKey>>,
    /// What the MeshNode objects say.
    kept: BTreeMap<String, MeshNodeSpec>,
    /// Whether a node, its report or its MeshNode has changed.
    nodes_changed: bool,
    services: BTreeMap<ObjectName, service::Entry>,
    slices: BTreeMap<ObjectName, service::Slice>,
    policies: BTreeMap<PolicyKey, policy::Entry>,
    /// Labels that are no part of identities but for a policy that selects by them.
    selected: BTreeSet<String>,
    findings: BTreeMap<PolicyKey, PolicyFinding>,
    published: BTreeMap<RecordKey, Arc<Record>>,
    changed: BTreeMap<RecordKey, Option<Arc<Record>>>,
}

impl Index {
    /// An empty index of the cluster with this name and id.
    pub fn new(cluster: ClusterName, id: ClusterId) -> Self {
        Self {
            cluster,
            id,
            allocator: Allocator::new(id),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            users: BTreeMap::new(),
            wanted: BTreeSet::new(),
            reported: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            kept: BTreeMap::new(),
            nodes_changed: false,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            policies: BTreeMap::new(),
            selected: BTreeSet::new(),
            findings: BTreeMap::new(),
            published: BTreeMap::new(),
            changed: BTreeMap::new(),
        }
    }

    /// Puts an object in, in place of one of the same name.
    pub fn apply<K: Indexed>(&mut self, object: K) {
        object.apply(self);
    }

    /// Takes an object out.
    pub fn delete<K: Indexed>(&mut self, object: &K) {
        K::delete(&object_name(object.meta()), self);
    }

    /// Puts these objects in and takes all others of the kind out: a fresh list of the API server.
    pub fn replace<K: Indexed>(&mut self, objects: Vec<K>) {
        let kept: BTreeSet<_> = objects.iter().map(|o| object_name(o.meta())).collect();
        for name in K::names(self).iter().filter(|name| !kept.contains(*name)) {
            K::delete(name, self);
        }
        for object in objects {
            object.apply(self);
        }
    }

    /// Everything that changed since the last call.
    pub fn take(&mut self) -> Transaction {
        let changed = std::mem::take(&mut self.changed);
        let mut deletes = Vec::new();
        let mut transaction = Vec::new();
        for (key, record) in changed {
            match record {
                Some(record) => transaction.push(Change::Upsert(record)),
                None => deletes.push(Change::Remove(key)),
            }
        }
        transaction.extend(deletes.into_iter().rev());
        transaction
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.published.values().map(Arc::as_ref)
    }

    /// What there is to say about policies that were put in or changed since the last call.
    pub fn take_findings(&mut self) -> Vec<PolicyFinding> {
        std::mem::take(&mut self.findings).into_values().collect()
    }

    /// Makes `record` the one of `key`.
    fn publish(&mut self, key: RecordKey, record: Option<Record>) {
        if self.published.get(&key).map(Arc::as_ref) == record.as_ref() {
            return;
        }
        let record = record.map(Arc::new);
        match &record {
            Some(record) => self.published.insert(key.clone(), record.clone()),
            None => self.published.remove(&key),
        };
        self.changed.insert(key, record);
    }
}

/// Namespace and name of an object.
pub fn object_name(meta: &ObjectMeta) -> ObjectName {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
