//! What the state machine holds, and the commands that change it.

use std::{collections::BTreeSet, net::SocketAddr};

use tombolo_model::{ClusterId, ClusterName, Prefix};

use super::{MemberId, MeshId, ProposalId, Renewal, TokenId};

/// One cluster as the mesh knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterRecord {
    /// Its number, unique in the mesh; never changes.
    pub id: ClusterId,
    /// Its name, unique in the mesh; never changes.
    pub name: ClusterName,
    /// The CA certificates (DER) that its daemon and nodes may present; two during a rotation.
    pub ca: Vec<Vec<u8>>,
    /// Where its daemon answers other clusters; empty when it can only dial out.
    pub endpoints: Vec<SocketAddr>,
    /// What its nodes' addresses lie in.
    pub node_prefixes: Vec<Prefix>,
    /// What its pods' addresses lie in; no two clusters' overlap.
    pub pod_prefixes: Vec<Prefix>,
    /// What its version can do.
    pub features: BTreeSet<String>,
    /// How often its member has begun with empty storage, from 1.
    pub incarnation: u32,
    /// Where it stands.
    pub state: ClusterState,
    /// Counts the versions of what the cluster says about itself.
    pub revision: u64,
    /// Over [`ClusterRecord::signed_bytes`], by one of its authorities; empty from versions that did not sign.
    pub signature: Vec<u8>,
}

impl ClusterRecord {
    /// Its member of the Raft group.
    pub const fn member(&self) -> MemberId {
        MemberId::new(self.id, self.incarnation)
    }
}

/// Where a cluster stands in the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ClusterState {
    /// Admitted, not yet in sync.
    Joining,
    /// A member with all rights.
    Active,
    /// About to be removed by its own wish.
    Leaving,
    /// Given up by a recovery of the mesh; it may come back with a new incarnation.
    Lost,
}

/// A cluster that is no member any more, and who has taken it out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Its number.
    pub id: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// The cluster that wanted it: itself when it has left.
    pub by: ClusterName,
    /// When, by the clock of the member that led, seconds since 1970 (UTC).
    pub at: u64,
}

/// A one-time token as the mesh remembers it: never the secret itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// When it ends, seconds since 1970 (UTC).
    pub expires: u64,
    /// The cluster whose member made it.
    pub creator: ClusterId,
    /// Whether it still opens the door.
    pub status: TokenStatus,
}

/// Whether a token still admits a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenStatus {
    /// It admits one cluster.
    Open,
    /// It has admitted this one.
    Spent(ClusterId),
    /// It was called back.
    Revoked,
}

/// What a joining cluster shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// The mesh that the token is for.
    pub mesh: MeshId,
    /// The token.
    pub token: TokenId,
    /// SHA-256 of the secret that came with it.
    pub secret_hash: [u8; 32],
}

/// A wish to change the state. Every member decides alike, when it applies it, whether it may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Admits a cluster and spends its token in one step. Repeating it for the same cluster changes nothing.
    AddCluster {
        /// The new cluster; it starts as [`ClusterState::Joining`] and is given its incarnation here.
        record: ClusterRecord,
        /// Why it may come in.
        admission: Admission,
    },
    /// Replaces the proposer's own record; id, name and incarnation stay.
    UpdateCluster(ClusterRecord),
    /// Takes a cluster out, from whichever side.
    RemoveCluster(ClusterId),
    /// Lets a cluster that lost its storage come back, by its own word and whichever member brings it.
    RenewMember(Renewal),
    /// Makes a token known; its status is taken as open and its creator as the proposer.
    CreateToken(TokenRecord),
    /// Calls an open token back.
    RevokeToken(TokenId),
    /// A command that this version does not know; always refused.
    Unknown,
}

/// A command as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Finds the proposer's waiting call.
    pub id: ProposalId,
    /// The cluster that wants it.
    pub proposer: ClusterId,
    /// The leader's clock when it took it into the log, seconds since 1970 (UTC).
    pub at: u64,
    /// What is wanted.
    pub command: Command,
}
