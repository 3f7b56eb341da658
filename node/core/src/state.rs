//! From records and local endpoints to all desired tables.
//!
//! Facts that stand for themselves (addresses, nodes, services) are in the tables as soon as they are known. What
//! follows from the absence of something (a pod is open because no policy selects it) is not, before the first full
//! sync: until then the policy tables are empty, nothing may be pruned, and what the maps hold from before stays in
//! force.

mod records;

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{AddressKey, AddressValue, Bitmap, EndpointValue, PolicyKey, PolicyValue, PrefixKey};
use tombolo_abi::{BackendKey, BackendValue, ServiceKey, ServiceValue, SlotKey, SlotValue};
use tombolo_model::{
    Address, ClusterId, EndpointRecord, Identity, IdentityRecord, NodeRecord, Policy, Prefix, Record, RecordKey,
    ServiceRecord,
};

pub use records::Records;

use crate::{
    addresses::{Addresses, Claimant, host_claim, local_claim, node_claim, pod_claim, prefixes},
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

/// The tables, in the order in which updates are written: what is pointed to before what points to it. Deletes go in
/// the reverse order, after all updates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TableId {
    /// WireGuard peers.
    Peer,
    /// Kernel routes.
    Route,
    /// `IDENTITY`.
    Identity,
    /// `PREFIX`.
    Prefix,
    /// `ADDRESS`.
    Address,
    /// `POLICY`.
    Policy,
    /// `ENDPOINT`.
    Endpoint,
    /// `BACKEND`.
    Backend,
    /// `BACKEND_SLOT`.
    Slot,
    /// `SERVICE`.
    Service,
}

