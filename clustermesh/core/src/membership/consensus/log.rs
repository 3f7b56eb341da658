//! The log and the state machine in memory, as Raft reads them.

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, Snapshot},
    util::limit_size,
};

use super::convert;
use crate::membership::{Conf, Durable, HardState, LogEntry, MeshState, StoredSnapshot};

/// What of the log is in memory; everything in it is stored, or is about to be before anybody hears of it.
pub(super) struct Log {
    pub(super) hard: HardState,
    /// The log begins behind this index and term.
    pub(super) start: (u64, u64),
    entries: Vec<Entry>,
    /// The state after the entries up to `applied`.
    pub(super) state: MeshState,
    pub(super) applied: u64,
    /// The voters after the entries up to `applied`.
    pub(super) conf: ConfState,
}

impl Log {
    /// From what was stored; `empty` is the state of a member that has no snapshot yet.
    pub(super) fn new(durable: &Durable, state: MeshState) -> Self {
        let snapshot = &durable.snapshot;
        Self {
            hard: HardState { commit: durable.hard.commit.max(snapshot.index), ..durable.hard },
            start: (snapshot.index, snapshot.term),
            entries: durable.entries.iter().map(convert::to_entry).collect(),
            state,
            applied: snapshot.index,
            conf: convert::to_conf_state(&snapshot.conf),
        }
    }

    /// Adds entries; those from the first one's index on are replaced.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate(self.offset(first.index));
            self.entries.extend(entries);
        }
    }

    /// Replaces everything by a snapshot from the leader.
    pub(super) fn restore(&mut self, index: u64, term: u64, conf: ConfState, state: MeshState) {
        self.entries.clear();
        self.start = (index, term);
        self.applied = index;
        self.conf = conf;
        self.state = state;
        self.hard.commit = self.hard.commit.max(index);
    }

    /// Drops the entries that the state already holds, and returns that state for storage.
    pub(super) fn compact(&mut self) -> StoredSnapshot {
        let index = self.applied;
        let term = self.term_of(index).unwrap_or(self.start.1);
        self.entries.drain(..self.offset(index + 1));
        self.start = (index, term);
        StoredSnapshot { index, term, conf: self.conf(), data: self.state.encode() }
    }

    pub(super) fn conf(&self) -> Conf {
        convert::from_conf_state(&self.conf)
    }

    /// Entries in memory, and the bytes they hold.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().map(|e| e.data.len()).sum())
    }

    pub(super) fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    /// The term of an index; none when the log does not hold it.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        if index < self.start.0 {
            return None;
        }
        self.entries.get(self.offset(index)).map(|e| e.term)
    }

    /// Where the entry of an index is in `entries`; its end when it is not there yet.
    fn offset(&self, index: u64) -> usize {
        let offset = index.saturating_sub(self.start.0 + 1);
        usize::try_from(offset).map_or(self.entries.len(), |o| o.min(self.entries.len()))
    }
}

/// The stored form of what Raft wants to be stored.
pub(super) fn stored_entries(entries: &[Entry]) -> Vec<LogEntry> {
    entries.iter().map(convert::from_entry).collect()
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: convert::to_hard_state(self.hard), conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.0 {
            return Err(StorageError::Compacted.into());
        }
        let range = self.entries.get(self.offset(low)..self.offset(high)).unwrap_or_default();
        let mut entries = range.to_vec();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.start.0 {
            return Err(StorageError::Compacted.into());
        }
        self.term_of(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let Some(term) = self.term_of(self.applied).filter(|_| self.applied >= request_index) else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot { data: self.state.encode(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied;
        metadata.term = term;
        metadata.conf_state = Some(self.conf.clone());
        Ok(snapshot)
    }
}
