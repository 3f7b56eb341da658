//! Services and their backends.

use serde::{Deserialize, Serialize};

use crate::{Address, ClusterId, Protocol};

/// A service of one cluster, with the backends that it has there, or, after the merge of global services, with
/// those of all clusters that share it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The cluster whose API server holds the Service.
    pub cluster: ClusterId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Cluster addresses, one per family; empty for a headless service.
    pub frontends: Vec<Address>,
    /// Annotated as global: backends of other clusters serve it too.
    pub global: bool,
    /// Global and willing to lend its backends to other clusters.
    pub shared: bool,
    /// Which clusters' backends come first.
    pub affinity: Affinity,
    /// What becomes of the backends of a cluster that is not heard any more.
    #[serde(default)]
    pub on_cluster_loss: OnClusterLoss,
    /// Ports, ordered by name.
    pub ports: Vec<ServicePort>,
}

/// Which backends of a global service come first (`service.tombolo.io/affinity`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// All alike.
    #[default]
    None,
    /// Those of the own cluster while there are any.
    Local,
    /// Those of other clusters while there are any.
    Remote,
}

/// What becomes of a global service's backends in a cluster that is silent (`service.tombolo.io/on-cluster-loss`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnClusterLoss {
    /// They take no traffic while others do.
    #[default]
    Drain,
    /// They stay in use: their pods may well be alive, and cut off from the daemon only.
    Keep,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty when there is only one port.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port of the frontend, 1..=65535.
    pub port: u16,
    /// Who answers, ordered by address.
    pub backends: Vec<Backend>,
}

/// A pod or an external host that answers for a service port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Its address.
    pub address: Address,
    /// The port it listens on, 1..=65535.
    pub port: u16,
    /// The cluster it runs in.
    pub cluster: ClusterId,
    /// Its node, empty when unknown.
    pub node: String,
    /// Its zone, empty when unknown.
    pub zone: String,
    /// Whether it takes traffic.
    pub state: BackendState,
}

/// The conditions of an EndpointSlice endpoint, as one value (KEP-1672).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum BackendState {
    /// Takes new connections.
    Ready,
    /// Terminating but still serving: takes new connections only when no backend is ready.
    Terminating,
    /// Takes no new connections.
    NotReady,
}