impl TableId {
    /// All tables in order.
    pub const ALL: [Self; 10] = [
        Self::Peer,
        Self::Route,
        Self::Identity,
        Self::Prefix,
        Self::Address,
        Self::Policy,
        Self::Endpoint,
        Self::Backend,
        Self::Slot,
        Self::Service,
    ];
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
            nodes_stale: false,
            policies_stale: false,
        }
    }

    /// A session begins: the stream tells all records anew, then [`State::complete_sync`] is due. A session that
    /// breaks before leaves everything as it is.
    pub fn begin_sync(&mut self) {
        self.records.begin_sync();
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

    /// The stream has told all records: those it did not tell are gone, and from now on tables may be pruned.
    pub fn complete_sync(&mut self) {
        for key in self.records.complete_sync() {
            self.delete(&key);
        }
        if !self.synced {
            self.synced = true;
            self.policies_stale = true;
        }
    }

    /// Whether all records have been told once, so that what is not desired may be removed.
    pub const fn may_prune(&self) -> bool {
        self.synced
    }

    /// Adds a local endpoint and returns its number.
    pub fn add_endpoint(&mut self, wiring: Wiring) -> Result<u32, EndpointError> {
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
        TableId::ALL.into_iter().filter(|table| self.is_changed(*table)).collect()
    }

    /// Notes that `IDENTITY` and `POLICY` have been written as desired, which lets selector bits get new meanings;
    /// call [`State::refresh`] afterwards.
    pub fn settle_policies(&mut self) {
        if self.policies.bits().is_unsettled() && self.policies.settle(&self.records.identities) {
            self.policies_stale = true;
        }
    }

    /// Takes over the numbers of services and backends in pinned maps; to be called before the first change.
    pub fn adopt_services(
        &mut self,
        services: &BTreeMap<ServiceKey, ServiceValue>,
        slots: &BTreeMap<SlotKey, SlotValue>,
        backends: &BTreeMap<BackendKey, BackendValue>,
    ) {
        self.services.adopt(services, slots, backends);
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

    fn upsert_identity(&mut self, record: IdentityRecord) {
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

    fn upsert_node(&mut self, record: NodeRecord) {
        if record.cluster == self.own.cluster && record.name == self.own.name {
            let mut own = self.own.addresses.clone();
            own.extend(record.addresses.iter().filter(|address| !self.own.addresses.contains(address)));
            self.addresses.claim(host_claim(own));
        } else {
            self.addresses.claim(node_claim(self.own.cluster, &record));
        }
        self.records.nodes.insert((record.cluster, record.name.clone()), record);
        self.nodes_stale = true;
    }

    fn upsert_endpoint(&mut self, record: EndpointRecord) {
        self.addresses.claim(pod_claim(self.own.cluster, &record));
        if record.cluster == self.own.cluster && record.node == self.own.name {
            self.relabel(&record);
        }
        let key = (record.cluster, record.namespace.clone(), record.name.clone());
        self.records.endpoints.insert(key, record);
    }

    /// A local pod's labels may have changed, and with them its identity.
    fn relabel(&mut self, record: &EndpointRecord) {
        let Some(id) = self.endpoints.iter().find(|e| e.wiring.pod.is_of(record)).map(|e| e.id) else { return };
        if self.endpoints.set_identity(id, record.identity)
            && let Some(endpoint) = self.endpoints.get(id)
        {
            self.addresses.claim(local_claim(endpoint));
            self.policies_stale = true;
        }
    }

    fn upsert_service(&mut self, record: ServiceRecord) {
        let name = (record.cluster, record.namespace.clone(), record.name.clone());
        self.services.apply(self.own.cluster, &name, Some(&record));
        self.records.services.insert(name, record);
    }

    fn upsert_policy(&mut self, record: Policy) {
        self.policies_stale |= self.records.policies.get(&record.key) != Some(&record);
        self.records.policies.insert(record.key.clone(), record);
    }

    fn delete(&mut self, key: &RecordKey) {
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
                if is_own {
                    self.addresses.claim(host_claim(self.own.addresses.clone()));
                } else {
                    self.addresses.withdraw(&Claimant::node(self.own.cluster, *cluster, name));
                }
                self.nodes_stale |= self.records.nodes.remove(&(*cluster, name.clone())).is_some();
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

    fn compute_nodes(&mut self) {
        self.node_problems.clear();
        let problems = &mut self.node_problems;
        let sites = sites(self.own.cluster, self.records.nodes.values(), problems);
        self.prefixes.replace(prefixes(&sites));
        self.routes.replace(routes(&self.own.name, &sites, problems));
        self.peers.replace(peers(&self.own.name, &sites, problems));
    }

    fn is_changed(&self, table: TableId) -> bool {
        match table {
            TableId::Peer => self.peers.is_changed(),
            TableId::Route => self.routes.is_changed(),
            TableId::Identity => self.policies.identity.is_changed(),
            TableId::Prefix => self.prefixes.is_changed(),
            TableId::Address => self.addresses.table.is_changed(),
            TableId::Policy => self.policies.policy.is_changed(),
            TableId::Endpoint => self.policies.endpoint.is_changed(),
            TableId::Backend => self.services.backend.is_changed(),
            TableId::Slot => self.services.slot.is_changed(),
            TableId::Service => self.services.service.is_changed(),
        }
    }
}

/// The tables. They are mutable for [`Table::take_changed`] only.
impl State {
    /// WireGuard peers by public key.
    pub const fn peers(&mut self) -> &mut Table<PublicKey, TunnelPeer> {
        &mut self.peers
    }

    /// Kernel routes by destination.
    pub const fn routes(&mut self) -> &mut Table<Prefix, NextHop> {
        &mut self.routes
    }

    /// `IDENTITY`.
    pub const fn identity(&mut self) -> &mut Table<u32, Bitmap> {
        &mut self.policies.identity
    }

    /// `PREFIX`.
    pub const fn prefix(&mut self) -> &mut Table<PrefixKey, AddressValue> {
        &mut self.prefixes
    }

    /// `ADDRESS`.
    pub const fn address(&mut self) -> &mut Table<AddressKey, AddressValue> {
        &mut self.addresses.table
    }

    /// `POLICY`.
    pub const fn policy(&mut self) -> &mut Table<PolicyKey, PolicyValue> {
        &mut self.policies.policy
    }

    /// `ENDPOINT`.
    pub const fn endpoint(&mut self) -> &mut Table<AddressKey, EndpointValue> {
        &mut self.policies.endpoint
    }

    /// `BACKEND`.
    pub const fn backend(&mut self) -> &mut Table<BackendKey, BackendValue> {
        &mut self.services.backend
    }

    /// `BACKEND_SLOT`.
    pub const fn slot(&mut self) -> &mut Table<SlotKey, SlotValue> {
        &mut self.services.slot
    }

    /// `SERVICE`.
    pub const fn service(&mut self) -> &mut Table<ServiceKey, ServiceValue> {
        &mut self.services.service
    }
}
