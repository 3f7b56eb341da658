//! MeshNetworkPolicy (tombolo.io/v1alpha1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tombolo_api::{MeshNetworkPolicy, PolicyPeer, PolicyPort, PolicyType};
use tombolo_model::{PolicyKey, PolicyKind, Protocol};

use super::{
    super::{Index, Indexed, ObjectName},
    source::{Clusters, PeerSource, PortName, PortSource, RuleSource, Source},
};

impl Indexed for MeshNetworkPolicy {
    fn apply(self, index: &mut Index) {
        index.apply_policy(self.into());
    }

    fn delete(name: &ObjectName, index: &mut Index) {
        index.delete_policy(&key(name));
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        let keys = index.policies.keys().filter(|key| key.kind == PolicyKind::MeshNetworkPolicy);
        keys.map(|key| (key.namespace.clone(), key.name.clone())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn key((namespace, name): &ObjectName) -> PolicyKey {
    PolicyKey { kind: PolicyKind::MeshNetworkPolicy, namespace: namespace.clone(), name: name.clone() }
}

impl From<MeshNetworkPolicy> for Source {
    fn from(policy: MeshNetworkPolicy) -> Self {
        let name = super::super::object_name(&policy.metadata);
        let spec = policy.spec;
        let types = spec.policy_types.unwrap_or_default();
        let isolates_ingress = types.is_empty() || types.contains(&PolicyType::Ingress);
        let isolates_egress =
            types.contains(&PolicyType::Egress) || (types.is_empty() && !spec.egress.is_empty());
        let ingress = spec.ingress.into_iter().map(|rule| rule_source(rule.from, rule.ports));
        let egress = spec.egress.into_iter().map(|rule| rule_source(rule.to, rule.ports));
        Self {
            key: key(&name),
            generation: policy.metadata.generation,
            uid: policy.metadata.uid.unwrap_or_default(),
            subject: spec.pod_selector,
            ingress: isolates_ingress.then(|| ingress.collect()),
            egress: isolates_egress.then(|| egress.collect()),
        }
    }
}

fn rule_source(peers: Vec<PolicyPeer>, ports: Vec<PolicyPort>) -> RuleSource {
    RuleSource {
        peers: peers.into_iter().map(PeerSource::from).collect(),
        ports: ports.into_iter().map(PortSource::from).collect(),
    }
}

impl From<PolicyPeer> for PeerSource {
    fn from(peer: PolicyPeer) -> Self {
        let clusters = match peer.clusters {
            None => Clusters::Local,
            Some(names) if names.iter().any(|name| name == "*") => Clusters::All,
            Some(names) => Clusters::Named(names.into_iter().collect()),
        };
        Self::Pods { pods: peer.pod_selector, namespaces: peer.namespace_selector, clusters }
    }
}

impl From<PolicyPort> for PortSource {
    fn from(port: PolicyPort) -> Self {
        Self {
            protocol: Protocol::from(port.protocol).to_string(),
            port: port.port.map(PortName::Number),
            end: port.end_port,
        }
    }
}
