//! What a member must not forget, in values that storage understands.

use std::fmt;

use prost::Message;

use super::{
    MemberId, MeshState,
    codec::{DurableMessage, decode_error},
};

/// All of a member's durable state. It holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Durable {
    /// Whose it is.
    pub member: MemberId,
    /// How often the member has started with this state.
    pub start: u32,
    /// The secret by which the member recognises what it once said; zero before its first write.
    pub key: [u8; 32],
    /// Counts the writes; peers remember it and so tell a member that its storage is an old backup.
    pub generation: u64,
    /// Term, vote and commit index.
    pub hard: HardState,
    /// The state at some index; the log begins behind it.
    pub snapshot: StoredSnapshot,
    /// The log behind the snapshot, without gaps.
    pub entries: Vec<LogEntry>,
}

/// Raft's term, vote and commit index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term that the member has seen.
    pub term: u64,
    /// For whom it voted in that term ([`MemberId::get`]), 0 for nobody.
    pub vote: u64,
    /// The highest index that it knows to be committed.
    pub commit: u64,
}

/// The state machine and the voters at an index of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredSnapshot {
    /// The last index that it covers; 0 for none yet.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// Who voted at that index.
    pub conf: Conf,
    /// The encoded [`MeshState`].
    pub data: Vec<u8>,
}

/// Who takes part in decisions; ids as of [`MemberId::get`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conf {
    /// Those who vote.
    pub voters: Vec<u64>,
    /// Those who only follow.
    pub learners: Vec<u64>,
    /// The old voters, while a change is under way (joint consensus).
    pub voters_outgoing: Vec<u64>,
    /// Old voters that follow from the end of the change on.
    pub learners_next: Vec<u64>,
    /// The change ends by itself.
    pub auto_leave: bool,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its place.
    pub index: u64,
    /// The term of the leader that put it there.
    pub term: u64,
    /// What it holds.
    pub kind: EntryKind,
    /// The encoded content; empty for the first entry of a leader.
    pub data: Vec<u8>,
}

/// What an entry of the log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A [`Proposal`](super::Proposal).
    Proposal,
    /// A change of the voters.
    ConfChange,
}

/// What one write adds to the durable state; it is stored as a whole or not at all. It holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Changes {
    /// How often the member has started.
    pub start: u32,
    /// The member's secret.
    pub key: [u8; 32],
    /// The count of writes after this one.
    pub generation: u64,
    /// A new snapshot: entries up to its index go, all entries if the log does not contain that index and term.
    pub snapshot: Option<StoredSnapshot>,
    /// New entries: those from the first one's index on are replaced.
    pub entries: Vec<LogEntry>,
    /// Replaces term, vote and commit index.
    pub hard: Option<HardState>,
}

impl fmt::Debug for Durable {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, start, key: _, generation, hard, snapshot, entries } = self;
        f.debug_struct("Durable")
            .field("member", member)
            .field("start", start)
            .field("generation", generation)
            .field("hard", hard)
            .field("snapshot", snapshot)
            .field("entries", entries)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Changes {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, key: _, generation, snapshot, entries, hard } = self;
        f.debug_struct("Changes")
            .field("start", start)
            .field("generation", generation)
            .field("snapshot", snapshot)
            .field("entries", entries)
            .field("hard", hard)
            .finish_non_exhaustive()
    }
}

/// Stored bytes that are no durable state of this version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("membership data is damaged: {0}")]
pub struct DecodeError(pub(super) String);

impl Durable {
    /// The state of a member that knows nothing yet.
    pub fn empty(member: MemberId) -> Self {
        Self {
            member,
            start: 0,
            key: [0; 32],
            generation: 0,
            hard: HardState::default(),
            snapshot: StoredSnapshot::default(),
            entries: Vec::new(),
        }
    }

    /// The state of a member that was just let in. It knows the mesh as the member that let it in has described it
    /// (see [`Durable::described`]), but nothing of its history yet.
    pub fn joining(member: MemberId, described: &MeshState) -> Self {
        let snapshot = StoredSnapshot { data: described.encode(), ..StoredSnapshot::default() };
        Self { snapshot, ..Self::empty(member) }
    }

    /// The mesh as it was when the log began; for a member that has just joined, as it was described to it. None for
    /// a member that was never told.
    pub fn described(&self) -> Result<Option<MeshState>, DecodeError> {
        let data = &self.snapshot.data;
        if data.is_empty() { Ok(None) } else { MeshState::decode(data).map(Some) }
    }

    /// Brings the state up to date.
    pub fn apply(&mut self, changes: &Changes) {
        self.start = changes.start;
        self.key = changes.key;
        self.generation = changes.generation;
        if let Some(snapshot) = &changes.snapshot {
            let continues = self.entries.iter().any(|e| e.index == snapshot.index && e.term == snapshot.term);
            self.entries.retain(|e| continues && e.index > snapshot.index);
            self.snapshot = snapshot.clone();
        }
        if let Some(first) = changes.entries.first() {
            self.entries.retain(|e| e.index < first.index);
            self.entries.extend_from_slice(&changes.entries);
        }
        if let Some(hard) = changes.hard {
            self.hard = hard;
        }
    }

    /// The index of the last entry, or of the snapshot.
    pub fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.snapshot.index, |e| e.index)
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        DurableMessage::from(self).encode_to_vec()
    }

    /// From the bytes of [`Durable::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let durable = Self::try_from(DurableMessage::decode(bytes).map_err(decode_error)?)?;
        let mut next = durable.snapshot.index;
        for entry in &durable.entries {
            next += 1;
            if entry.index != next {
                return Err(DecodeError(format!("entry {} follows where {next} belongs", entry.index)));
            }
        }
        if durable.hard.commit > durable.last_index() {
            return Err(DecodeError(format!(
                "commit index {} is behind the end of the log at {}",
                durable.hard.commit,
                durable.last_index()
            )));
        }
        Ok(durable)
    }
}
