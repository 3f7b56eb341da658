//! Namespaces and pods: who has which labels, and the endpoint records.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tombolo_model::{Address, EndpointRecord, Labels, Protocol, Record, RecordKey};

use super::{Index, Indexed, ObjectName, labels, object_name};

/// What the index keeps of a pod.
#[derive(Debug)]
pub(super) struct Entry {
    uid: String,
    pub(super) node: String,
    addresses: Vec<Address>,
    service_account: String,
    labels: BTreeMap<String, String>,
    /// Named container ports.
    pub(super) ports: Vec<(String, Protocol, u16)>,
    /// Has an address of its own: neither on the host's network nor finished.
    networked: bool,
    /// The labels of its identity, once its namespace is known.
    pub(super) flat: Option<Labels>,
}

impl Indexed for Namespace {
    fn apply(self, index: &mut Index) {
        let (_, name) = object_name(&self.metadata);
        index.namespaces.insert(name.clone(), self.metadata.labels.unwrap_or_default());
        index.relabel_namespace(&name);
    }

    fn delete((_, name): &ObjectName, index: &mut Index) {
        index.namespaces.remove(name);
        index.relabel_namespace(name);
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.namespaces.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Indexed for Pod {
    fn apply(self, index: &mut Index) {
        let name = object_name(&self.metadata);
        let mut entry = Entry::from(self);
        // Relabelling below moves it from the old labels to the new ones.
        entry.flat = index.pods.get_mut(&name).and_then(|before| before.flat.take());
        index.pods.insert(name.clone(), entry);
        index.relabel(&name);
        index.recompile_named_ports();
    }

    fn delete(name: &ObjectName, index: &mut Index) {
        if let Some(entry) = index.pods.get_mut(name) {
            entry.networked = false;
            index.relabel(name);
            index.pods.remove(name);
            index.reported.remove(name);
            index.recompile_named_ports();
        }
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.pods.keys().cloned().collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl From<Pod> for Entry {
    fn from(pod: Pod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ports = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
                Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
            });
        Self {
            uid: pod.metadata.uid.unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            addresses: status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect(),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
            labels: pod.metadata.labels.unwrap_or_default(),
            ports: ports.collect(),
            networked: !spec.host_network.unwrap_or_default() && !finished,
            flat: None,
        }
    }
}

impl Index {
    /// Computes the labels of all pods again.
    pub(super) fn relabel_all(&mut self) {
        for name in Pod::names(self) {
            self.relabel(&name);
        }
    }

    fn relabel_namespace(&mut self, namespace: &str) {
        let names: Vec<_> = self.pods_of(namespace).map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.relabel(name);
        }
        self.recompile_named_ports();
    }

    /// The pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &str) -> impl Iterator<Item = (&ObjectName, &Entry)> {
        let first = (namespace.to_owned(), String::new());
        self.pods.range(first..).take_while(move |((ns, _), _)| ns == namespace)
    }

    fn relabel(&mut self, name: &ObjectName) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        let namespace = self.namespaces.get(&name.0).filter(|_| pod.networked);
        let flat = namespace.map(|namespace_labels| {
            let namespace = (name.0.as_str(), namespace_labels);
            labels::flatten(&self.cluster, namespace, &pod.service_account, &pod.labels, &self.selected)
        });
        let before = std::mem::replace(&mut pod.flat, flat.clone());
        if before != flat {
            if let Some(labels) = before {
                self.remove_user(&labels, name);
            }
            if let Some(labels) = flat {
                if self.allocator.get(&labels).is_none() {
                    self.wanted.insert(labels.clone());
                }
                self.users.entry(labels).or_default().insert(name.clone());
            }
        }
        self.publish_endpoint(name);
    }

    fn remove_user(&mut self, labels: &Labels, name: &ObjectName) {
        if let Some(users) = self.users.get_mut(labels) {
            users.remove(name);
            if users.is_empty() {
                self.users.remove(labels);
                self.wanted.remove(labels);
            }
        }
    }

    pub(super) fn publish_endpoint(&mut self, name: &ObjectName) {
        let record = self.endpoint(name);
        let waits = record.is_none() && self.pods.get(name).is_some_and(|pod| pod.flat.is_some());
        let key = RecordKey::Endpoint(self.id, name.0.clone(), name.1.clone());
        // A pod whose labels changed keeps its record until there is an identity for the new ones.
        let same_pod = |record: &Record| match record {
            Record::Endpoint(record) => self.pods.get(name).is_some_and(|pod| pod.uid == record.uid),
            _ => false,
        };
        if waits && self.published.get(&key).is_some_and(|record| same_pod(record)) {
            return;
        }
        self.publish(key, record.map(Record::Endpoint));
    }

    fn endpoint(&self, name: &ObjectName) -> Option<EndpointRecord> {
        let pod = self.pods.get(name)?;
        let identity = self.allocator.get(pod.flat.as_ref()?)?;
        let reported = self.reported.get(name).filter(|r| r.node == pod.node && r.uid == pod.uid);
        Some(EndpointRecord {
            cluster: self.id,
            namespace: name.0.clone(),
            name: name.1.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            // The node gives the address; what it says is newer than what the API server knows.
            addresses: reported.map_or(&pod.addresses, |r| &r.addresses).clone(),
            identity,
        })
    }
}
