//! Ids and value types that all parts of tombolo share: parsing and formatting, no logic beyond it.

mod address;
mod cluster;
mod identity;
mod policy;
mod protocol;
mod record;
mod selector;
mod service;
mod status;

pub use address::{Address, ParseAddressError, ParsePrefixError, Prefix};
pub use cluster::{ClusterId, ClusterIdError, ClusterName, ClusterNameError};
pub use identity::{Identity, Labels, label};
pub use policy::{Peer, Peers, Policy, PolicyKey, PolicyKind, PortRule, Rule};
pub use protocol::Protocol;
pub use record::{EndpointRecord, IdentityRecord, Kind, NodeRecord, Record, RecordKey, TunnelKey};
pub use selector::{Requirement, Selector};
pub use service::{Affinity, Backend, BackendState, OnClusterLoss, ServicePort, ServiceRecord};
pub use status::{
    Departed, MemberStatus, MeshStatus, NodeStatus, RefusedConnections, SessionStatus, TunnelPeerStatus,
    TunnelStatus,
};
