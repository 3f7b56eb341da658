//! MeshNetworkPolicy: NetworkPolicy whose peers may name clusters.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tombolo_model::Protocol;

/// Whom the policy protects and what it lets through; the semantics of networking.k8s.io/v1 NetworkPolicy, with
/// clusters. A selector without `clusters` means the local cluster.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshNetworkPolicy",
    plural = "meshnetworkpolicies",
    namespaced,
    shortname = "mnp",
    category = "tombolo",
    status = "MeshNetworkPolicyStatus",
    derive = "PartialEq",
    doc = "A network policy whose peers may be pods of other clusters of the mesh.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.policyTypes) || self.policyTypes.size() > 0")
    .message("policyTypes must name Ingress, Egress or both; leave it out for the default"))]
pub struct MeshNetworkPolicySpec {
    /// The pods it protects, in its own namespace and cluster; empty means all.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// The directions it isolates. Default: Ingress, and Egress when there are egress rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<PolicyType>>,
    /// What is let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ingress: Vec<IngressRule>,
    /// What is let out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub egress: Vec<EgressRule>,
}

/// A direction of traffic.
#[derive(JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PolicyType {
    /// Into the pods.
    Ingress,
    /// Out of the pods.
    Egress,
}

/// Traffic that is let in.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct IngressRule {
    /// From whom; empty means from everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<PolicyPeer>,
    /// To which ports; empty means to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PolicyPort>,
}

/// Traffic that is let out.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EgressRule {
    /// To whom; empty means to everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<PolicyPeer>,
    /// To which ports; empty means to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PolicyPort>,
}

/// Pods by label, namespace and cluster; what is given must all apply.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.podSelector) || has(self.namespaceSelector) || has(self.clusters)")
    .message("a peer needs at least one of podSelector, namespaceSelector and clusters"))]
pub struct PolicyPeer {
    /// Labels of the pods; without a namespaceSelector, and without it alone, those in the policy's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Labels of the pods' namespaces; empty means all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Names of clusters, or `*` alone for every cluster of the mesh. Default: the local one. With neither
    /// selector, all pods of these clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 32), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"))
    )]
    #[x_kube(validation = Rule::new("!('*' in self) || self.size() == 1")
        .message("'*' means every cluster: it must be the only entry of clusters"))]
    pub clusters: Option<Vec<String>>,
}

/// Ports of the destination.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endPort) || (has(self.port) && self.port <= self.endPort)")
    .message("endPort needs a port, and must not be below it"))]
pub struct PolicyPort {
    /// Transport protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The port, or the first of a range; without it, all ports of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
}

/// A transport protocol with ports.
#[derive(JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortProtocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl From<PortProtocol> for Protocol {
    fn from(protocol: PortProtocol) -> Self {
        match protocol {
            PortProtocol::Tcp => Self::Tcp,
            PortProtocol::Udp => Self::Udp,
            PortProtocol::Sctp => Self::Sctp,
        }
    }
}

/// Whether the policy is in force.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshNetworkPolicyStatus {
    /// The generation that the conditions speak about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: every part of it is in force; otherwise the message says which are not, and those let
    /// nothing through.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
