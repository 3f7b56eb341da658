//! MeshIdentity: a security identity and the labels it stands for.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A security identity. The name of the object is its number, in decimal, with the cluster id in the upper 12 of
/// 32 bits.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "tombolo.io",
    version = "v1alpha1",
    kind = "MeshIdentity",
    plural = "meshidentities",
    shortname = "mid",
    category = "tombolo",
    doc = "A security identity: the number is the name, the labels are those of all pods that have it. Written by tombolo.",
    printcolumn = r#"{"name": "Namespace", "type": "string", "jsonPath": ".spec.labels.io:namespace"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.matches('^[1-9][0-9]{0,9}$')")
        .message("the name of a MeshIdentity is the number of the identity in decimal")
)]
pub struct MeshIdentitySpec {
    /// Pod labels as `pod:<key>`, labels of the namespace as `ns:<key>`, and `io:namespace`, `io:cluster`,
    /// `io:serviceaccount`.
    #[x_kube(validation = Rule::new("self == oldSelf").message("labels of an identity cannot change: another set of labels is another identity"))]
    pub labels: BTreeMap<String, String>,
}
