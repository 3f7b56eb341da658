//! NetworkPolicy (networking.k8s.io/v1).

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use tombolo_model::{PolicyKey, PolicyKind};

use super::{
    super::{Index, Indexed, ObjectName},
    source::{Clusters, PeerSource, PortName, PortSource, RuleSource, Source},
};

impl Indexed for NetworkPolicy {
    fn apply(self, index: &mut Index) {
        index.apply_policy(self.into());
    }

    fn delete(name: &ObjectName, index: &mut Index) {
        index.delete_policy(&key(name));
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        let keys = index.policies.keys().filter(|key| key.kind == PolicyKind::NetworkPolicy);
        keys.map(|key| (key.namespace.clone(), key.name.clone())).collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn key((namespace, name): &ObjectName) -> PolicyKey {
    PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: namespace.clone(), name: name.clone() }
}

impl From<NetworkPolicy> for Source {
    fn from(policy: NetworkPolicy) -> Self {
        let name = super::super::object_name(&policy.metadata);
        let spec = policy.spec.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        // Without policyTypes: ingress always, egress when there are rules for it.
        let isolates_ingress = types.is_empty() || types.iter().any(|t| t == "Ingress");
        let isolates_egress = types.iter().any(|t| t == "Egress")
            || (types.is_empty() && spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        let ingress = spec.ingress.into_iter().flatten().map(|rule| rule_source(rule.from, rule.ports));
        let egress = spec.egress.into_iter().flatten().map(|rule| rule_source(rule.to, rule.ports));
        Self {
            key: key(&name),
            generation: policy.metadata.generation,
            uid: policy.metadata.uid.unwrap_or_default(),
            subject: spec.pod_selector.unwrap_or_default(),
            ingress: isolates_ingress.then(|| ingress.collect()),
            egress: isolates_egress.then(|| egress.collect()),
        }
    }
}

fn rule_source(peers: Option<Vec<NetworkPolicyPeer>>, ports: Option<Vec<NetworkPolicyPort>>) -> RuleSource {
    RuleSource {
        peers: peers.into_iter().flatten().map(PeerSource::from).collect(),
        ports: ports.into_iter().flatten().map(PortSource::from).collect(),
    }
}

impl From<NetworkPolicyPeer> for PeerSource {
    fn from(peer: NetworkPolicyPeer) -> Self {
        match peer.ip_block {
            Some(block) => Self::Block { cidr: block.cidr, except: block.except.unwrap_or_default() },
            None => Self::Pods {
                pods: peer.pod_selector,
                namespaces: peer.namespace_selector,
                clusters: Clusters::Local,
            },
        }
    }
}

impl From<NetworkPolicyPort> for PortSource {
    fn from(port: NetworkPolicyPort) -> Self {
        Self {
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.map(|port| match port {
                IntOrString::Int(number) => PortName::Number(number),
                IntOrString::String(name) => PortName::Name(name),
            }),
            end: port.end_port,
        }
    }
}
