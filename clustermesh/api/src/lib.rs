//! Custom resource types, annotations and the CRD generator.
//!
//! Group `tombolo.io/v1alpha1`. The files in `deploy/chart/crds` are made from these types by
//! `cargo run -p tombolo-api --bin crdgen`; a test fails when they differ.

pub mod annotation;
mod cluster;
pub mod condition;
pub mod crds;
mod endpoint;
mod identity;
mod node;
mod peer;
mod policy;

pub use cluster::{MeshCluster, MeshClusterSpec, MeshClusterStatus};
pub use endpoint::{MeshEndpoint, MeshEndpointSpec, MeshEndpointStatus};
pub use identity::{MeshIdentity, MeshIdentitySpec};
pub use node::{MeshNode, MeshNodeSpec, MeshNodeTunnel};
pub use peer::{MeshPeer, MeshPeerSpec, MeshPeerStatus, SecretKeyRef};
pub use policy::{
    EgressRule, IngressRule, MeshNetworkPolicy, MeshNetworkPolicySpec, MeshNetworkPolicyStatus, PolicyPeer,
    PolicyPort, PolicyType, PortProtocol,
};

/// The API group of every custom resource.
pub const GROUP: &str = "tombolo.io";
