//! MeshEndpoint: what the mesh knows of one pod.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A pod with an address of its own; the object has the pod's namespace and name.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshEndpoint",
    plural = "meshendpoints",
    namespaced,
    shortname = "mep",
    category = "tombolo",
    status = "MeshEndpointStatus",
    doc = "A pod as the mesh sees it: addresses, identity, policy state. Written by tombolo.",
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node"}"#,
    printcolumn = r#"{"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses"}"#,
    printcolumn = r#"{"name": "Identity", "type": "integer", "jsonPath": ".spec.identity"}"#,
    printcolumn = r#"{"name": "Ingress", "type": "string", "jsonPath": ".status.ingress", "priority": 1}"#,
    printcolumn = r#"{"name": "Egress", "type": "string", "jsonPath": ".status.egress", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshEndpointSpec {
    /// The node it is bound to, empty before it is scheduled.
    #[serde(default)]
    pub node: String,
    /// Its addresses, one per family.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The number of its MeshIdentity.
    #[schemars(range(min = 0))]
    pub identity: i64,
}

/// What its node has put in place.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshEndpointStatus {
    /// `Isolated` when a policy applies to incoming traffic, else `Open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// `Isolated` when a policy applies to outgoing traffic, else `Open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
}
