//! What goes out: first to storage, then to the others.

use std::{collections::BTreeSet, mem};

use prost_raft::Message as _;
use raft::{
    Ready, SnapshotStatus, StateRole,
    eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot},
};

use super::{
    Applied, Member, Output, Persisted, Step, Write, convert, log,
    voters::{self, View},
};
use crate::membership::{
    Changes, ClusterState, MemberId, MeshState, Proposal, StoredSnapshot,
    codec::{Body, RaftBytes},
    limits::{MAX_LOG_BYTES, MAX_LOG_ENTRIES},
};

/// A write that is under way, and what follows it.
pub(super) struct Pending {
    number: u64,
    ready: Option<Ready>,
}

impl Member {
    /// The next thing to do; none until the next input, or until the open [`Write`] is done.
    pub fn poll(&mut self) -> Option<Step> {
        if self.pending.is_some() || self.halted.is_some() {
            return None;
        }
        self.drain_inbox();
        if self.halted.is_some() {
            return None;
        }
        // The count of starts is stored before anything is said.
        if self.must_write && self.own.generation == self.generation && !self.node.has_ready() {
            return Some(Step::Write(self.begin_write(None)));
        }
        if self.node.has_ready() {
            let ready = self.node.ready();
            if self.must_write || needs_write(&ready) {
                return Some(Step::Write(self.begin_write(Some(ready))));
            }
            return Some(Step::Output(self.finish(Some(ready))));
        }
        if self.outgoing.is_empty() {
            return None;
        }
        Some(Step::Output(Output { messages: mem::take(&mut self.outgoing), applied: Vec::new() }))
    }

    /// Goes on after a write was stored.
    #[expect(clippy::needless_pass_by_value, reason = "a proof counts once")]
    pub fn persisted(&mut self, proof: Persisted) -> Output {
        let Some(pending) = self.pending.take_if(|p| p.number == proof.number) else {
            return Output::default();
        };
        self.own.generation = pending.number;
        let output = self.finish(pending.ready);
        self.settle();
        output
    }

    fn begin_write(&mut self, ready: Option<Ready>) -> Write {
        self.generation += 1;
        self.must_write = false;
        let mut changes = Changes {
            start: self.own.start,
            key: self.key,
            generation: self.generation,
            snapshot: None,
            entries: Vec::new(),
            hard: Some(self.node.store().hard),
        };
        let incoming = ready.as_ref().filter(|r| !r.snapshot().is_empty());
        changes.snapshot = match incoming {
            Some(ready) => Some(stored_snapshot(ready.snapshot())),
            None => self.compact_when_due(),
        };
        if let Some(ready) = &ready {
            changes.entries = log::stored_entries(ready.entries());
            changes.hard = ready.hs().map(convert::from_hard_state).or(changes.hard);
        }
        self.pending = Some(Pending { number: self.generation, ready });
        Write { number: self.generation, changes: Box::new(changes) }
    }

    fn compact_when_due(&mut self) -> Option<StoredSnapshot> {
        let log = self.node.mut_store();
        let (entries, bytes) = log.size();
        let due = log.applied > log.start.0 && (entries > MAX_LOG_ENTRIES || bytes > MAX_LOG_BYTES);
        due.then(|| log.compact())
    }

