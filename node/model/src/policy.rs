//! Network policies in one form, whatever resource they came from.

use serde::{Deserialize, Serialize};

use crate::{Prefix, Protocol, Selector};

/// A policy: whom it protects and what it lets through. It selects pods of its own cluster only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// The resource it came from.
    pub key: PolicyKey,
    /// The pods it protects; namespace and cluster are among the requirements.
    pub subject: Selector,
    /// Present when the policy isolates its pods for incoming traffic: what is let in. An empty list lets in
    /// nothing.
    pub ingress: Option<Vec<Rule>>,
    /// Present when the policy isolates its pods for outgoing traffic: what is let out.
    pub egress: Option<Vec<Rule>>,
}

/// The resource that a policy came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kind of resource that a policy came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// tombolo.io MeshNetworkPolicy.
    MeshNetworkPolicy,
}

/// Traffic with one of the peers on one of the ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// With whom.
    pub peers: Peers,
    /// On which ports of the destination; empty means on all, of every protocol.
    pub ports: Vec<PortRule>,
}

/// The other side of allowed traffic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Peers {
    /// Everybody, inside and outside of the mesh.
    Any,
    /// Those that one of these names; nobody when empty.
    Of(Vec<Peer>),
}

/// One way to name peers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Peer {
    /// Pods by labels of pod, namespace and cluster.
    Pods(Selector),
    /// Addresses outside of the mesh, without some of them (NetworkPolicy ipBlock).
    Prefix {
        /// The prefix.
        prefix: Prefix,
        /// Parts of it that are not meant.
        except: Vec<Prefix>,
    },
}

/// A range of destination ports.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PortRule {
    /// Transport protocol.
    pub protocol: Protocol,
    /// First and last port, both included; none means all ports of the protocol.
    pub range: Option<(u16, u16)>,
}
