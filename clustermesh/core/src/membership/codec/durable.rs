//! Durable state.

use prost::Message;

use super::missing;
use crate::membership::{
    Conf, DecodeError, Durable, EntryKind, HardState, LogEntry, MemberId, StoredSnapshot,
};

#[derive(Clone, PartialEq, Message)]
pub(in crate::membership) struct DurableMessage {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(uint32, tag = "2")]
    start: u32,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(fixed64, tag = "5")]
    vote: u64,
    #[prost(uint64, tag = "6")]
    commit: u64,
    #[prost(message, optional, tag = "7")]
    snapshot: Option<SnapshotMessage>,
    #[prost(message, repeated, tag = "8")]
    entries: Vec<EntryMessage>,
    #[prost(bytes = "vec", tag = "9")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, repeated, tag = "3")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    learners_next: Vec<u64>,
    #[prost(bool, tag = "7")]
    auto_leave: bool,
    #[prost(bytes = "vec", tag = "8")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(bool, tag = "3")]
    conf_change: bool,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

impl From<&Durable> for DurableMessage {
    fn from(durable: &Durable) -> Self {
        let conf = &durable.snapshot.conf;
        Self {
            member: durable.member.get(),
            start: durable.start,
            generation: durable.generation,
            term: durable.hard.term,
            vote: durable.hard.vote,
            commit: durable.hard.commit,
            snapshot: Some(SnapshotMessage {
                index: durable.snapshot.index,
                term: durable.snapshot.term,
                voters: conf.voters.clone(),
                learners: conf.learners.clone(),
                voters_outgoing: conf.voters_outgoing.clone(),
                learners_next: conf.learners_next.clone(),
                auto_leave: conf.auto_leave,
                data: durable.snapshot.data.clone(),
            }),
            entries: durable
                .entries
                .iter()
                .map(|e| EntryMessage {
                    index: e.index,
                    term: e.term,
                    conf_change: e.kind == EntryKind::ConfChange,
                    data: e.data.clone(),
                })
                .collect(),
            key: durable.key.to_vec(),
        }
    }
}

impl TryFrom<DurableMessage> for Durable {
    type Error = DecodeError;

    fn try_from(message: DurableMessage) -> Result<Self, DecodeError> {
        let snapshot = message.snapshot.ok_or_else(|| missing("snapshot"))?;
        Ok(Self {
            member: MemberId::from_bits(message.member).ok_or_else(|| missing("member"))?,
            start: message.start,
            // Versions before the key stored none.
            key: match message.key.as_slice() {
                [] => [0; 32],
                key => key.try_into().map_err(|_| missing("key"))?,
            },
            generation: message.generation,
            hard: HardState { term: message.term, vote: message.vote, commit: message.commit },
            snapshot: StoredSnapshot {
                index: snapshot.index,
                term: snapshot.term,
                conf: Conf {
                    voters: snapshot.voters,
                    learners: snapshot.learners,
                    voters_outgoing: snapshot.voters_outgoing,
                    learners_next: snapshot.learners_next,
                    auto_leave: snapshot.auto_leave,
                },
                data: snapshot.data,
            },
            entries: message
                .entries
                .into_iter()
                .map(|e| LogEntry {
                    index: e.index,
                    term: e.term,
                    kind: if e.conf_change { EntryKind::ConfChange } else { EntryKind::Proposal },
                    data: e.data,
                })
                .collect(),
        })
    }
}