    /// Everything in `ready` is stored: it counts, and may be told.
    fn finish(&mut self, ready: Option<Ready>) -> Output {
        let mut output = Output { messages: mem::take(&mut self.outgoing), applied: Vec::new() };
        let Some(mut ready) = ready else { return output };
        let mut messages = ready.take_messages();
        messages.extend(ready.take_persisted_messages());
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot());
        }
        let log = self.node.mut_store();
        log.append(ready.take_entries());
        if let Some(hard) = ready.hs() {
            log.hard = convert::from_hard_state(hard);
        }
        self.apply(ready.take_committed_entries(), &mut output.applied);
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().hard.commit = commit;
        }
        messages.extend(light.take_messages());
        self.apply(light.take_committed_entries(), &mut output.applied);
        self.node.advance_apply();
        for message in messages {
            self.emit(&message, &mut output);
        }
        output
    }

    fn install(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        // It was decoded once when it came in (guard).
        if let Ok(state) = MeshState::decode(&snapshot.data) {
            self.lineage = state.lineage;
            let conf = metadata.get_conf_state().clone();
            self.node.mut_store().restore(metadata.index, metadata.term, conf, state);
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, applied: &mut Vec<Applied>) {
        for entry in entries {
            let log = self.node.mut_store();
            log.applied = entry.index;
            match entry.get_entry_type() {
                EntryType::EntryNormal => {
                    let Ok(proposal) = Proposal::decode(&entry.data) else { continue };
                    let outcome = log.state.apply(&proposal);
                    applied.push(Applied { index: entry.index, term: entry.term, proposal, outcome });
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let Ok(change) = ConfChangeV2::decode(entry.data.as_slice()) else { continue };
                    // An impossible change is impossible for everybody.
                    if let Ok(conf) = self.node.apply_conf_change(&change) {
                        self.node.mut_store().conf = conf;
                    }
                    // The voters in force after a restart follow from the commit index.
                    self.must_write = true;
                    self.step_down_unless_voter();
                }
            }
        }
    }

    /// A leader whose removal was begun by its predecessor; the Raft library would count on its vote and panic.
    fn step_down_unless_voter(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            raft.become_follower(raft.term, 0);
        }
    }

    fn emit(&mut self, message: &Message, output: &mut Output) {
        let (to, kind) = (message.to, message.get_msg_type());
        if kind == MessageType::MsgHeartbeat && !self.is_due(to) {
            return;
        }
        let sealed = self.seal(to, Body::Raft(RaftBytes { bytes: message.encode_to_vec() }));
        output.messages.extend(sealed);
        if kind == MessageType::MsgSnapshot {
            // Taken as arrived; if it was lost, the next probe finds out and it is sent again.
            self.node.report_snapshot(to, SnapshotStatus::Finish);
        }
    }

    /// Whether a heartbeat is to be sent.
    fn is_due(&mut self, to: u64) -> bool {
        if !self.node.store().conf.learners.contains(&to) {
            return true;
        }
        let pause = super::LEARNER_BEATS_ELECTIONS * self.election_ticks as u64;
        let due = self.beats.get(&to).is_none_or(|last| self.ticks - last >= pause);
        if due {
            self.beats.insert(to, self.ticks);
        }
        due
    }

    /// As leader, lets the voters follow the members of the mesh.
    pub(super) fn arrange_voters(&mut self) {
        if self.node.raft.state != StateRole::Leader || self.node.raft.has_pending_conf() {
            return;
        }
        // Whoever votes or falls silent can wait; with hundreds of members each look costs.
        let version = self.node.store().state.version;
        if self.arranged == version && !self.ticks.is_multiple_of(super::ARRANGE) {
            return;
        }
        self.arranged = version;
        let own = self.id.get();
        let conf = self.node.store().conf();
        let clusters = &self.node.store().state.clusters;
        let mut members: BTreeSet<u64> =
            clusters.values().filter(|c| c.state != ClusterState::Lost).map(|c| c.member().get()).collect();
        let stays = members.contains(&own);
        self.presence.retain(|id| members.contains(&id.get()));
        self.heard.retain(|id, _| members.contains(id) || conf.voters.contains(id));
        self.beats.retain(|id, _| members.contains(id));
        // A leader does not remove itself: it hands over first.
        members.insert(own);
        let view = self.view(members);
        if let Some(change) = voters::next_change(&conf, &view) {
            // Refused while another change is under way; the next tick tries again.
            let _ = self.node.propose_conf_change(Vec::new(), change);
        } else if !stays {
            let fit = |id: &&u64| **id != own && view.alive.contains(id) && view.caught_up.contains(id);
            if let Some(&heir) = conf.voters.iter().find(fit) {
                self.node.transfer_leader(heir);
            }
        }
    }

    fn view(&self, members: BTreeSet<u64>) -> View {
        let raft = &self.node.raft;
        let own = self.id.get();
        let heard = |id: &u64| self.heard.get(id).is_some_and(|at| self.ticks - at < self.dead_after);
        let near = raft.raft_log.committed.saturating_sub(super::CAUGHT_UP);
        let caught_up =
            raft.prs().iter().filter(|(_, p)| p.matched > 0 && p.matched >= near).map(|(id, _)| *id);
        View {
            alive: members.iter().copied().filter(|id| *id == own || heard(id)).collect(),
            caught_up: caught_up.collect(),
            members,
        }
    }

    /// The members it sends to: voters and learners.
    pub fn peers(&self) -> Vec<MemberId> {
        let conf = self.node.store().conf();
        let ids = conf.voters.into_iter().chain(conf.learners).chain(conf.voters_outgoing);
        let mut peers: Vec<MemberId> =
            ids.filter_map(MemberId::from_bits).filter(|id| *id != self.id).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

/// Term, vote, commit index, entries and snapshots have to be stored before others hear of them.
fn needs_write(ready: &Ready) -> bool {
    ready.hs().is_some() || !ready.entries().is_empty() || !ready.snapshot().is_empty()
}

fn stored_snapshot(snapshot: &Snapshot) -> StoredSnapshot {
    let metadata = snapshot.get_metadata();
    StoredSnapshot {
        index: metadata.index,
        term: metadata.term,
        conf: convert::from_conf_state(metadata.get_conf_state()),
        data: snapshot.data.clone(),
    }
}
