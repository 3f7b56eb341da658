//! The protobuf form of state, commands, durable state and messages between members.
//!
//! Fields are only ever added; numbers are never used again.

mod durable;
mod envelope;
mod join;
mod record;

use prost::Message as _;

use self::record::{ProposalMessage, StateMessage};
pub(super) use self::{
    durable::DurableMessage,
    envelope::{Body, EnvelopeMessage, RaftBytes, Stale},
};
use super::{DecodeError, MeshState, Proposal};

pub(super) fn decode_error(error: impl std::fmt::Display) -> DecodeError {
    DecodeError(error.to_string())
}

fn missing(field: &'static str) -> DecodeError {
    DecodeError(format!("field {field} is missing or out of range"))
}

impl MeshState {
    /// The bytes of a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        StateMessage::from(self).encode_to_vec()
    }

    /// From the bytes of [`MeshState::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        StateMessage::decode(bytes).map_err(decode_error)?.try_into()
    }
}

impl Proposal {
    /// The bytes of a log entry.
    pub fn encode(&self) -> Vec<u8> {
        ProposalMessage::from(self).encode_to_vec()
    }

    /// From the bytes of [`Proposal::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        ProposalMessage::decode(bytes).map_err(decode_error)?.try_into()
    }
}
