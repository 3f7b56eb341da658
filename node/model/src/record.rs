//! The records that clusters and nodes replicate.

use serde::{Deserialize, Serialize};

use crate::{Address, ClusterId, Identity, Labels, Policy, PolicyKey, Prefix, ServiceRecord};

/// The kinds of record. Their order is the order in which a receiver may need them: an identity before the
/// endpoint that has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// [`IdentityRecord`].
    Identity,
    /// [`NodeRecord`].
    Node,
    /// [`EndpointRecord`].
    Endpoint,
    /// [`ServiceRecord`].
    Service,
    /// [`Policy`].
    Policy,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Node, Self::Endpoint, Self::Service, Self::Policy];
}

/// What a record is about; one record per key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum RecordKey {
    /// Of an [`IdentityRecord`].
    Identity(Identity),
    /// Of a [`NodeRecord`]: cluster and node name.
    Node(ClusterId, String),
    /// Of an [`EndpointRecord`]: cluster, namespace and pod name.
    Endpoint(ClusterId, String, String),
    /// Of a [`ServiceRecord`]: cluster, namespace and service name.
    Service(ClusterId, String, String),
    /// Of a [`Policy`], which never leaves its cluster.
    Policy(PolicyKey),
}

impl RecordKey {
    /// The kind of the record.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Identity(_) => Kind::Identity,
            Self::Node(..) => Kind::Node,
            Self::Endpoint(..) => Kind::Endpoint,
            Self::Service(..) => Kind::Service,
            Self::Policy(_) => Kind::Policy,
        }
    }

    /// The cluster that the record speaks about; none for a policy.
    pub fn cluster(&self) -> Option<ClusterId> {
        match self {
            Self::Identity(id) => id.cluster(),
            Self::Node(c, _) | Self::Endpoint(c, ..) | Self::Service(c, ..) => Some(*c),
            Self::Policy(_) => None,
        }
    }
}

/// One replicated fact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// An identity and its labels.
    Identity(IdentityRecord),
    /// A node.
    Node(NodeRecord),
    /// A pod.
    Endpoint(EndpointRecord),
    /// A service.
    Service(ServiceRecord),
    /// A policy.
    Policy(Policy),
}

impl Record {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Identity(_) => Kind::Identity,
            Self::Node(_) => Kind::Node,
            Self::Endpoint(_) => Kind::Endpoint,
            Self::Service(_) => Kind::Service,
            Self::Policy(_) => Kind::Policy,
        }
    }

    /// [`RecordKey::cluster`] of its key.
    pub fn cluster(&self) -> Option<ClusterId> {
        match self {
            Self::Identity(r) => r.id.cluster(),
            Self::Node(r) => Some(r.cluster),
            Self::Endpoint(r) => Some(r.cluster),
            Self::Service(r) => Some(r.cluster),
            Self::Policy(_) => None,
        }
    }

    /// What the record is about.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Identity(r) => RecordKey::Identity(r.id),
            Self::Node(r) => RecordKey::Node(r.cluster, r.name.clone()),
            Self::Endpoint(r) => RecordKey::Endpoint(r.cluster, r.namespace.clone(), r.name.clone()),
            Self::Service(r) => RecordKey::Service(r.cluster, r.namespace.clone(), r.name.clone()),
            Self::Policy(r) => RecordKey::Policy(r.key.clone()),
        }
    }
}

/// A security identity and the labels that all pods with it have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The identity.
    pub id: Identity,
    /// Its labels.
    pub labels: Labels,
}

/// A node of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Its internal addresses (Node.status.addresses), the first of each family being the one to send to.
    pub addresses: Vec<Address>,
    /// The prefixes its pods have (Node.spec.podCIDRs).
    pub pod_prefixes: Vec<Prefix>,
    /// Its zone (label `topology.kubernetes.io/zone`), empty when unknown.
    pub zone: String,
    /// How to reach its tunnel, once the agent has made a key.
    pub tunnel: Option<TunnelKey>,
}

/// The public half of a node's tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TunnelKey {
    /// WireGuard public key (Curve25519).
    pub public_key: [u8; 32],
    /// The UDP port it listens on.
    pub port: u16,
}

/// A pod with an address of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UID of the pod, which tells a new pod of the same name from its predecessor.
    pub uid: String,
    /// The node it is bound to.
    pub node: String,
    /// Its addresses, one per family; empty until the node has given it one.
    pub addresses: Vec<Address>,
    /// Its identity.
    pub identity: Identity,
}
