//! The protobuf messages of records, field by field.

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct Change {
    #[prost(oneof = "change::Body", tags = "1, 2, 3, 4, 5, 15")]
    pub body: Option<change::Body>,
}

pub mod change {
    use super::{Endpoint, Identity, Key, Node, Oneof, Policy, Service};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        #[prost(message, tag = "1")]
        Identity(Identity),
        #[prost(message, tag = "2")]
        Node(Node),
        #[prost(message, tag = "3")]
        Endpoint(Endpoint),
        #[prost(message, tag = "4")]
        Service(Service),
        #[prost(message, tag = "5")]
        Policy(Policy),
        #[prost(message, tag = "15")]
        Remove(Key),
    }
}

/// The key of a record of each kind.
#[derive(Clone, PartialEq, Message)]
pub struct Key {
    #[prost(oneof = "key::Body", tags = "1, 2, 3, 4, 5")]
    pub body: Option<key::Body>,
}

pub mod key {
    use super::{ClusterName, ClusterNamespaceName, Oneof, PolicyKey};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        #[prost(fixed32, tag = "1")]
        Identity(u32),
        #[prost(message, tag = "2")]
        Node(ClusterName),
        #[prost(message, tag = "3")]
        Endpoint(ClusterNamespaceName),
        #[prost(message, tag = "4")]
        Service(ClusterNamespaceName),
        #[prost(message, tag = "5")]
        Policy(PolicyKey),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ClusterName {
    #[prost(uint32, tag = "1")]
    pub cluster: u32,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClusterNamespaceName {
    #[prost(uint32, tag = "1")]
    pub cluster: u32,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Identity {
    #[prost(fixed32, tag = "1")]
    pub id: u32,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Prefix {
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub bits: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct TunnelKey {
    #[prost(bytes = "vec", tag = "1")]
    pub public_key: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(uint32, tag = "1")]
    pub cluster: u32,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    pub pod_prefixes: Vec<Prefix>,
    #[prost(string, tag = "5")]
    pub zone: String,
    #[prost(message, optional, tag = "6")]
    pub tunnel: Option<TunnelKey>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Endpoint {
    #[prost(uint32, tag = "1")]
    pub cluster: u32,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub uid: String,
    #[prost(string, tag = "5")]
    pub node: String,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(fixed32, tag = "7")]
    pub identity: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Service {
    #[prost(uint32, tag = "1")]
    pub cluster: u32,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub frontends: Vec<Vec<u8>>,
    #[prost(bool, tag = "5")]
    pub global: bool,
    #[prost(bool, tag = "6")]
    pub shared: bool,
    #[prost(enumeration = "Affinity", tag = "7")]
    pub affinity: i32,
    /// Backends of silent clusters stay.
    #[prost(bool, tag = "9")]
    pub keeps_lost: bool,
    #[prost(message, repeated, tag = "8")]
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Affinity {
    None = 0,
    Local = 1,
    Remote = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServicePort {
    #[prost(string, tag = "1")]
    pub name: String,
    /// IANA protocol number.
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    #[prost(uint32, tag = "3")]
    pub port: u32,
    #[prost(message, repeated, tag = "4")]
    pub backends: Vec<Backend>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Backend {
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    #[prost(uint32, tag = "3")]
    pub cluster: u32,
    #[prost(string, tag = "4")]
    pub node: String,
    #[prost(string, tag = "5")]
    pub zone: String,
    #[prost(enumeration = "BackendState", tag = "6")]
    pub state: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BackendState {
    Ready = 0,
    Terminating = 1,
    NotReady = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct PolicyKey {
    #[prost(enumeration = "PolicyKind", tag = "1")]
    pub kind: i32,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum PolicyKind {
    NetworkPolicy = 0,
    MeshNetworkPolicy = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct Policy {
    #[prost(message, optional, tag = "1")]
    pub key: Option<PolicyKey>,
    #[prost(message, repeated, tag = "2")]
    pub subject: Vec<Requirement>,
    #[prost(message, optional, tag = "3")]
    pub ingress: Option<Rules>,
    #[prost(message, optional, tag = "4")]
    pub egress: Option<Rules>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rules {
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rule {
    /// Everybody; then `peers` is empty.
    #[prost(bool, tag = "1")]
    pub any: bool,
    #[prost(message, repeated, tag = "2")]
    pub peers: Vec<Peer>,
    #[prost(message, repeated, tag = "3")]
    pub ports: Vec<PortRule>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    #[prost(oneof = "peer::Body", tags = "1, 2")]
    pub body: Option<peer::Body>,
}

pub mod peer {
    use super::{IpBlock, Oneof, Selector};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        #[prost(message, tag = "1")]
        Pods(Selector),
        #[prost(message, tag = "2")]
        Prefix(IpBlock),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Selector {
    #[prost(message, repeated, tag = "1")]
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IpBlock {
    #[prost(message, optional, tag = "1")]
    pub prefix: Option<Prefix>,
    #[prost(message, repeated, tag = "2")]
    pub except: Vec<Prefix>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Requirement {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(enumeration = "Operator", tag = "2")]
    pub operator: i32,
    #[prost(string, repeated, tag = "3")]
    pub values: Vec<String>,
}

/// Zero is no operator, so that a lost field is not read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Operator {
    Unset = 0,
    In = 1,
    NotIn = 2,
    Exists = 3,
    DoesNotExist = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct PortRule {
    /// IANA protocol number.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Absent, with `last`, for all ports.
    #[prost(uint32, optional, tag = "2")]
    pub first: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub last: Option<u32>,
}
