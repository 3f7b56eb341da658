//! A cluster: what exists in it, and its daemon.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, rngs::StdRng};
use tombolo_mesh_core::replication::{Admission, Change, Containment, Exporter};
use tombolo_model::{
    Affinity, Backend, BackendState, ClusterId, ClusterName, EndpointRecord, Identity, IdentityRecord, Kind,
    Labels, Protocol, Record, RecordKey, ServicePort, ServiceRecord, label,
};

use super::upsert;
use crate::{Mutant, Violation};

/// Pods there can be in a cluster; the first ones are never removed.
const PODS: u8 = 16;
pub(super) const PERMANENT: u8 = 3;
const VERSIONS: u8 = 4;
const SERVICES: u8 = 3;
/// Removals that an exporter remembers: few, so that some are missed.
const HISTORY: usize = 12;

/// See the module.
pub(super) struct Origin {
    pub(super) id: ClusterId,
    pub(super) name: ClusterName,
    /// It may say anything.
    pub(super) hostile: bool,
    /// It does so now.
    pub(super) hostile_speaks: bool,
    /// What exists.
    pub(super) truth: BTreeMap<RecordKey, Record>,
    /// All that ever existed, in that order.
    ever: BTreeMap<RecordKey, Vec<Record>>,
    pub(super) exporter: Exporter,
    /// Clusters of which the daemon has heard everything once.
    pub(super) complete_peers: BTreeSet<ClusterId>,
    epoch: u64,
    /// How often each pod was made: no two are the same.
    births: BTreeMap<u8, u32>,
    /// What a new daemon has not read yet.
    unread: BTreeSet<RecordKey>,
    /// What a broken daemon tells with the next change.
    late: Vec<Change>,
}

impl Origin {
    pub(super) fn new(number: u16, hostile: bool, mutant: Option<Mutant>) -> Result<Self, Violation> {
        let bad = |error: &dyn std::fmt::Display| Violation(format!("workload: {error}"));
        let id = ClusterId::try_from(number).map_err(|e| bad(&e))?;
        let name = format!("c{number}").parse().map_err(|e| bad(&e))?;
        let epoch = u64::from(number) << 32;
        let mut origin = Self {
            id,
            name,
            hostile,
            hostile_speaks: hostile,
            truth: BTreeMap::new(),
            ever: BTreeMap::new(),
            exporter: Exporter::new(id, epoch, HISTORY),
            complete_peers: BTreeSet::new(),
            epoch,
            births: BTreeMap::new(),
            unread: BTreeSet::new(),
            late: Vec::new(),
        };
        for pod in 0..PERMANENT {
            let changes = origin.pod(pod, 1);
            origin.apply(changes, mutant)?;
        }
        Ok(origin)
    }

    /// What others may admit from it.
    pub(super) fn admission(&self, mutant: Option<Mutant>) -> Admission {
        let ranges = |text: String| text.parse().into_iter().collect();
        let mut containment = Containment {
            cluster: self.id,
            name: self.name.clone(),
            node_prefixes: ranges(format!("172.16.{}.0/24", self.id)),
            pod_prefixes: ranges(format!("10.{}.0.0/16", self.id)),
        };
        match mutant {
            Some(Mutant::NoAdmission) => return Admission::All,
            Some(Mutant::ForeignAddresses) => containment.pod_prefixes = ranges("0.0.0.0/0".to_owned()),
            _ => {}
        }
        Admission::Peer(containment)
    }

    /// Whether an address is one of its pods.
    pub(super) fn owns(&self, address: tombolo_model::Address) -> bool {
        matches!(address.to_ip(), std::net::IpAddr::V4(ip) if ip.octets()[..2] == [10, self.octet()])
    }

    /// Something happens in the cluster.
    pub(super) fn change(&mut self, random: &mut StdRng, mutant: Option<Mutant>) -> Result<(), Violation> {
        let changes = if random.random_bool(0.3) {
            let hosts: Vec<u8> = (0..PODS).filter(|_| random.random_bool(0.2)).collect();
            vec![upsert(self.service(random.random_range(0..SERVICES), &hosts, random.random_bool(0.9)))]
        } else {
            let (pod, version) = (random.random_range(0..PODS), random.random_range(0..VERSIONS));
            self.pod(pod, version)
        };
        self.apply(changes, mutant)
    }

    /// A new daemon reads so many records, pods with their identities.
    pub(super) fn read(&mut self, count: usize, mutant: Option<Mutant>) -> Result<(), Violation> {
        for _ in 0..count {
            let Some(key) = self.unread.pop_first() else { break };
            let Some(record) = self.truth.get(&key).cloned() else { continue };
            let mut changes = Vec::new();
            if let Record::Endpoint(endpoint) = &record {
                let identity = self.truth.get(&RecordKey::Identity(endpoint.identity)).cloned();
                changes.extend(identity.map(upsert));
            }
            changes.push(upsert(record));
            self.export(changes, mutant)?;
        }
        Ok(())
    }

