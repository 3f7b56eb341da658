//! MeshCluster: a member of the mesh, as this cluster sees it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A member of the mesh; the object has the cluster's name.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshCluster",
    plural = "meshclusters",
    shortname = "mc",
    category = "tombolo",
    status = "MeshClusterStatus",
    doc = "A member of the mesh as this cluster sees it. Written by tombolo; to join or leave, use `tombolo connect`, `tombolo disconnect` or a MeshPeer.",
    printcolumn = r#"{"name": "ID", "type": "integer", "jsonPath": ".spec.id"}"#,
    printcolumn = r#"{"name": "State", "type": "string", "jsonPath": ".status.state"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}"#,
    printcolumn = r#"{"name": "Endpoints", "type": "integer", "jsonPath": ".status.endpoints"}"#,
    printcolumn = r#"{"name": "Services", "type": "integer", "jsonPath": ".status.services"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct MeshClusterSpec {
    /// The number of the cluster in the mesh.
    #[schemars(range(min = 1, max = 4095))]
    pub id: i32,
}

/// What is known of the cluster.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshClusterStatus {
    /// `Joining`, `Active`, `Leaving` or `Lost`, as the members agreed.
    #[serde(default)]
    pub state: String,
    /// Whether it is the cluster that holds this object.
    #[serde(default)]
    pub local: bool,
    /// Where its clustermesh daemon is reached, as `address:port`.
    #[serde(default)]
    pub control_plane: Vec<String>,
    /// The prefixes its pods have.
    #[serde(default)]
    pub pod_prefixes: Vec<String>,
    /// Nodes that it announces.
    #[serde(default)]
    pub nodes: i64,
    /// Pods that it announces.
    #[serde(default)]
    pub endpoints: i64,
    /// Services that it announces.
    #[serde(default)]
    pub services: i64,
    /// Announcements refused because they speak for another cluster.
    #[serde(default)]
    pub refused: i64,
    /// `Ready`: its state arrives and is complete.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
