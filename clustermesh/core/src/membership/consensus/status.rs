//! How a member sees itself and the group.

use raft::StateRole;

use super::{Halt, Member};
use crate::membership::{Conf, MemberId};

/// What `tombolo mesh status` shows of the Raft group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This member.
    pub member: MemberId,
    /// Its role.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<MemberId>,
    /// Its term.
    pub term: u64,
    /// Voters and learners.
    pub conf: Conf,
    /// The highest index it knows to be committed.
    pub commit: u64,
    /// The highest index in its state.
    pub applied: u64,
    /// The end of its log.
    pub last_index: u64,
    /// Why it stands still, if so.
    pub halted: Option<Halt>,
}

/// The role of a member in its term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows the leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, or stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl Member {
    /// Where it stands.
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            member: self.id,
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            leader: MemberId::from_bits(raft.leader_id),
            term: raft.term,
            conf: self.node.store().conf(),
            commit: raft.raft_log.committed,
            applied: self.node.store().applied,
            last_index: raft.raft_log.last_index(),
            halted: self.halted,
        }
    }
}
