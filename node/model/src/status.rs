//! What agents and daemons report about themselves: the JSON behind `tombolo status` and `tombolo mesh status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, ClusterName, Prefix};

/// The state of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Whether pods can be started: programs loaded, state complete.
    pub ready: bool,
    /// The session with the cluster's daemon.
    pub session: SessionStatus,
    /// Entries known to the agent, by table: `endpoints`, `identities`, `services`, ….
    pub counts: BTreeMap<String, u64>,
    /// Packets dropped since the programs were first loaded, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The node's tunnel.
    pub tunnel: TunnelStatus,
    /// What is wrong and what to do, one sentence each.
    pub problems: Vec<String>,
}

/// The session between an agent and its daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Where the daemon is, `ip:port`; empty when unknown.
    pub daemon: String,
    /// Whether the session is up.
    pub connected: bool,
    /// Whether the state was complete once since the agent started.
    pub synced: bool,
}

/// A node's tunnel to the nodes of other clusters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Whether the tunnel process answers.
    pub running: bool,
    /// The node's public key in base64; empty when there is none.
    pub public_key: String,
    /// Remote nodes.
    pub peers: Vec<TunnelPeerStatus>,
}

/// One remote node of the tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TunnelPeerStatus {
    /// `cluster/node`.
    pub node: String,
    /// Where its packets go, `ip:port`.
    pub endpoint: String,
    /// Seconds since the last handshake; none before the first.
    pub handshake_age: Option<u64>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// The mesh as one cluster's daemon sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeshStatus {
    /// The observer.
    pub cluster: ClusterName,
    /// Its id.
    pub id: ClusterId,
    /// Version of the daemon.
    pub version: String,
    /// The mesh, in hexadecimal.
    pub mesh: String,
    /// The member that leads the membership; none while there is no quorum.
    pub leader: Option<ClusterName>,
    /// The Raft term.
    pub term: u64,
    /// The last applied index.
    pub applied: u64,
    /// Every member, the observer too, by id.
    pub members: Vec<MemberStatus>,
    /// What a change of the observer's certificate authority waits for; none without one.
    pub rotation: Option<String>,
    /// Connections that were refused at the door: anybody may knock, so they are no problem as such.
    pub refused_connections: Option<RefusedConnections>,
    /// The last clusters that left or were taken out and have not come back, the newest first.
    #[serde(default)]
    pub departures: Vec<Departed>,
    /// What is wrong and what to do, one sentence each.
    pub problems: Vec<String>,
}

/// A cluster that is no member any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departed {
    /// Its name.
    pub name: ClusterName,
    /// The cluster that wanted it: itself when it has left.
    pub by: ClusterName,
    /// When (RFC 3339), by the clock of the member that led.
    pub at: String,
}

/// Connections that were not let in, since the daemon began to lead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedConnections {
    /// How many.
    pub count: u64,
    /// Where the last one came from, and why it was refused.
    pub last: String,
}

/// One cluster of the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: ClusterName,
    /// Its id.
    pub id: ClusterId,
    /// `joining`, `active`, `leaving` or `lost`.
    pub state: String,
    /// Whether it votes.
    pub voter: bool,
    /// Counts how often its member began anew; 1 at first.
    pub incarnation: u32,
    /// Pins of its CA certificates, `sha256:` and 64 hexadecimal digits: more than one while they are rotated.
    pub ca_pins: Vec<String>,
    /// Where its daemon is reached.
    pub endpoints: Vec<String>,
    /// The ranges of its pods.
    pub pod_prefixes: Vec<Prefix>,
    /// Name and version of its daemon; none before the first session.
    pub software: Option<String>,
    /// Whether the observer has a session with it.
    pub connected: bool,
    /// Whether all of its state has arrived once.
    pub synced: bool,
    /// Milliseconds since something was last heard from it; none for the observer itself or before the first time.
    pub heard_ms: Option<u64>,
    /// Changes of its records that the observer does not have yet, by its last heartbeat; none without a session.
    pub behind: Option<u64>,
    /// Changes of the membership that it has not applied, as far as the observer knows; none without a session.
    pub membership_behind: Option<u64>,
    /// The members that do not hear it, as far as the observer knows.
    #[serde(default)]
    pub cut_off_from: Vec<ClusterName>,
    /// Records known from it, by kind.
    pub counts: BTreeMap<String, u64>,
    /// Records that it sent about what is not its own, by reason; they were not accepted.
    pub refused: BTreeMap<String, u64>,
}
