//! The labels that make up an identity.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::{ClusterName, Labels, label};

/// Labels that Kubernetes controllers set to another value on each pod or revision. As part of identities they
/// would give each pod one of its own; so they are none, but for those that a policy selects by.
const CHURNING: [&str; 10] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Whether identities usually leave out the pod label of this key.
pub(super) fn is_churning(key: &str) -> bool {
    CHURNING.contains(&key)
}

/// The labels of the identity of a pod. `selected` holds the churning labels that a policy selects by.
pub(super) fn flatten(
    cluster: &ClusterName,
    (namespace, namespace_labels): (&str, &BTreeMap<String, String>),
    service_account: &str,
    pod_labels: &BTreeMap<String, String>,
    selected: &BTreeSet<String>,
) -> Labels {
    let pod = pod_labels
        .iter()
        .filter(|(key, _)| !is_churning(key) || selected.contains(*key))
        .map(|(key, value)| (label::pod(key), value.clone()));
    let of_namespace = namespace_labels.iter().map(|(key, value)| (label::namespace(key), value.clone()));
    let own = [
        (label::NAMESPACE, namespace),
        (label::CLUSTER, cluster.as_str()),
        (label::SERVICE_ACCOUNT, service_account),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    pod.chain(of_namespace).chain(own).collect()
}