    /// Whether a record ever was what its key stands for.
    pub(super) fn has_said(&self, record: &Record) -> bool {
        self.ever.get(&record.key()).is_some_and(|all| all.iter().rev().any(|said| said == record))
    }

    /// Whether its daemon knows all that exists.
    pub(super) fn is_read(&self) -> bool {
        self.unread.is_empty()
    }

    /// Another daemon begins.
    pub(super) fn restart(&mut self, mutant: Option<Mutant>) {
        if mutant != Some(Mutant::EpochReused) {
            self.epoch += 1;
        }
        self.exporter = Exporter::new(self.id, self.epoch, HISTORY);
        self.complete_peers.clear();
        self.unread = self.truth.keys().cloned().collect();
    }

    /// A pod with its identity, or their end.
    fn pod(&mut self, pod: u8, version: u8) -> Vec<Change> {
        if !self.truth.contains_key(&self.endpoint(pod, version).key()) {
            *self.births.entry(pod).or_default() += 1;
        }
        let endpoint = self.endpoint(pod, version);
        let old = match self.truth.get(&endpoint.key()) {
            Some(Record::Endpoint(old)) => Some(old.identity),
            _ => None,
        };
        let gone = version == 0 && pod >= PERMANENT;
        let mut changes = if gone {
            vec![Change::Remove(endpoint.key())]
        } else {
            vec![upsert(self.identity(pod, version)), upsert(endpoint)]
        };
        let left = old.filter(|old| gone || *old != self.identity_of(pod, version));
        changes.extend(left.map(|old| Change::Remove(RecordKey::Identity(old))));
        changes
    }

    fn apply(&mut self, changes: Vec<Change>, mutant: Option<Mutant>) -> Result<(), Violation> {
        for change in &changes {
            self.unread.remove(&change.key());
            match change {
                Change::Upsert(record) => {
                    if !self.has_said(record) {
                        self.ever.entry(record.key()).or_default().push((**record).clone());
                    }
                    self.truth.insert(record.key(), (**record).clone());
                }
                Change::Remove(key) => drop(self.truth.remove(key)),
            }
        }
        self.export(changes, mutant)
    }

    fn export(&mut self, mut changes: Vec<Change>, mutant: Option<Mutant>) -> Result<(), Violation> {
        match mutant {
            Some(Mutant::RemovalForgotten) => {
                changes.retain(
                    |c| !matches!(c, Change::Remove(RecordKey::Endpoint(_, _, name)) if name.ends_with('7')),
                );
            }
            Some(Mutant::EndpointFirst) => {
                let identity =
                    |c: &mut Change| matches!(c, Change::Upsert(r) if r.key().kind() == Kind::Identity);
                let late = changes.extract_if(.., identity).collect();
                changes.extend(std::mem::replace(&mut self.late, late));
            }
            _ => {}
        }
        match self.exporter.apply(changes, 1).refused.first() {
            Some((key, error)) => Err(Violation(format!("{key:?} cannot be sent: {error}"))),
            None => Ok(()),
        }
    }

    pub(super) fn endpoint(&self, pod: u8, version: u8) -> Record {
        Record::Endpoint(EndpointRecord {
            cluster: self.id,
            namespace: "default".to_owned(),
            name: format!("pod-{pod}"),
            uid: self.births.get(&pod).copied().unwrap_or_default().to_string(),
            node: "n".to_owned(),
            addresses: vec![self.address(pod)],
            identity: self.identity_of(pod, version),
        })
    }

    pub(super) fn identity(&self, pod: u8, version: u8) -> Record {
        let labels = Labels([(label::CLUSTER.to_owned(), self.name.to_string())].into_iter().collect());
        Record::Identity(IdentityRecord { id: self.identity_of(pod, version), labels })
    }

    pub(super) fn service(&self, number: u8, hosts: &[u8], shared: bool) -> Record {
        let backend = |host: &u8| Backend {
            address: self.address(*host),
            port: 80,
            cluster: self.id,
            node: String::new(),
            zone: String::new(),
            state: BackendState::Ready,
        };
        let port = ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: hosts.iter().map(backend).collect(),
        };
        Record::Service(ServiceRecord {
            cluster: self.id,
            namespace: "default".to_owned(),
            name: format!("service-{number}"),
            frontends: vec![],
            global: true,
            shared,
            affinity: Affinity::None,
            on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
            ports: vec![port],
        })
    }

    fn identity_of(&self, pod: u8, version: u8) -> Identity {
        let local = Identity::FIRST_LOCAL + u32::from(pod) * u32::from(VERSIONS) + u32::from(version);
        Identity::new(self.id, local).unwrap_or(Identity::UNKNOWN)
    }

    fn address(&self, pod: u8) -> tombolo_model::Address {
        std::net::Ipv4Addr::new(10, self.octet(), 0, pod + 1).into()
    }

    fn octet(&self) -> u8 {
        self.id.get().try_into().unwrap_or(u8::MAX)
    }
}
