//! One member of the Raft group without IO. Only this module knows the types of the Raft library.

mod convert;
mod found;
mod guard;
mod inbox;
mod log;
mod output;
mod presence;
mod ready;
mod status;
mod voters;

use std::collections::{BTreeMap, VecDeque};

use raft::{RawNode, StateRole, eraftpb::Message};
use tombolo_model::ClusterId;

pub use self::{
    found::{RecoverError, recover},
    output::{Applied, Output, Persisted, Step, Write},
    status::{Role, Status},
};
use self::{log::Log, presence::Presence, ready::Pending};
use super::{
    Command, Durable, Envelope, Lineage, MemberId, MeshId, MeshState, Proposal, ProposalId, Refusal,
    codec::Stale, limits::MAX_UNDECIDED, state::check_size,
};

/// A voter that was not heard of for this many election timeouts gives its vote to a learner.
const DEAD_AFTER_ELECTIONS: u64 = 10;
/// A learner hears the leader's heartbeat once in this many election timeouts: it does not stand for election, and what
/// is decided comes by itself. There may be hundreds.
const LEARNER_BEATS_ELECTIONS: u64 = 4;
/// How often a leader looks who should vote, in ticks; at once when the members have changed.
const ARRANGE: u64 = 5;
/// How far behind the commit index a learner may be to become a voter.
const CAUGHT_UP: u64 = 64;

/// How a member is set up.
#[derive(Clone)]
pub struct Config {
    /// Its mesh.
    pub mesh: MeshId,
    /// Ticks without a leader after which followers stand for election, up to twice as many; at least 2.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats; less than `election_ticks`.
    pub heartbeat_ticks: usize,
    /// Random, new for each start.
    pub seed: u64,
    /// Random and secret: becomes the key of a member that has none yet.
    pub key: [u8; 32],
}

/// Durable state that does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RestoreError {
    /// The state cannot be read.
    #[error(transparent)]
    Decode(#[from] super::DecodeError),
    /// The state is of another mesh.
    #[error(
        "membership data is of mesh {found}, this cluster belongs to mesh {expected}: the member must rejoin"
    )]
    OtherMesh {
        /// What is stored.
        found: MeshId,
        /// What was configured.
        expected: MeshId,
    },
    /// The Raft library refuses it.
    #[error("membership cannot start: {0}")]
    Raft(String),
}

/// A proposal that went nowhere.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Too few members answer to elect a leader, or the election is under way.
    #[error("the mesh has no leader right now")]
    NoLeader,
    /// This member must rejoin.
    #[error("this member has lost part of its state and must rejoin the mesh")]
    Halted,
    /// Storage is slow, or too many proposals wait.
    #[error("too many changes are waiting: try again")]
    Busy,
    /// It could never be carried out.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A message that was not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReceiveError {
    /// The bytes are no message.
    #[error("membership message is damaged: {0}")]
    Decode(String),
    /// Its sender is not who was authenticated.
    #[error("membership message claims to come from {claimed}, the session is with cluster {session}")]
    WrongSender {
        /// Who it says it is.
        claimed: MemberId,
        /// Who was authenticated.
        session: ClusterId,
    },
    /// It is for another mesh or member.
    #[error("membership message is for another {0}")]
    NotForUs(&'static str),
    /// The sender missed a recovery of the mesh, or this member did.
    #[error("member {0} follows another history of the mesh since a recovery: one of the two must rejoin")]
    OtherLineage(MemberId),
    /// The sender's storage went back in time, or the message is late.
    #[error("member {0} has sent a message from before its last start")]
    Stale(MemberId),
    /// No honest member sends this.
    #[error("membership message from {from} is refused: {reason}")]
    Refused {
        /// The sender.
        from: MemberId,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too many messages wait for storage.
    #[error("membership is waiting for its storage: message dropped")]
    Busy,
    /// This member must rejoin.
    #[error("this member has lost part of its state and must rejoin the mesh")]
    Halted,
}

impl ReceiveError {
    /// Whether no honest member of any version sends such a message.
    pub const fn is_misdeed(&self) -> bool {
        matches!(self, Self::Decode(_) | Self::WrongSender { .. } | Self::Refused { .. })
    }
}

/// Why a member says nothing any more: it must rejoin under a new incarnation.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Halt {
    /// Others have seen it with newer state.
    #[error(
        "membership data is an old backup: others have seen this member with newer data; rejoin the mesh"
    )]
    OldBackup,
    /// The leader counts on entries that are not here.
    #[error(
        "membership data lacks entry {leader_knows} (it ends at {here}), which this member once acknowledged; rejoin the mesh"
    )]
    Forgotten {
        /// What the leader knows it to have had.
        leader_knows: u64,
        /// What is here.
        here: u64,
    },
}

