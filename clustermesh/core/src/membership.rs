//! Membership of the mesh: one Raft group, one member per cluster, one small replicated state machine.
//!
//! [`MeshState`] is what all members agree on; [`Member`] is one member without sockets, clock or disk. Inputs go
//! in by [`Member::tick`], [`Member::receive`] and [`Member::propose`]; what is to be done comes out of
//! [`Member::poll`]. Nothing that depends on stored state leaves a member before it was stored: a [`Write`] gives
//! the [`Persisted`] for which [`Member::persisted`] hands out the messages.

mod codec;
mod consensus;
mod durable;
mod ids;
mod join;
mod limits;
mod record;
mod refusal;
mod renewal;
mod signature;
mod state;

pub use self::{
    consensus::{
        Applied, Config, Halt, Member, Output, Persisted, ProposeError, ReceiveError, RecoverError,
        RestoreError, Role, Status, Step, Write, recover,
    },
    durable::{Changes, Conf, DecodeError, Durable, EntryKind, HardState, LogEntry, StoredSnapshot},
    ids::{Lineage, MemberId, MeshId, ProposalId, TokenId},
    join::{EntryRequest, JoinAnswer, JoinRequest},
    limits::MAX_DURABLE,
    record::{
        Admission, ClusterRecord, ClusterState, Command, Departure, Proposal, TokenRecord, TokenStatus,
    },
    refusal::Refusal,
    renewal::Renewal,
    state::MeshState,
};

/// A message between two members, opaque to whoever carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// To whom.
    pub to: MemberId,
    /// What to hand to its [`Member::receive`].
    pub bytes: Vec<u8>,
}
