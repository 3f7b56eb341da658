//! MeshNode: what the mesh knows of one node.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A node; the object has the node's name.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshNode",
    plural = "meshnodes",
    shortname = "mnode",
    category = "tombolo",
    derive = "PartialEq",
    doc = "A node as the mesh sees it: addresses, pod prefixes, tunnel. Written by tombolo, and kept there so that a daemon which begins to lead knows the tunnels of nodes that have not reported yet.",
    printcolumn = r#"{"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses"}"#,
    printcolumn = r#"{"name": "Pods", "type": "string", "jsonPath": ".spec.podPrefixes"}"#,
    printcolumn = r#"{"name": "Tunnel", "type": "string", "jsonPath": ".spec.tunnel.publicKey", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeSpec {
    /// Its addresses, the first of each family being the one to send to.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The prefixes its pods have.
    #[serde(default)]
    pub pod_prefixes: Vec<String>,
    /// Its zone, empty when unknown.
    #[serde(default)]
    pub zone: String,
    /// How to reach its tunnel, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<MeshNodeTunnel>,
}

/// The public half of a node's tunnel.
#[derive(KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeTunnel {
    /// WireGuard public key, in base64.
    pub public_key: String,
    /// The UDP port it listens on.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}
