//! What a cluster that joins or comes back and the member that lets it in say to each other: one request, one answer.

use super::{Admission, ClusterRecord, MemberId, MeshId, MeshState, Renewal, TokenId};
use crate::token::{Secret, Token};

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryRequest {
    /// A new cluster wants to come in.
    Join(Box<JoinRequest>),
    /// A cluster of the mesh has lost its member's storage.
    Renew(Renewal),
}

/// The wish to come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// The token's mesh.
    pub mesh: MeshId,
    /// The token's id.
    pub token: TokenId,
    /// The token's secret.
    pub secret: Secret,
    /// The cluster as it wants to be known; state and incarnation are decided by the mesh.
    pub record: ClusterRecord,
    /// Only ask whether it would be let in: nothing changes, and the token stays good.
    pub dry_run: bool,
}

/// What the mesh says to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinAnswer {
    /// It is in: this is its member id, to begin with empty storage, and the mesh as it is now.
    Admitted {
        /// Its member of the Raft group.
        member: MemberId,
        /// All clusters, with their CAs and endpoints.
        state: MeshState,
    },
    /// It would be let in (dry run).
    Possible,
    /// It is not, in words for its user.
    Refused(String),
    /// The renewal must be for this incarnation.
    Expected(u32),
}

impl JoinRequest {
    /// With what the token says.
    pub fn new(token: &Token, record: ClusterRecord, dry_run: bool) -> Self {
        Self { mesh: token.mesh, token: token.id, secret: token.secret.clone(), record, dry_run }
    }

    /// What is proposed to the mesh: the secret itself goes no further.
    pub fn admission(&self) -> Admission {
        Admission { mesh: self.mesh, token: self.token, secret_hash: self.secret.hash() }
    }
}
