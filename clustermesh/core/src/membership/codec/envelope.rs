//! Messages between members.

use prost::{Message, Oneof};

/// One message between two members.
#[derive(Clone, PartialEq, Message)]
pub(in crate::membership) struct EnvelopeMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::membership) mesh: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    pub(in crate::membership) lineage: u64,
    #[prost(fixed64, tag = "3")]
    pub(in crate::membership) from: u64,
    #[prost(fixed64, tag = "4")]
    pub(in crate::membership) to: u64,
    /// How often the sender had started.
    #[prost(uint32, tag = "5")]
    pub(in crate::membership) start: u32,
    /// Random for each start.
    #[prost(fixed64, tag = "6")]
    pub(in crate::membership) nonce: u64,
    /// How many writes the sender has stored.
    #[prost(uint64, tag = "7")]
    pub(in crate::membership) generation: u64,
    /// Proves to the sender that it has said so.
    #[prost(fixed64, tag = "11")]
    pub(in crate::membership) tag: u64,
    #[prost(oneof = "Body", tags = "8, 9, 10")]
    pub(in crate::membership) body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(in crate::membership) enum Body {
    /// A message of the Raft library.
    #[prost(message, tag = "8")]
    Raft(RaftBytes),
    /// An encoded proposal for the leader.
    #[prost(bytes, tag = "9")]
    Forward(Vec<u8>),
    /// The receiver has been seen with newer state.
    #[prost(message, tag = "10")]
    Stale(Stale),
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::membership) struct RaftBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::membership) bytes: Vec<u8>,
}

/// What was seen of the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(in crate::membership) struct Stale {
    #[prost(uint32, tag = "1")]
    pub(in crate::membership) start: u32,
    #[prost(fixed64, tag = "2")]
    pub(in crate::membership) nonce: u64,
    #[prost(uint64, tag = "3")]
    pub(in crate::membership) generation: u64,
    /// Proves to the receiver that it has said so.
    #[prost(fixed64, tag = "4")]
    pub(in crate::membership) tag: u64,
}
