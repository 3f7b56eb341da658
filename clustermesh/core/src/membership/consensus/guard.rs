//! Refuses messages on which the Raft library would panic: a peer's mistake, or one of ours, must not end the
//! process.

use std::collections::BTreeSet;

use raft::{
    RaftLog,
    eraftpb::{ConfState, EntryType, Message, MessageType},
};

use super::log::Log;
use crate::membership::MeshState;

/// Terms above this are no honest ones; it leaves room to count on.
const MAX_TERM: u64 = 1 << 56;

/// Why a message was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The sender is wrong or of another version.
    Message(&'static str),
    /// The leader relies on something that this member has forgotten.
    Forgotten { leader_knows: u64, here: u64 },
}

/// Where the member stands.
pub(super) struct Position {
    pub(super) term: u64,
    pub(super) last: u64,
    pub(super) committed: u64,
}

/// Checks a message before it is stepped.
pub(super) fn check(message: &Message, log: &RaftLog<Log>, here: &Position) -> Result<(), Bad> {
    if message.term == 0 || message.term > MAX_TERM {
        return Err(Bad::Message("its term is out of range"));
    }
    match message.get_msg_type() {
        MessageType::MsgAppend => check_append(message, log, here),
        MessageType::MsgHeartbeat => check_commit(message, here),
        MessageType::MsgSnapshot => check_snapshot(message, &log.store.state),
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
            if message.term == here.term && !message.reject && message.index > here.last {
                return Err(Bad::Message("it acknowledges what was never sent"));
            }
            Ok(())
        }
        MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => Err(Bad::Message("its kind is not for other members")),
    }
}

/// A leader never tells a member of more commits than that member has acknowledged.
fn check_commit(message: &Message, here: &Position) -> Result<(), Bad> {
    if message.term >= here.term && message.commit > here.last {
        return Err(Bad::Forgotten { leader_knows: message.commit, here: here.last });
    }
    Ok(())
}

fn check_append(message: &Message, log: &RaftLog<Log>, here: &Position) -> Result<(), Bad> {
    for (entry, index) in message.entries.iter().zip(message.index.saturating_add(1)..) {
        if entry.index != index || entry.term > message.term || entry.term == 0 {
            return Err(Bad::Message("its entries do not follow each other"));
        }
        if EntryType::from_i32(entry.entry_type).is_none() {
            return Err(Bad::Message("it has an entry of an unknown kind"));
        }
        // What is not stored yet counts: a message may come twice before it is. Unknown terms are errors or 0.
        let differs = log.term(index).is_ok_and(|term| term != 0 && term != entry.term);
        let conflicts = index <= here.committed && differs;
        if message.term >= here.term && conflicts {
            return Err(Bad::Forgotten { leader_knows: message.commit, here: index });
        }
    }
    Ok(())
}

fn check_snapshot(message: &Message, known: &MeshState) -> Result<(), Bad> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err(Bad::Message("its snapshot has no place in the log"));
    }
    check_conf(metadata.get_conf_state())?;
    let state = MeshState::decode(&snapshot.data).map_err(|_| Bad::Message("its snapshot is damaged"))?;
    let foreign =
        |_| Bad::Message("its snapshot changes the record of a cluster without that cluster's signature");
    known.may_become(&state).map_err(foreign)
}

/// Voters there are, nobody is two things at once.
pub(super) fn check_conf(conf: &ConfState) -> Result<(), Bad> {
    let voters: BTreeSet<u64> = conf.voters.iter().chain(&conf.voters_outgoing).copied().collect();
    let all: Vec<u64> = conf.voters.iter().chain(&conf.learners).copied().collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    let sane = !conf.voters.is_empty()
        && distinct.len() == all.len()
        && !distinct.contains(&0)
        && conf.learners.iter().all(|id| !voters.contains(id))
        && conf.learners_next.iter().all(|id| conf.voters_outgoing.contains(id))
        && (!conf.auto_leave || !conf.voters_outgoing.is_empty());
    if sane { Ok(()) } else { Err(Bad::Message("its list of voters contradicts itself")) }
}
