//! What each kind of record changes.

use tombolo_model::{EndpointRecord, Identity, IdentityRecord, NodeRecord, Policy, RecordKey, ServiceRecord};

use super::State;
use crate::addresses::{Claimant, host_claim, local_claim, node_claim, pod_claim};

impl State {
    pub(super) fn upsert_identity(&mut self, record: IdentityRecord) {
        // Reserved identities have no labels, whatever anybody says.
        if record.id.cluster().is_none() || self.records.identities.get(&record.id) == Some(&record.labels) {
            return;
        }
        if self.synced && self.policies.set_identity(record.id, Some(&record.labels)) {
            self.policies_stale = true;
        }
        self.policies_stale |= self.is_local_identity(record.id);
        self.records.identities.insert(record.id, record.labels);
    }

    pub(super) fn upsert_node(&mut self, record: NodeRecord) {
        let is_own = record.cluster == self.own.cluster && record.name == self.own.name;
        if !is_own {
            self.addresses.claim(node_claim(self.own.cluster, &record));
        }
        self.records.nodes.insert((record.cluster, record.name.clone()), record);
        if is_own {
            self.claim_host();
        }
        self.nodes_stale = true;
    }

    /// This node has the addresses that it sees, and those that its record says.
    pub(super) fn claim_host(&mut self) {
        let mut own = self.own.addresses.clone();
        let of_record = self.own_node().into_iter().flat_map(|record| &record.addresses);
        own.extend(of_record.filter(|address| !self.own.addresses.contains(address)));
        self.addresses.claim(host_claim(own));
    }

    pub(super) fn upsert_endpoint(&mut self, record: EndpointRecord) {
        self.addresses.claim(pod_claim(self.own.cluster, &record));
        if record.cluster == self.own.cluster && record.node == self.own.name {
            self.relabel(&record);
        }
        // Of other clusters' pods nothing else is needed, and there may be many.
        if record.cluster == self.own.cluster {
            let key = (record.cluster, record.namespace.clone(), record.name.clone());
            self.records.endpoints.insert(key, record);
        }
    }

    /// A local pod's labels may have changed, and with them its identity.
    fn relabel(&mut self, record: &EndpointRecord) {
        let Some(id) = self.endpoints.iter().find(|e| e.wiring.pod.is_of(record)).map(|e| e.id) else {
            return;
        };
        if self.endpoints.set_identity(id, record.identity)
            && let Some(endpoint) = self.endpoints.get(id)
        {
            self.addresses.claim(local_claim(endpoint));
            self.policies_stale = true;
        }
    }

    pub(super) fn upsert_service(&mut self, record: ServiceRecord) {
        let name = (record.cluster, record.namespace.clone(), record.name.clone());
        self.services.apply(self.own.cluster, &name, Some(&record));
        self.records.services.insert(name, record);
    }

    pub(super) fn upsert_policy(&mut self, record: Policy) {
        self.policies_stale |= self.records.policies.get(&record.key) != Some(&record);
        self.records.policies.insert(record.key.clone(), record);
    }

    pub(super) fn delete(&mut self, key: &RecordKey) {
        self.records.note_seen(key);
        match key {
            RecordKey::Identity(id) => {
                if self.records.identities.remove(id).is_some() {
                    self.policies.set_identity(*id, None);
                    self.policies_stale |= self.is_local_identity(*id);
                }
            }
            RecordKey::Node(cluster, name) => {
                let is_own = *cluster == self.own.cluster && *name == self.own.name;
                self.nodes_stale |= self.records.nodes.remove(&(*cluster, name.clone())).is_some();
                if is_own {
                    self.claim_host();
                } else {
                    self.addresses.withdraw(&Claimant::node(self.own.cluster, *cluster, name));
                }
            }
            RecordKey::Endpoint(cluster, namespace, name) => {
                self.addresses.withdraw(&Claimant::pod(self.own.cluster, *cluster, namespace, name));
                self.records.endpoints.remove(&(*cluster, namespace.clone(), name.clone()));
            }
            RecordKey::Service(cluster, namespace, name) => {
                let name = (*cluster, namespace.clone(), name.clone());
                self.services.apply(self.own.cluster, &name, None);
                self.records.services.remove(&name);
            }
            RecordKey::Policy(key) => self.policies_stale |= self.records.policies.remove(key).is_some(),
        }
    }

    fn is_local_identity(&self, id: Identity) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.wiring.identity == id)
    }
}
