//! Nodes, and what they report about themselves.

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use tombolo_api::{MeshNode, MeshNodeSpec, MeshNodeTunnel};
use tombolo_mesh_core::wire::{EndpointFact, NodeFacts};
use tombolo_model::{Address, NodeRecord, Prefix, Record, RecordKey, TunnelKey};

use super::{Index, Indexed, ObjectName, object_name};

const ZONE: &str = "topology.kubernetes.io/zone";

/// What the index keeps of a node.
#[derive(Debug)]
pub(super) struct Entry {
    uid: String,
    addresses: Vec<Address>,
    pod_prefixes: Vec<Prefix>,
    zone: String,
}

/// An [`EndpointFact`] and who reported it.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) node: String,
    pub(super) uid: String,
    pub(super) addresses: Vec<Address>,
}

impl Indexed for Node {
    fn apply(self, index: &mut Index) {
        let (_, name) = object_name(&self.metadata);
        index.nodes.insert(name.clone(), Entry::from(self));
        index.publish_node(&name);
    }

    fn delete((_, name): &ObjectName, index: &mut Index) {
        index.nodes.remove(name);
        index.tunnels.remove(name);
        index.reported.retain(|_, reported| reported.node != *name);
        index.publish_node(name);
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.nodes.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Indexed for MeshNode {
    fn apply(self, index: &mut Index) {
        let (_, name) = object_name(&self.metadata);
        index.kept.insert(name.clone(), self.spec);
        index.publish_node(&name);
    }

    fn delete((_, name): &ObjectName, index: &mut Index) {
        index.kept.remove(name);
        index.publish_node(name);
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.kept.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl From<Node> for Entry {
    fn from(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let addresses = status
            .addresses
            .iter()
            .flatten()
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok());
        let prefixes = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        Self {
            uid: node.metadata.uid.unwrap_or_default(),
            addresses: addresses.collect(),
            pod_prefixes: prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
            zone: node.metadata.labels.and_then(|mut labels| labels.remove(ZONE)).unwrap_or_default(),
        }
    }
}

impl Index {
    /// Takes in what `node` says about itself. Addresses outside of the node's pod prefixes are left out and
    /// returned: a node speaks for its own pods only.
    pub fn report(&mut self, node: &str, facts: NodeFacts) -> Vec<Address> {
        self.tunnels.insert(node.to_owned(), facts.tunnel);
        self.publish_node(node);
        let before: Vec<_> =
            self.reported.iter().filter(|(_, r)| r.node == node).map(|(name, _)| name.clone()).collect();
        self.reported.retain(|_, reported| reported.node != node);
        let mut refused = Vec::new();
        let mut touched = before;
        for EndpointFact { namespace, name, uid, mut addresses } in facts.endpoints {
            addresses.retain(|&address| {
                let own =
                    self.nodes.get(node).is_some_and(|n| n.pod_prefixes.iter().any(|p| p.contains(address)));
                if !own {
                    refused.push(address);
                }
                own
            });
            let name = (namespace, name);
            let bound_here = self.pods.get(&name).is_none_or(|pod| pod.node == node || pod.node.is_empty());
            if !addresses.is_empty() && bound_here {
                self.reported.insert(name.clone(), Reported { node: node.to_owned(), uid, addresses });
                touched.push(name);
            }
        }
        for name in &touched {
            self.publish_endpoint(name);
        }
        refused
    }

    /// Whether [`Self::unkept_nodes`] may have changed since the last call.
    pub fn take_nodes_changed(&mut self) -> bool {
        std::mem::take(&mut self.nodes_changed)
    }

    /// The MeshNodes of nodes that have reported, where they are not as they should be.
    pub fn unkept_nodes(&self) -> Vec<MeshNode> {
        let reported = self.tunnels.keys().filter_map(|name| Some((name, self.nodes.get(name)?)));
        let unkept = reported.filter_map(|(name, node)| {
            let spec = self.wanted_spec(name, node);
            (self.kept.get(name) != Some(&spec)).then(|| {
                let mut object = MeshNode::new(name, spec);
                object.metadata.owner_references = Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: name.clone(),
                    uid: node.uid.clone(),
                    ..OwnerReference::default()
                }]);
                object
            })
        });
        unkept.collect()
    }

    fn wanted_spec(&self, name: &str, node: &Entry) -> MeshNodeSpec {
        MeshNodeSpec {
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            pod_prefixes: node.pod_prefixes.iter().map(ToString::to_string).collect(),
            zone: node.zone.clone(),
            tunnel: self.tunnel(name).map(|tunnel| MeshNodeTunnel {
                public_key: BASE64_STANDARD.encode(tunnel.public_key),
                port: tunnel.port.into(),
            }),
        }
    }

    /// What the node reports counts; before it has, what was kept of it: a new leader that told other clusters of
    /// nodes without tunnels would end the sessions that these tunnels have.
    fn tunnel(&self, name: &str) -> Option<TunnelKey> {
        match self.tunnels.get(name) {
            Some(reported) => *reported,
            None => parse(self.kept.get(name)?.tunnel.as_ref()?),
        }
    }

    fn publish_node(&mut self, name: &str) {
        self.nodes_changed = true;
        let record = self.nodes.get(name).map(|node| {
            Record::Node(NodeRecord {
                cluster: self.id,
                name: name.to_owned(),
                addresses: node.addresses.clone(),
                pod_prefixes: node.pod_prefixes.clone(),
                zone: node.zone.clone(),
                tunnel: self.tunnel(name),
            })
        });
        self.publish(RecordKey::Node(self.id, name.to_owned()), record);
    }
}

/// Nothing for what somebody has edited into no key.
fn parse(tunnel: &MeshNodeTunnel) -> Option<TunnelKey> {
    let public_key = BASE64_STANDARD.decode(&tunnel.public_key).ok()?.try_into().ok()?;
    Some(TunnelKey { public_key, port: tunnel.port.try_into().ok()? })
}
