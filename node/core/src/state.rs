//! From records and local endpoints to all desired tables.
//!
//! Facts that stand for themselves (addresses, nodes, services) are in the tables as soon as they are known. What
//! follows from the absence of something (a pod is open because no policy selects it) is not, before the first full
//! sync: until then the policy tables are empty, nothing may be pruned, and what the maps hold from before stays in
//! force.
//!
//! A shell applies changes, calls [`State::refresh`], and hands the changed keys of each table to a
//! [`Reconciler`](crate::reconcile::Reconciler). It writes the updates of all tables in the order of
//! [`TableId::ALL`], then, if [`State::may_prune`], the deletes in the reverse order. When the reconcilers of
//! `IDENTITY` and `POLICY` have settled, it calls [`State::settle_policies`] and begins again.

mod changes;
mod records;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{
    AddressValue, BackendKey, BackendValue, PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue,
};
use tombolo_model::{Address, ClusterId, EndpointRecord, Identity, NodeRecord, Prefix, Record, RecordKey};

pub use records::Records;
pub use tables::TableId;

use crate::{
    addresses::{Addresses, Claimant, host_claim, local_claim, prefixes},
    endpoints::{AttachmentId, EndpointError, Endpoints, LocalEndpoint, PodRef, Wiring},
    policy::{PolicyTables, SelectorBits},
    problem::Problem,
    routes::{NextHop, routes},
    services::Services,
    table::Table,
    topology::sites,
    tunnel::{PublicKey, TunnelPeer, peers},
};

/// A change of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The record is new or different.
    Upsert(Record),
    /// There is no such record any more.
    Delete(RecordKey),
}

/// Who this node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnNode {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Addresses it has besides those of its record: other interfaces, and the gateway addresses of its pods.
    pub addresses: Vec<Address>,
}

/// Everything a node knows, and the tables that follow from it.
#[derive(Debug)]
pub struct State {
    own: OwnNode,
    records: Records,
    endpoints: Endpoints,
    addresses: Addresses,
    policies: PolicyTables,
    services: Services,
    prefixes: Table<PrefixKey, AddressValue>,
    routes: Table<Prefix, NextHop>,
    peers: Table<PublicKey, TunnelPeer>,
    node_problems: BTreeSet<Problem>,
    synced: bool,
    prunable: bool,
    nodes_stale: bool,
    policies_stale: bool,
}

impl State {
    /// The state of a node that has these endpoints and, in its pinned maps, this assignment of selector bits.
    pub fn new(own: OwnNode, endpoints: Endpoints, bits: SelectorBits) -> Self {
        let mut addresses = Addresses::default();
        addresses.claim(host_claim(own.addresses.clone()));
        for endpoint in endpoints.iter() {
            addresses.claim(local_claim(endpoint));
        }
        Self {
            own,
            records: Records::default(),
            endpoints,
            addresses,
            policies: PolicyTables::new(bits),
            services: Services::default(),
            prefixes: Table::default(),
            routes: Table::default(),
            peers: Table::default(),
            node_problems: BTreeSet::new(),
            synced: false,
            prunable: false,
            nodes_stale: false,
            policies_stale: false,
        }
    }

    /// A session begins: the stream tells all records anew, then [`State::complete_sync`] is due. A session that
    /// breaks before leaves everything as it is.
    pub fn begin_sync(&mut self) {
        let foreign = self.addresses.foreign_pods();
        let foreign = foreign.map(|(cluster, namespace, name)| {
            RecordKey::Endpoint(cluster, namespace.to_owned(), name.to_owned())
        });
        self.records.begin_sync(foreign);
    }

