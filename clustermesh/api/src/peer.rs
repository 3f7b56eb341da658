//! MeshPeer: joining a mesh declaratively.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The wish to join the mesh that a token was made for.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshPeer",
    plural = "meshpeers",
    namespaced,
    shortname = "mp",
    category = "tombolo",
    status = "MeshPeerStatus",
    doc = "Joins this cluster to the mesh that the token in a Secret was made for. Read in the namespace of tombolo only.",
    printcolumn = r#"{"name": "Secret", "type": "string", "jsonPath": ".spec.secretRef.name"}"#,
    printcolumn = r#"{"name": "Joined", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Joined\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Joined\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshPeerSpec {
    /// The Secret, in the same namespace, that holds the token of `tombolo token create`.
    pub secret_ref: SecretKeyRef,
}

/// One entry of a Secret.
#[derive(KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SecretKeyRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the entry.
    #[serde(default = "SecretKeyRef::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl SecretKeyRef {
    fn default_key() -> String {
        "token".to_owned()
    }
}

/// How joining went.
#[derive(KubeSchema, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshPeerStatus {
    /// The generation that the conditions speak about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Joined`: this cluster is a member of the mesh.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
