//! The records a node was told, and which of them a new session has not told again yet.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::{
    ClusterId, EndpointRecord, Identity, Labels, NodeRecord, Policy, PolicyKey, RecordKey, ServiceRecord,
};

use crate::services::ServiceName;

/// All records by kind.
#[derive(Debug, Default)]
pub struct Records {
    pub(super) identities: BTreeMap<Identity, Labels>,
    pub(super) nodes: BTreeMap<(ClusterId, String), NodeRecord>,
    pub(super) endpoints: BTreeMap<(ClusterId, String, String), EndpointRecord>,
    pub(super) services: BTreeMap<ServiceName, ServiceRecord>,
    pub(super) policies: BTreeMap<PolicyKey, Policy>,
    /// During a sync, what has not been told again.
    unseen: Option<BTreeSet<RecordKey>>,
}

impl Records {
    /// Identities and their labels.
    pub const fn identities(&self) -> &BTreeMap<Identity, Labels> {
        &self.identities
    }

    /// Nodes by cluster and name.
    pub const fn nodes(&self) -> &BTreeMap<(ClusterId, String), NodeRecord> {
        &self.nodes
    }

    /// Pods of the own cluster, by cluster, namespace and name.
    pub const fn endpoints(&self) -> &BTreeMap<(ClusterId, String, String), EndpointRecord> {
        &self.endpoints
    }

    /// Services by cluster, namespace and name.
    pub const fn services(&self) -> &BTreeMap<ServiceName, ServiceRecord> {
        &self.services
    }

    /// Policies.
    pub const fn policies(&self) -> &BTreeMap<PolicyKey, Policy> {
        &self.policies
    }

    /// `others` are records that are kept elsewhere.
    pub(super) fn begin_sync(&mut self, others: impl Iterator<Item = RecordKey>) {
        self.unseen = Some(self.keys().chain(others).collect());
    }

    pub(super) fn note_seen(&mut self, key: &RecordKey) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
    }

    /// What the stream did not tell again.
    pub(super) fn complete_sync(&mut self) -> BTreeSet<RecordKey> {
        self.unseen.take().unwrap_or_default()
    }

    fn keys(&self) -> impl Iterator<Item = RecordKey> {
        let identities = self.identities.keys().map(|id| RecordKey::Identity(*id));
        let nodes = self.nodes.keys().map(|(c, n)| RecordKey::Node(*c, n.clone()));
        let endpoints =
            self.endpoints.keys().map(|(c, ns, n)| RecordKey::Endpoint(*c, ns.clone(), n.clone()));
        let services = self.services.keys().map(|(c, ns, n)| RecordKey::Service(*c, ns.clone(), n.clone()));
        let policies = self.policies.keys().map(|key| RecordKey::Policy(key.clone()));
        identities.chain(nodes).chain(endpoints).chain(services).chain(policies)
    }
}
