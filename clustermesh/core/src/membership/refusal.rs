//! Why a command is refused, in the words that users read.

use tombolo_model::{ClusterId, ClusterName, Prefix};

use super::{MeshId, TokenId};

/// A command that was not carried out. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another cluster has the name.
    #[error(
        "cluster name {name} is already used by cluster {id}: install the new cluster under another name"
    )]
    NameTaken {
        /// The name.
        name: ClusterName,
        /// Who has it.
        id: ClusterId,
    },
    /// Another cluster has the id.
    #[error("cluster id {id} is already used by cluster {owner}: install the new cluster with another id{}", free_id(*.free))]
    IdTaken {
        /// The id.
        id: ClusterId,
        /// Who has it.
        owner: ClusterName,
        /// The lowest one that nobody has.
        free: Option<ClusterId>,
    },
    /// The same cluster is in with other values.
    #[error("cluster {name} (id {id}) is already a member of the mesh: disconnect it before it joins again")]
    AlreadyMember {
        /// Its name.
        name: ClusterName,
        /// Its id.
        id: ClusterId,
    },
    /// Pod ranges of two clusters overlap.
    #[error(
        "pod range {range} of cluster {cluster} overlaps pod range {other_range} of cluster {other}: give one of \
         them another range"
    )]
    PodPrefixesOverlap {
        /// A range of the cluster that the command is about.
        range: Prefix,
        /// That cluster.
        cluster: ClusterName,
        /// The range that was there first.
        other_range: Prefix,
        /// Its owner.
        other: ClusterName,
    },
    /// The token is for another mesh.
    #[error("the token is for mesh {token}, this is mesh {mesh}: create a token on a member of this mesh")]
    OtherMesh {
        /// The token's mesh.
        token: MeshId,
        /// This one.
        mesh: MeshId,
    },
    /// Nobody made this token, or it ended long ago.
    #[error("token {0} is not known to this mesh: create a new one with `tombolo token create`")]
    TokenUnknown(TokenId),
    /// The secret is not the token's.
    #[error("the secret of token {0} is wrong: copy the whole token again")]
    TokenSecretWrong(TokenId),
    /// The token has admitted a cluster.
    #[error("token {token} was already used by cluster {by}: create a new one with `tombolo token create`")]
    TokenSpent {
        /// The token.
        token: TokenId,
        /// Who came in with it.
        by: ClusterId,
    },
    /// The token was called back.
    #[error("token {0} was revoked: create a new one with `tombolo token create`")]
    TokenRevoked(TokenId),
    /// The token's time is over.
    #[error(
        "token {token} expired {} s ago (at {expires}, the mesh's clock says {now}, seconds since 1970 UTC): create a \
         new one with `tombolo token create`", .now.saturating_sub(*.expires)
    )]
    TokenExpired {
        /// The token.
        token: TokenId,
        /// When it ended.
        expires: u64,
        /// The mesh's clock.
        now: u64,
    },
    /// A new token has the id of another one.
    #[error("token id {0} is already in use: create the token again")]
    TokenIdTaken(TokenId),
    /// Too many tokens at once.
    #[error("{0} tokens are open or remembered: wait until some expire, or use shorter lifetimes")]
    TooManyTokens(usize),
    /// No such cluster.
    #[error("cluster {0} is not a member of this mesh: `tombolo mesh status` lists the members")]
    UnknownCluster(ClusterId),
    /// A cluster wants to change what belongs to another one.
    #[error("cluster {proposer} may not change the record of cluster {owner}: run the command there")]
    NotYourRecord {
        /// Who wanted it.
        proposer: ClusterId,
        /// Whose record it is.
        owner: ClusterId,
    },
    /// Somebody else speaks for the cluster, or its authority has changed without a word of the former one.
    #[error(
        "the record of cluster {0} is not signed by the certificate authority that the mesh knows of it: if that \
         authority is lost, disconnect the cluster and join it again"
    )]
    NotSigned(ClusterName),
    /// An old version of a record.
    #[error("version {given} of the record of cluster {cluster} is not newer than the known version {known}")]
    Outdated {
        /// The cluster.
        cluster: ClusterName,
        /// The version offered.
        given: u64,
        /// The one that is known.
        known: u64,
    },
    /// A name is for life.
    #[error("cluster {old} cannot be renamed to {new}: disconnect it and join again under the new name")]
    Renamed {
        /// Its name.
        old: ClusterName,
        /// What it wanted.
        new: ClusterName,
    },
    /// Written by a member that has begun anew since, or was given up.
    #[error(
        "incarnation {given} of cluster {cluster} is not the expected {expected}: the member must rejoin"
    )]
    WrongIncarnation {
        /// The cluster.
        cluster: ClusterId,
        /// What the command says.
        given: u32,
        /// What it has to be.
        expected: u32,
    },
    /// A member given up by a recovery.
    #[error("cluster {0} was given up when the mesh was recovered: its member must rejoin")]
    Lost(ClusterId),
    /// The last member cannot be removed.
    #[error("cluster {0} is the only member of its mesh: there is nothing to disconnect it from")]
    LastCluster(ClusterId),
    /// A field is too large.
    #[error("{field} of cluster {cluster} has {given}, at most {max} are allowed: shorten it")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// The cluster.
        cluster: ClusterId,
        /// Its size.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// The records of all clusters are more than can be stored.
    #[error(
        "with cluster {cluster} the records of the mesh have {given} bytes, at most {max} can be stored: take clusters \
         out that are gone, or shorten CA bundles"
    )]
    MeshFull {
        /// The cluster whose record is new or has grown.
        cluster: ClusterName,
        /// Bytes of all records with it.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// A newer version's command.
    #[error(
        "the command is of a kind that this version does not know: upgrade all clusters of the mesh first"
    )]
    UnknownCommand,
}

fn free_id(free: Option<ClusterId>) -> String {
    free.map(|id| format!(", {id} is free")).unwrap_or_default()
}
