//! The protobuf messages of sessions, field by field. A field number is never given to another field; new fields and new
//! members of a oneof are skipped by those who do not know them.

mod record;

use bytes::Bytes;
use prost::{Message, Oneof};

pub use self::record::*;

/// One message of a session.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    #[prost(oneof = "frame::Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub body: Option<frame::Body>,
}

pub mod frame {
    use super::{
        Begin, Digests, EnrollRequest, EnrollResponse, Heartbeat, Hello, Membership, NodeFacts, Observation,
        Obsolete, Oneof, Refusal, Subscribe, Transaction, Want, Watermark, Withdraw,
    };

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Body {
        #[prost(message, tag = "1")]
        Hello(Hello),
        #[prost(message, tag = "2")]
        Subscribe(Subscribe),
        #[prost(message, tag = "3")]
        Begin(Begin),
        #[prost(message, tag = "4")]
        Transaction(Transaction),
        #[prost(message, tag = "5")]
        Withdraw(Withdraw),
        #[prost(message, tag = "6")]
        Watermark(Watermark),
        #[prost(message, tag = "7")]
        Heartbeat(Heartbeat),
        #[prost(message, tag = "8")]
        NodeFacts(NodeFacts),
        #[prost(message, tag = "9")]
        EnrollRequest(EnrollRequest),
        #[prost(message, tag = "10")]
        EnrollResponse(EnrollResponse),
        #[prost(message, tag = "11")]
        Refusal(Refusal),
        #[prost(message, tag = "12")]
        Membership(Membership),
        #[prost(message, tag = "13")]
        Digests(Digests),
        #[prost(message, tag = "14")]
        Want(Want),
        #[prost(message, tag = "15")]
        Obsolete(Obsolete),
        #[prost(message, tag = "16")]
        Observation(Observation),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub major: u32,
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    #[prost(string, repeated, tag = "3")]
    pub features: Vec<String>,
    #[prost(string, tag = "4")]
    pub software: String,
    #[prost(string, tag = "5")]
    pub cluster: String,
    #[prost(uint32, tag = "6")]
    pub cluster_id: u32,
    #[prost(uint64, tag = "7")]
    pub unix_time_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Membership {
    #[prost(bytes = "bytes", tag = "1")]
    pub message: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Position {
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Subscribe {
    #[prost(message, optional, tag = "1")]
    pub from: Option<Position>,
    #[prost(bool, tag = "2")]
    pub holds_records: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Digests {
    #[prost(fixed64, repeated, tag = "1")]
    pub digests: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Want {
    #[prost(uint32, repeated, tag = "1")]
    pub buckets: Vec<u32>,
    /// How many of `held` belong to each bucket.
    #[prost(uint32, repeated, tag = "2")]
    pub counts: Vec<u32>,
    #[prost(fixed64, repeated, tag = "3")]
    pub held: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Obsolete {
    #[prost(fixed64, repeated, tag = "1")]
    pub held: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Begin {
    #[prost(message, optional, tag = "1")]
    pub position: Option<Position>,
    #[prost(bool, tag = "2")]
    pub snapshot: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Transaction {
    /// Zero for a part of a snapshot, which moves no position.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub changed_unix_ms: u64,
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Each an encoded [`Change`].
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub changes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Withdraw {
    /// An encoded [`Change`].
    #[prost(bytes = "bytes", tag = "1")]
    pub change: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Watermark {
    #[prost(message, optional, tag = "1")]
    pub position: Option<Position>,
    #[prost(bool, tag = "2")]
    pub complete: bool,
    #[prost(uint32, repeated, tag = "3")]
    pub pending: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Heartbeat {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub unix_time_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeFacts {
    #[prost(message, optional, tag = "1")]
    pub tunnel: Option<TunnelKey>,
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<EndpointFact>,
    /// 32 bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub authorities: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub issuer: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Observation {
    #[prost(uint32, repeated, tag = "1")]
    pub silent: Vec<u32>,
    #[prost(uint64, tag = "2")]
    pub membership: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct EndpointFact {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub uid: String,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EnrollRequest {
    #[prost(string, tag = "1")]
    pub token: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub csr_der: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct EnrollResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub chain_der: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    #[prost(string, tag = "1")]
    pub reason: String,
}
