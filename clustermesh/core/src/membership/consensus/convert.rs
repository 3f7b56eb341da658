//! Between the Raft library's types and ours.

use raft::eraftpb;

use crate::membership::{Conf, EntryKind, HardState, LogEntry};

pub(super) fn to_entry(entry: &LogEntry) -> eraftpb::Entry {
    let kind = match entry.kind {
        EntryKind::Proposal => eraftpb::EntryType::EntryNormal,
        EntryKind::ConfChange => eraftpb::EntryType::EntryConfChangeV2,
    };
    let mut to = eraftpb::Entry { term: entry.term, index: entry.index, ..Default::default() };
    to.data.clone_from(&entry.data);
    to.set_entry_type(kind);
    to
}

pub(super) fn from_entry(entry: &eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => EntryKind::Proposal,
        eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChange,
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
}

pub(super) fn to_hard_state(hard: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

pub(super) fn from_hard_state(hard: &eraftpb::HardState) -> HardState {
    HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

pub(super) fn to_conf_state(conf: &Conf) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
        auto_leave: conf.auto_leave,
    }
}

pub(super) fn from_conf_state(conf: &eraftpb::ConfState) -> Conf {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    Conf {
        voters: sorted(&conf.voters),
        learners: sorted(&conf.learners),
        voters_outgoing: sorted(&conf.voters_outgoing),
        learners_next: sorted(&conf.learners_next),
        auto_leave: conf.auto_leave,
    }
}
