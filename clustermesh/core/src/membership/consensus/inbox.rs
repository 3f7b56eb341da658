//! What comes in: messages of other members, and proposals.

use prost::Message as _;
use prost_raft::Message as _;
use raft::{StateRole, eraftpb::Message};
use tombolo_model::ClusterId;

use super::{
    Halt, Input, Member, ReceiveError,
    guard::{self, Bad, Position},
    presence,
};
use crate::membership::{
    Envelope, Lineage, MemberId, Proposal,
    codec::{Body, EnvelopeMessage, RaftBytes, Stale},
    limits::MAX_PROPOSAL,
};

/// Inputs that wait for storage, at most, and their bytes.
const MAX_INBOX: (usize, usize) = (1024, 8 * 1024 * 1024);
/// Refused messages that are remembered until they are asked for.
const MAX_REFUSED: usize = 64;
/// The longest message that is looked at.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

impl Member {
    /// Takes a message that came over a session with cluster `session`.
    pub fn receive(&mut self, session: ClusterId, bytes: &[u8]) -> Result<(), ReceiveError> {
        if self.halted.is_some() {
            return Err(ReceiveError::Halted);
        }
        let decode = |e: &dyn std::fmt::Display| ReceiveError::Decode(e.to_string());
        if bytes.len() > MAX_MESSAGE {
            return Err(decode(&"it is too long"));
        }
        let envelope = EnvelopeMessage::decode(bytes).map_err(|e| decode(&e))?;
        let from = MemberId::from_bits(envelope.from).ok_or_else(|| decode(&"it has no sender"))?;
        if from.cluster() != Some(session) {
            return Err(ReceiveError::WrongSender { claimed: from, session });
        }
        if envelope.mesh != self.mesh.0.to_be_bytes() {
            return Err(ReceiveError::NotForUs("mesh"));
        }
        if envelope.to != self.id.get() {
            return Err(ReceiveError::NotForUs("member"));
        }
        self.check_lineage(from, Lineage(envelope.lineage))?;
        let EnvelopeMessage { start, nonce, generation, tag, .. } = envelope;
        let seen = Stale { start, nonce, generation, tag };
        if let Err(known) = self.presence.check(from, seen) {
            let reply = self.seal(from.get(), Body::Stale(known));
            self.outgoing.extend(reply);
            return Err(ReceiveError::Stale(from));
        }
        self.heard.insert(from.get(), self.ticks);
        match envelope.body {
            Some(Body::Raft(RaftBytes { bytes })) => {
                let message = Message::decode(bytes.as_slice()).map_err(|e| decode(&e))?;
                if message.from != from.get() || message.to != self.id.get() {
                    return Err(ReceiveError::Refused { from, reason: "it was made for others" });
                }
                let input = Input::Raft(Box::new(message));
                self.enqueue(input, bytes.len()).map_err(|()| ReceiveError::Busy)
            }
            Some(Body::Forward(bytes)) => {
                if bytes.len() > MAX_PROPOSAL {
                    return Err(ReceiveError::Refused { from, reason: "its proposal is too large" });
                }
                let proposal = Proposal::decode(&bytes).map_err(|e| decode(&e))?;
                if proposal.id.member != from || proposal.proposer != session {
                    return Err(ReceiveError::Refused { from, reason: "it proposes in another one's name" });
                }
                let input = Input::Propose(Box::new(proposal), false);
                self.enqueue(input, bytes.len()).map_err(|()| ReceiveError::Busy)
            }
            Some(Body::Stale(seen)) => {
                if seen.tag != presence::tag(&self.key, self.id, seen) {
                    return Err(ReceiveError::Refused { from, reason: "it claims what was never said here" });
                }
                if presence::is_proof(self.own, seen) {
                    self.halted = Some(Halt::OldBackup);
                }
                Ok(())
            }
            None => Err(ReceiveError::Refused { from, reason: "its kind is unknown" }),
        }
    }

    /// A member that knows nothing yet takes the history of whoever let it in.
    fn check_lineage(&mut self, from: MemberId, lineage: Lineage) -> Result<(), ReceiveError> {
        if self.node.store().start.0 == 0 {
            self.lineage = lineage;
        }
        if self.lineage == lineage { Ok(()) } else { Err(ReceiveError::OtherLineage(from)) }
    }

    /// The Raft library must not be touched while a write is open; inputs wait. `size` is in bytes.
    pub(super) fn enqueue(&mut self, input: Input, size: usize) -> Result<(), ()> {
        if self.pending.is_none() {
            self.handle(input);
            return Ok(());
        }
        let waiting = self.inbox.iter().map(|(_, size)| size).sum::<usize>();
        if self.inbox.len() >= MAX_INBOX.0 || waiting + size > MAX_INBOX.1 {
            return Err(());
        }
        self.inbox.push_back((input, size));
        Ok(())
    }

    pub(super) fn drain_inbox(&mut self) {
        while let Some((input, _)) = self.inbox.pop_front() {
            self.handle(input);
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Raft(message) => self.step(*message),
            Input::Propose(proposal, may_forward) => self.take_proposal(*proposal, may_forward),
            Input::Transfer(to) => self.node.transfer_leader(to.get()),
        }
        self.settle();
    }

    fn step(&mut self, message: Message) {
        let raft = &self.node.raft;
        let here = Position {
            term: raft.term,
            last: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
        };
        let from = MemberId::from_bits(message.from);
        match guard::check(&message, &self.node.raft.raft_log, &here) {
            // Raft answers what is out of place by itself; an error means that the sender is no member.
            Ok(()) => drop(self.node.step(message)),
            Err(Bad::Forgotten { leader_knows, here }) => {
                self.halted = Some(Halt::Forgotten { leader_knows, here });
            }
            Err(Bad::Message(reason)) => {
                let from = from.filter(|_| self.refused.len() < MAX_REFUSED);
                self.refused.extend(from.map(|from| (from, reason)));
            }
        }
    }

    fn take_proposal(&mut self, mut proposal: Proposal, may_forward: bool) {
        if self.node.raft.state == StateRole::Leader {
            proposal.at = self.now;
            // Dropped while leadership is handed over; the proposer asks again.
            let _ = self.node.propose(Vec::new(), proposal.encode());
        } else if may_forward && self.node.raft.leader_id != 0 {
            let sealed = self.seal(self.node.raft.leader_id, Body::Forward(proposal.encode()));
            self.outgoing.extend(sealed);
        }
    }

    /// Puts a message into an envelope; none when the receiver's id is impossible.
    pub(super) fn seal(&self, to: u64, body: Body) -> Option<Envelope> {
        let message = EnvelopeMessage {
            mesh: self.mesh.0.to_be_bytes().to_vec(),
            lineage: self.lineage.0,
            from: self.id.get(),
            to,
            start: self.own.start,
            nonce: self.own.nonce,
            generation: self.own.generation,
            tag: presence::tag(&self.key, self.id, self.own),
            body: Some(body),
        };
        Some(Envelope { to: MemberId::from_bits(to)?, bytes: message.encode_to_vec() })
    }
}
