//! Beginnings: a new mesh of one cluster, and a mesh that goes on with one survivor.

use raft::eraftpb::EntryType;
use sha2::{Digest, Sha256};

use super::convert;
use crate::membership::{
    ClusterRecord, ClusterState, Conf, DecodeError, Durable, HardState, Lineage, MemberId, MeshId, MeshState,
    Proposal, StoredSnapshot,
};

/// Why a mesh cannot be recovered here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoverError {
    /// The state cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// There is nothing to continue with.
    #[error("member {0} never got the state of the mesh: recover on another member")]
    Empty(MemberId),
    /// The survivor has been removed, or replaced by a newer incarnation.
    #[error("member {0} is no member of the mesh any more: recover on another member")]
    NotAMember(MemberId),
}

impl Durable {
    /// The durable state of the first member of a new mesh. `record` is its cluster.
    pub fn found(mesh: MeshId, record: &ClusterRecord) -> Self {
        let mut state = MeshState::empty(mesh, Lineage(1));
        let record = ClusterRecord { state: ClusterState::Active, incarnation: 1, ..record.clone() };
        let member = record.member();
        state.clusters.insert(record.id, record);
        Self {
            hard: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: alone(&state, member, 1, 1),
            ..Self::empty(member)
        }
    }
}

/// Lets a lone survivor continue: it becomes the only voter, all others are lost, and a new line of history
/// begins, in which messages of the old one do not count. What stands in its log counts as decided. Nobody but the
/// operator can know that the others are really gone.
pub fn recover(durable: &Durable) -> Result<Durable, RecoverError> {
    let member = durable.member;
    if durable.snapshot.index == 0 {
        return Err(RecoverError::Empty(member));
    }
    let mut state = MeshState::decode(&durable.snapshot.data)?;
    for entry in durable.entries.iter().map(convert::to_entry) {
        if entry.get_entry_type() == EntryType::EntryNormal
            && let Ok(proposal) = Proposal::decode(&entry.data)
        {
            // Refusals are part of the history too.
            let _ = state.apply(&proposal);
        }
    }
    if !state.clusters.values().any(|c| c.member() == member) {
        return Err(RecoverError::NotAMember(member));
    }
    for cluster in state.clusters.values_mut().filter(|c| c.member() != member) {
        cluster.state = ClusterState::Lost;
    }
    state.lineage = next_lineage(state.lineage, member);
    state.version += 1;
    let (index, term) = (durable.last_index() + 1, durable.hard.term + 1);
    Ok(Durable {
        hard: HardState { term, vote: 0, commit: index },
        snapshot: alone(&state, member, index, term),
        entries: Vec::new(),
        ..durable.clone()
    })
}

/// Differs for each member that recovers, so that two survivors of the same loss never mix.
fn next_lineage(lineage: Lineage, member: MemberId) -> Lineage {
    let mut hash = Sha256::new();
    hash.update(lineage.0.to_be_bytes());
    hash.update(member.get().to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    Lineage(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

fn alone(state: &MeshState, member: MemberId, index: u64, term: u64) -> StoredSnapshot {
    let conf = Conf { voters: vec![member.get()], ..Conf::default() };
    StoredSnapshot { index, term, conf, data: state.encode() }
}