/// One member. See the [module](super) for how to drive it.
pub struct Member {
    node: RawNode<Log>,
    id: MemberId,
    cluster: ClusterId,
    mesh: MeshId,
    lineage: Lineage,
    /// Start, nonce and stored writes: what others may know of this member.
    own: Stale,
    /// Signs that to itself.
    key: [u8; 32],
    /// Writes begun.
    generation: u64,
    /// Something beside Raft's wishes has to be stored.
    must_write: bool,
    sequence: u64,
    now: u64,
    ticks: u64,
    dead_after: u64,
    election_ticks: usize,
    random: u64,
    election_timeout: usize,
    role: (u64, StateRole, u64),
    /// What waits for storage, with its bytes.
    inbox: VecDeque<(Input, usize)>,
    outgoing: Vec<Envelope>,
    pending: Option<Pending>,
    presence: Presence,
    heard: BTreeMap<u64, u64>,
    /// When learners were last sent a heartbeat, in ticks.
    beats: BTreeMap<u64, u64>,
    /// The version of the state for which voters were last arranged.
    arranged: u64,
    halted: Option<Halt>,
    /// Senders of messages that were looked at and refused.
    refused: Vec<(MemberId, &'static str)>,
}

enum Input {
    Raft(Box<Message>),
    /// A proposal, and whether it may be sent on to the leader.
    Propose(Box<Proposal>, bool),
    Transfer(MemberId),
}

impl Member {
    /// Starts a member with what was stored; a joining one with [`Durable::empty`].
    pub fn restore(config: &Config, durable: &Durable) -> Result<Self, RestoreError> {
        let state = if durable.snapshot.index == 0 {
            MeshState::empty(config.mesh, Lineage(0))
        } else {
            MeshState::decode(&durable.snapshot.data)?
        };
        if state.mesh != config.mesh {
            return Err(RestoreError::OtherMesh { found: state.mesh, expected: config.mesh });
        }
        let damaged = || super::DecodeError("its list of voters contradicts itself".to_owned());
        let log = Log::new(durable, state);
        if log.start.0 > 0 {
            guard::check_conf(&log.conf).map_err(|_| damaged())?;
        }
        let lineage = log.state.lineage;
        let raft_config = raft::Config {
            id: durable.member.get(),
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: log.applied,
            max_size_per_msg: MAX_UNDECIDED as u64,
            max_uncommitted_size: MAX_UNDECIDED as u64,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft_error = |e: raft::Error| RestoreError::Raft(e.to_string());
        let node = RawNode::new(&raft_config, log, &logger).map_err(raft_error)?;
        let mut member = Self {
            node,
            id: durable.member,
            cluster: durable.member.cluster().ok_or_else(damaged)?,
            mesh: config.mesh,
            lineage,
            own: Stale {
                start: durable.start + 1,
                nonce: config.seed,
                generation: durable.generation,
                tag: 0,
            },
            key: if durable.key == [0; 32] { config.key } else { durable.key },
            generation: durable.generation,
            must_write: true,
            sequence: 0,
            now: 0,
            ticks: 0,
            dead_after: DEAD_AFTER_ELECTIONS * config.election_ticks as u64,
            election_ticks: config.election_ticks,
            random: config.seed,
            election_timeout: config.election_ticks,
            role: (0, StateRole::Follower, 0),
            inbox: VecDeque::new(),
            outgoing: Vec::new(),
            pending: None,
            presence: Presence::default(),
            heard: BTreeMap::new(),
            beats: BTreeMap::new(),
            arranged: 0,
            halted: None,
            refused: Vec::new(),
        };
        member.settle();
        Ok(member)
    }

    /// Lets one tick pass; `now` is in seconds since 1970 (UTC). Time stands still while a [`Write`] is open.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        if self.pending.is_some() || self.halted.is_some() {
            return;
        }
        self.ticks += 1;
        self.node.tick();
        let alone = self.node.store().conf.voters == [self.id.get()];
        if alone && self.node.raft.state == StateRole::Follower {
            // Nobody else can be elected. An error means that entries wait to be applied: the next tick comes.
            let _ = self.node.campaign();
        }
        self.settle();
        self.arrange_voters();
    }

    /// Wishes for a change in the name of this member's cluster. Its outcome is an [`Applied`] with this id, if
    /// the proposal gets into the log; nothing tells when it does not.
    pub fn propose(&mut self, command: Command) -> Result<ProposalId, ProposeError> {
        if self.halted.is_some() {
            return Err(ProposeError::Halted);
        }
        if let Command::AddCluster { record, .. } | Command::UpdateCluster(record) = &command {
            check_size(record)?;
        }
        if self.node.raft.leader_id == 0 {
            return Err(ProposeError::NoLeader);
        }
        self.sequence += 1;
        let id = ProposalId { member: self.id, start: self.own.start, sequence: self.sequence };
        let proposal = Proposal { id, proposer: self.cluster, at: self.now, command };
        self.enqueue(Input::Propose(Box::new(proposal), true), 0).map_err(|()| ProposeError::Busy)?;
        Ok(id)
    }

    /// Hands leadership to another voter, if this member leads.
    pub fn transfer(&mut self, to: MemberId) -> Result<(), ProposeError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NoLeader);
        }
        self.enqueue(Input::Transfer(to), 0).map_err(|()| ProposeError::Busy)
    }

    /// The state as far as this member knows it to be decided.
    pub fn state(&self) -> &MeshState {
        &self.node.store().state
    }

    /// Its id.
    pub const fn id(&self) -> MemberId {
        self.id
    }

    /// Why it says nothing any more, if so.
    pub const fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// Who has sent what no honest member sends, and was found out after [`Member::receive`] took it; since the last call.
    pub fn take_refused(&mut self) -> Vec<(MemberId, &'static str)> {
        std::mem::take(&mut self.refused)
    }

    /// Replaces the library's random election timeout by ours, so that runs can be repeated.
    fn settle(&mut self) {
        let raft = &mut self.node.raft;
        let role = (raft.term, raft.state, raft.leader_id);
        if role != self.role {
            if role.1 == StateRole::Leader && self.role.1 != StateRole::Leader {
                // Nobody is dead before having had the time to answer.
                let ticks = self.ticks;
                self.heard.extend(raft.prs().iter().map(|(id, _)| (*id, ticks)));
            }
            self.role = role;
            let spread = next_random(&mut self.random) % self.election_ticks as u64;
            self.election_timeout = self.election_ticks + usize::try_from(spread).unwrap_or(0);
        }
        raft.set_randomized_election_timeout(self.election_timeout);
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
