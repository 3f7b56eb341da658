//! What could not be done as asked. A problem closes traffic rather than opening it; the agent reports it.

use tombolo_model::{Address, ClusterId, Identity, PolicyKey, Prefix};

/// Something in the inputs that is not, or not fully, in the tables.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Problem {
    /// A peer is a range of addresses.
    #[error(
        "policy {}/{}: ipBlock {prefix} is not supported yet and matches nobody; name the peers by labels",
        policy.namespace, policy.name
    )]
    IpBlock {
        /// The policy.
        policy: PolicyKey,
        /// The range.
        prefix: Prefix,
    },
    /// All selector bits are in use by selectors that match different pods.
    #[error(
        "policy {}/{}: a peer matches nobody, because more than 1,023 different peer selectors are in use on this \
         node; use fewer",
        policy.namespace, policy.name
    )]
    SelectorsExhausted {
        /// The policy.
        policy: PolicyKey,
    },
    /// A selector shares its bit with another one that no longer matches the same pods.
    #[error(
        "policy {}/{}: a peer matches fewer pods than it names, because more than 1,023 different peer selectors \
         are in use on this node; use fewer",
        policy.namespace, policy.name
    )]
    SelectorNarrowed {
        /// The policy.
        policy: PolicyKey,
    },
    /// A port range ends before it begins.
    #[error(
        "policy {}/{}: port range {first}-{last} is empty and matches nothing; put the smaller port first",
        policy.namespace, policy.name
    )]
    EmptyPortRange {
        /// The policy.
        policy: PolicyKey,
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
    },
    /// The labels of a local pod's identity are unknown, so that no policy can be chosen.
    #[error("endpoint {endpoint} may not talk: the labels of its identity {identity} are not known yet")]
    UnknownIdentity {
        /// The local endpoint.
        endpoint: u32,
        /// Its identity.
        identity: Identity,
    },
    /// A node's pod prefix shares addresses with one that is in use.
    #[error(
        "pod prefix {prefix} of node {node} in cluster {cluster} is not used: it overlaps {taken}; give the clusters \
         disjoint pod ranges"
    )]
    PrefixTaken {
        /// The node's cluster.
        cluster: ClusterId,
        /// The node.
        node: String,
        /// Its prefix.
        prefix: Prefix,
        /// The prefix that is in use.
        taken: Prefix,
    },
    /// A node's address is that of another node, or of a pod.
    #[error("address {address} of node {node} in cluster {cluster} is not used: it belongs to {taken}")]
    AddressTaken {
        /// The node's cluster.
        cluster: ClusterId,
        /// The node.
        node: String,
        /// Its address.
        address: Address,
        /// What has it: another node's address, or the pod prefix around it.
        taken: Prefix,
    },
    /// A node of the own cluster has no address of the family of its pod prefix.
    #[error(
        "pods in {prefix} cannot be reached: node {node} has no address of that family; add one to its InternalIPs"
    )]
    NoNextHop {
        /// The node.
        node: String,
        /// Its prefix.
        prefix: Prefix,
    },
    /// A node of another cluster has a tunnel key but no address, or the key of another node.
    #[error("no tunnel to node {node} in cluster {cluster}: {reason}")]
    NoTunnel {
        /// The node's cluster.
        cluster: ClusterId,
        /// The node.
        node: String,
        /// What is wrong.
        reason: &'static str,
    },
}