    /// Takes one change from the stream.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Upsert(record) => {
                self.records.note_seen(&record.key());
                match record {
                    Record::Identity(record) => self.upsert_identity(record),
                    Record::Node(record) => self.upsert_node(record),
                    Record::Endpoint(record) => self.upsert_endpoint(record),
                    Record::Service(record) => self.upsert_service(record),
                    Record::Policy(record) => self.upsert_policy(record),
                }
            }
            Change::Delete(key) => self.delete(&key),
        }
    }

    /// The stream has told all records: those it did not tell are gone, and from the next refresh on tables may be
    /// pruned.
    pub fn complete_sync(&mut self) {
        for key in self.records.complete_sync() {
            self.delete(&key);
        }
        if !self.synced {
            self.synced = true;
            self.policies_stale = true;
        }
    }

    /// Whether all records have been told once and are in the tables, so that what is not desired may be removed.
    pub const fn may_prune(&self) -> bool {
        self.prunable
    }

    /// Adds a local endpoint and returns its number. It has the identity that the pod's record says, if there is one.
    pub fn add_endpoint(&mut self, mut wiring: Wiring) -> Result<u32, EndpointError> {
        if let Some(record) = self.pod(&wiring.pod).filter(|record| record.node == self.own.name) {
            wiring.identity = record.identity;
        }
        let endpoint = self.endpoints.insert(wiring)?;
        self.addresses.claim(local_claim(endpoint));
        self.policies_stale = true;
        Ok(endpoint.id)
    }

    /// Removes a local endpoint; none when there is none.
    pub fn remove_endpoint(&mut self, attachment: &AttachmentId) -> Option<LocalEndpoint> {
        let endpoint = self.endpoints.remove(attachment)?;
        self.addresses.withdraw(&Claimant::Local(endpoint.id));
        self.policies_stale = true;
        Some(endpoint)
    }

    /// Brings the tables up to date with everything applied since; the tables with changed keys, in order.
    pub fn refresh(&mut self) -> Vec<TableId> {
        if std::mem::take(&mut self.nodes_stale) {
            self.compute_nodes();
        }
        if self.synced && std::mem::take(&mut self.policies_stale) {
            self.policies.compute(&self.records.policies, &self.records.identities, &self.endpoints);
        }
        self.prunable = self.synced;
        TableId::ALL.into_iter().filter(|table| self.is_changed(*table)).collect()
    }

    /// Notes that `IDENTITY` and `POLICY` have been written as desired, which lets selector bits get new meanings;
    /// call [`State::refresh`] afterwards. Does nothing while either has changed keys that nobody took.
    pub fn settle_policies(&mut self) {
        if self.policies.identity.is_changed() || self.policies.policy.is_changed() {
            return;
        }
        if self.policies.bits().is_unsettled() && self.policies.settle(&self.records.identities) {
            self.policies_stale = true;
        }
    }

    /// The node has these addresses now besides those of its record, in place of the former ones.
    pub fn set_host_addresses(&mut self, addresses: Vec<Address>) {
        self.own.addresses = addresses;
        self.claim_host();
    }

    /// Takes over the numbers of services and backends in pinned maps, `remembered` being the largest that connections and
    /// sockets know; to be called before the first change.
    pub fn adopt_services(
        &mut self,
        services: &BTreeMap<ServiceKey, ServiceValue>,
        slots: &BTreeMap<SlotKey, SlotValue>,
        backends: &BTreeMap<BackendKey, BackendValue>,
        remembered: u32,
    ) {
        self.services.adopt(services, slots, backends, remembered);
    }

    /// The largest number of an endpoint that connections in pinned maps know; to be called before the first endpoint is added.
    pub fn adopt_endpoint_numbers(&mut self, remembered: u32) {
        self.endpoints.skip_numbers(remembered);
    }

    /// Who this node is.
    pub const fn own(&self) -> &OwnNode {
        &self.own
    }

    /// The record of this very pod of the own cluster.
    pub fn pod(&self, pod: &PodRef) -> Option<&EndpointRecord> {
        let key = (self.own.cluster, pod.namespace.clone(), pod.name.clone());
        self.records.endpoints.get(&key).filter(|record| pod.is_of(record))
    }

    /// This node's own record.
    pub fn own_node(&self) -> Option<&NodeRecord> {
        self.records.nodes.get(&(self.own.cluster, self.own.name.clone()))
    }

    /// All records.
    pub const fn records(&self) -> &Records {
        &self.records
    }

    /// How many pods of other clusters are known.
    pub fn foreign_pods(&self) -> usize {
        self.addresses.foreign_pods().count()
    }

    /// The pods of other clusters as far as they are kept: without UID and node.
    pub fn foreign_endpoints(&self) -> impl Iterator<Item = EndpointRecord> {
        self.addresses.foreign_pods().filter_map(|(cluster, namespace, name)| {
            let claim = self.addresses.claimed(&Claimant::pod(self.own.cluster, cluster, namespace, name))?;
            Some(EndpointRecord {
                cluster,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: String::new(),
                node: String::new(),
                addresses: claim.addresses,
                identity: Identity::from_bits(claim.value.identity()),
            })
        })
    }

    /// The local endpoints, to be stored when they change.
    pub const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The assignment of selector bits, to be stored before the policy tables are written.
    pub const fn selector_bits(&self) -> &SelectorBits {
        self.policies.bits()
    }

    /// What could not be done as asked.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.policies.problems.iter().chain(&self.node_problems)
    }

    fn compute_nodes(&mut self) {
        self.node_problems.clear();
        let problems = &mut self.node_problems;
        let sites = sites(self.own.cluster, self.records.nodes.values(), problems);
        self.prefixes.replace(prefixes(&sites));
        self.routes.replace(routes(&self.own.name, &sites, problems));
        self.peers.replace(peers(&self.own.name, &sites, problems));
    }
}

#[cfg(test)]
mod tests;
