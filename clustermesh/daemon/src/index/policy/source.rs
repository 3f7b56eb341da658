//! What NetworkPolicy and MeshNetworkPolicy have in common.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use tombolo_model::PolicyKey;

use super::super::selector;

/// A policy as its resource has it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) key: PolicyKey,
    pub(super) generation: Option<i64>,
    pub(super) uid: String,
    pub(super) subject: LabelSelector,
    /// Present when it isolates for incoming traffic.
    pub(super) ingress: Option<Vec<RuleSource>>,
    /// Present when it isolates for outgoing traffic.
    pub(super) egress: Option<Vec<RuleSource>>,
}

/// Peers and ports of a rule; each list means everything when it is empty.
#[derive(Debug)]
pub(super) struct RuleSource {
    pub(super) peers: Vec<PeerSource>,
    pub(super) ports: Vec<PortSource>,
}

#[derive(Debug)]
pub(super) enum PeerSource {
    Pods { pods: Option<LabelSelector>, namespaces: Option<LabelSelector>, clusters: Clusters },
    Block { cidr: String, except: Vec<String> },
}

/// The clusters that a peer is looked for in.
#[derive(Debug)]
pub(super) enum Clusters {
    /// Nothing said: the policy's own.
    Local,
    /// Those of these names.
    Named(BTreeSet<String>),
    /// Every cluster of the mesh.
    All,
}

#[derive(Debug)]
pub(super) struct PortSource {
    pub(super) protocol: String,
    pub(super) port: Option<PortName>,
    pub(super) end: Option<i32>,
}

#[derive(Debug)]
pub(super) enum PortName {
    Number(i32),
    Name(String),
}

impl Source {
    /// The keys of pod labels that it selects by.
    pub(super) fn pod_label_keys(&self) -> impl Iterator<Item = &str> {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        let peers = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
            PeerSource::Pods { pods, .. } => pods.as_ref(),
            PeerSource::Block { .. } => None,
        });
        std::iter::once(&self.subject).chain(peers).flat_map(selector::keys)
    }
}
