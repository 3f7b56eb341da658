//! The little that the agent asks the API server itself: its own node, and where the daemon's leader is.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{Api, Client};
use tombolo_model::{ParsePrefixError, Prefix};

/// Name of the Lease of the clustermesh leader.
pub const LEASE: &str = "tombolo-clustermesh";

/// Annotation of the Lease with the leader's address, `ip:port`.
pub const ADDRESS: &str = "tombolo.io/address";

/// How often the API server is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// What the agent needs to know of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// The prefixes of its pods.
    pub pod_prefixes: Vec<Prefix>,
}

/// Why the API server's answer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// It cannot be asked.
    #[error("the API server cannot be asked: {0}")]
    Api(#[from] kube::Error),
    /// The node has no prefix.
    #[error(
        "node {0} has no podCIDR: run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr"
    )]
    NoPrefix(String),
    /// The node has no address.
    #[error("node {0} has no InternalIP: run kubelet with --node-ip")]
    NoAddress(String),
    /// A prefix is none.
    #[error("podCIDR of node {node}: {source}")]
    Prefix {
        /// The node.
        node: String,
        /// Why.
        source: ParsePrefixError,
    },
    /// Nobody holds the Lease.
    #[error("Lease {namespace}/{LEASE} has no annotation {ADDRESS} yet: is tombolo-clustermesh running?")]
    NoLeader {
        /// Where the Lease is.
        namespace: String,
    },
}

/// The own node, as soon as it has what is needed; says in the log what is missing.
pub async fn own_node(client: &Client, name: &str) -> OwnNode {
    let api: Api<Node> = Api::all(client.clone());
    loop {
        match api.get(name).await.map_err(KubernetesError::from).and_then(|node| parse(name, &node)) {
            Ok(node) => return node,
            Err(e) => tracing::warn!(error = %e, "waiting for the own node"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The address of the clustermesh leader.
pub async fn leader(client: &Client, namespace: &str) -> Result<SocketAddr, KubernetesError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = api.get_opt(LEASE).await?;
    let annotation = lease.and_then(|l| l.metadata.annotations?.remove(ADDRESS));
    let address = annotation.and_then(|a| a.parse().ok());
    address.ok_or_else(|| KubernetesError::NoLeader { namespace: namespace.to_owned() })
}

fn parse(name: &str, node: &Node) -> Result<OwnNode, KubernetesError> {
    let spec = node.spec.as_ref();
    let several = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    let one = spec.and_then(|s| s.pod_cidr.clone());
    let texts = if several.is_empty() { one.into_iter().collect() } else { several };
    let prefixes: Result<Vec<Prefix>, _> = texts.iter().map(|text| text.parse()).collect();
    let pod_prefixes =
        prefixes.map_err(|source| KubernetesError::Prefix { node: name.to_owned(), source })?;
    if pod_prefixes.is_empty() {
        return Err(KubernetesError::NoPrefix(name.to_owned()));
    }
    let status = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
    let internal = status.iter().filter(|a| a.type_ == "InternalIP");
    let addresses: Vec<IpAddr> = internal.filter_map(|a| a.address.parse().ok()).collect();
    if addresses.is_empty() {
        return Err(KubernetesError::NoAddress(name.to_owned()));
    }
    Ok(OwnNode { addresses, pod_prefixes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Result<OwnNode, KubernetesError> {
        parse("n1", &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_node_is_read_or_refused_with_the_remedy() {
        let good = node(
            r#"{"metadata":{},"spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","fd00::/64"]},
                "status":{"addresses":[{"type":"Hostname","address":"n1"},{"type":"InternalIP","address":"192.0.2.1"}]}}"#,
        )
        .unwrap();
        assert_eq!((good.pod_prefixes.len(), good.addresses.len()), (2, 1));
        let missing = node(r#"{"metadata":{},"spec":{},"status":{}}"#).unwrap_err();
        assert!(missing.to_string().contains("--allocate-node-cidrs"), "{missing}");
        let bad = node(r#"{"metadata":{},"spec":{"podCIDR":"x"}}"#).unwrap_err();
        assert!(matches!(bad, KubernetesError::Prefix { .. }));
        let homeless = node(r#"{"metadata":{},"spec":{"podCIDR":"10.1.0.0/24"}}"#).unwrap_err();
        assert!(matches!(homeless, KubernetesError::NoAddress(_)));
    }
}
