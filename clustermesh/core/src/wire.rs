//! What sessions between clusters, and between a daemon and its nodes, say to each other.
//!
//! A message is a [`Frame`], encoded as protobuf and prefixed on a stream by its length (4 bytes, big-endian). All
//! bounds are in [`limits`]. Decoding is total: whatever the bytes are, the result is a frame or an error, and a
//! record that is not valid spoils only itself. Frames and kinds of record that a newer minor version has added are
//! skipped.

mod comparison;
mod frame;
pub mod limits;
mod parse;
mod policy;
mod proto;
mod record;
mod service;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tombolo_model::{Address, ClusterId, ClusterName, Kind, Record, RecordKey, TunnelKey};

use crate::trust::Pin;

pub use frame::{
    DecodeError, EncodeError, decode_change, decode_frame, encode_change, encode_frame, encode_transaction,
};
pub(crate) use frame::{change_bytes, encode_decoded};
pub use parse::FieldError;

/// The protocol version spoken here. Versions with the same major part understand each other.
pub const VERSION: Version = Version { major: 1, minor: 2 };

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The first message of both sides.
    Hello(Hello),
    /// Asks for records.
    Subscribe(Subscription),
    /// Answers a [`Frame::Subscribe`], or starts over when the receiver has become too slow.
    Begin {
        /// Where the stream starts.
        position: Position,
        /// Whether everything follows, rather than what came after the position asked for.
        snapshot: bool,
    },
    /// Follows a [`Frame::Begin`] of a snapshot for a receiver that holds records: digests of what the exporter has, by
    /// bucket. A power of two.
    Digests(Vec<u64>),
    /// Answers [`Frame::Digests`]: the buckets that differ.
    Want(Vec<WantedBucket>),
    /// Answers [`Frame::Want`]: the fingerprints listed there that the exporter does not have. What it has instead
    /// follows; all that the receiver holds besides is as it should be.
    Obsolete(Vec<u64>),
    /// Changes of records.
    Transaction(Transaction),
    /// Overtakes: the record that the transactions to come will bring (none if its kind is unknown), of which only
    /// removals and worsened backend states may be applied now.
    Withdraw(Option<Change>),
    /// The receiver has now everything up to the position.
    Watermark {
        /// The position.
        position: Position,
        /// Which records that were not mentioned may be dropped.
        scope: Scope,
    },
    /// The sender lives.
    Heartbeat(Heartbeat),
    /// How the sender's cluster sees the mesh.
    Observation(Observation),
    /// What a node knows first.
    NodeFacts(NodeFacts),
    /// Asks for a certificate.
    EnrollRequest(EnrollRequest),
    /// The certificate chain of an enrolled node, leaf first, each DER.
    EnrollResponse(Vec<Bytes>),
    /// Why the sender closes the session.
    Refusal(String),
    /// A message between two members of the Raft group, opaque here.
    Membership(Bytes),
    /// A message of a newer minor version.
    Unknown,
}

/// A protocol version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Changes when the two do not understand each other.
    pub major: u32,
    /// Changes when something is added.
    pub minor: u32,
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version of the protocol.
    pub version: Version,
    /// Optional abilities; unknown ones are ignored.
    pub features: BTreeSet<String>,
    /// Name and version of the software, for people.
    pub software: String,
    /// The cluster of the speaker.
    pub cluster: ClusterName,
    /// Its number in the mesh.
    pub cluster_id: ClusterId,
    /// The speaker's clock: milliseconds since 1970 (UTC).
    pub unix_time_ms: u64,
}

/// What a receiver asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// What came after this position; everything for none, or if the exporter does not know the position.
    pub from: Option<Position>,
    /// The receiver holds records, and would rather compare them than be sent everything.
    pub holds_records: bool,
}

/// What a receiver holds in one bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedBucket {
    /// The bucket, counted from 0.
    pub index: usize,
    /// The fingerprints of its records.
    pub held: Vec<u64>,
}

/// A place in an exporter's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Random number of the exporter's history; another one is another history.
    pub epoch: u64,
    /// The transaction, counted from 1; 0 is before the first.
    pub revision: u64,
}

/// Changes that become visible together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// The revision that the receiver has after it; 0 for a part of a snapshot, which is visible at once.
    pub revision: u64,
    /// When the oldest of the changes was made: milliseconds since 1970 (UTC) by the exporter's clock.
    pub changed_unix_ms: u64,
    /// Whether the transaction goes on in the next frame.
    pub more: bool,
    /// The changes.
    pub changes: Vec<Change>,
    /// How many changes of unknown kinds were left out.
    pub skipped: usize,
    /// How many changes were left out because they are not valid.
    pub invalid: usize,
    /// Why the first of them is not.
    pub first_invalid: Option<FieldError>,
}

/// A new state of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is now this.
    Upsert(Arc<Record>),
    /// It is no more.
    Remove(RecordKey),
}

impl Change {
    /// The key of the record.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Upsert(record) => record.key(),
            Self::Remove(key) => key.clone(),
        }
    }

    /// The kind of the record.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Upsert(record) => record.kind(),
            Self::Remove(key) => key.kind(),
        }
    }

    /// The cluster that the record speaks about; none for a policy.
    pub fn cluster(&self) -> Option<ClusterId> {
        match self {
            Self::Upsert(record) => record.cluster(),
            Self::Remove(key) => key.cluster(),
        }
    }
}

/// Of which clusters an exporter knows all records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// The exporter is still starting: absence of a record means nothing.
    #[default]
    Nothing,
    /// Of all but these: what belongs to other clusters and was not mentioned does not exist.
    AllBut(BTreeSet<ClusterId>),
}

/// A sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The exporter's newest revision.
    pub revision: u64,
    /// The exporter's clock: milliseconds since 1970 (UTC).
    pub unix_time_ms: u64,
}

/// What a daemon tells the others about the mesh as it sees it; a newer message replaces an older one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observation {
    /// The members that it has not heard for its drain time.
    pub silent: BTreeSet<ClusterId>,
    /// How many changes of the membership it has applied ([`MeshState::version`]).
    ///
    /// [`MeshState::version`]: crate::membership::MeshState::version
    pub membership: u64,
}

/// All that a node tells its daemon; a newer message replaces an older one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// Its tunnel, once there is one.
    pub tunnel: Option<TunnelKey>,
    /// The addresses it gave to its pods.
    pub endpoints: Vec<EndpointFact>,
    /// The certificate authorities that it accepts its daemon from; empty from versions that did not say.
    pub authorities: Vec<Pin>,
    /// The one that its own certificate is from.
    pub issuer: Option<Pin>,
}

/// A pod's addresses, as the node gave them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointFact {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Its addresses, one per family.
    pub addresses: Vec<Address>,
}

/// A node's request for a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollRequest {
    /// The projected service account token (JWT).
    pub token: String,
    /// The signing request (PKCS #10, DER); only its key counts.
    pub csr_der: Bytes,
}

impl std::fmt::Debug for EnrollRequest {
    /// Leaves out the token, which is a credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest").field("csr_der", &self.csr_der.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
