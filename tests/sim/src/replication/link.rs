//! A session: the two ends, and what is under way between them.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::{Rng, rngs::StdRng};
use tombolo_mesh_core::{
    replication::{Delta, Log, Receiver, Sender},
    wire::{Frame, decode_frame, encode_frame},
};

use super::Report;
use crate::Mutant;

/// See the module. The receiver outlives its sessions.
pub(super) struct Link {
    pub(super) receiver: Receiver,
    sender: Option<Sender>,
    wire: VecDeque<Bytes>,
    replies: VecDeque<Frame>,
}

/// The exporter's end.
pub(super) struct Exporting<'a> {
    pub(super) log: &'a Log,
    pub(super) mutant: Option<Mutant>,
}

impl Link {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver, sender: None, wire: VecDeque::new(), replies: VecDeque::new() }
    }

    /// The connection ends; what is under way is lost.
    pub(super) fn cut(&mut self) {
        self.sender = None;
        self.wire.clear();
        self.replies.clear();
    }

    /// Some frames are made, and some arrive. Without a session one begins.
    pub(super) fn turn(
        &mut self,
        exporting: &mut Exporting<'_>,
        forged: Option<Vec<u8>>,
        random: &mut StdRng,
        report: &mut Report,
    ) -> Vec<Delta> {
        if self.sender.is_none() {
            self.sender = Some(Sender::default());
            let subscription = self.receiver.subscribe();
            self.replies.push_back(subscription);
        }
        for _ in 0..random.random_range(1..5) {
            self.make(exporting, random, report);
        }
        if let Some(forged) = forged.filter(|_| random.random_bool(0.3)) {
            report.forged += 1;
            let at = random.random_range(0..=self.wire.len());
            self.wire.insert(at, forged.into());
        }
        let mut deltas = Vec::new();
        for _ in 0..random.random_range(1..5) {
            let Some(bytes) = self.wire.pop_front() else { break };
            report.events += 1;
            // The session of one who says what cannot be understood ends.
            match decode_frame(&bytes).ok().and_then(|frame| self.receiver.handle(frame).ok()) {
                Some(delta) => deltas.extend(delta),
                None => {
                    report.refused += 1;
                    self.cut();
                    break;
                }
            }
            self.replies.extend(self.receiver.take_reply());
        }
        deltas
    }

    fn make(&mut self, exporting: &Exporting<'_>, random: &mut StdRng, report: &mut Report) {
        let Some(sender) = &mut self.sender else { return };
        match self.replies.pop_front() {
            Some(Frame::Subscribe(mut subscription)) => {
                if let (Some(Mutant::ResumesTooLate), Some(from)) = (exporting.mutant, &mut subscription.from)
                {
                    from.revision += 1;
                }
                sender.subscribe(exporting.log, subscription);
            }
            Some(Frame::Want(mut wanted)) => {
                if exporting.mutant == Some(Mutant::WantIgnored) {
                    wanted.truncate(1);
                }
                sender.want(exporting.log, wanted);
            }
            _ => {}
        }
        let Some(out) = sender.poll(exporting.log) else { return };
        report.events += 1;
        self.wire.extend(spoiled(out.frame, exporting.mutant, random));
        let last = self.wire.len().saturating_sub(1);
        if exporting.mutant == Some(Mutant::FramesSwapped) && last > 0 && random.random_bool(0.05) {
            self.wire.swap(last, last - 1);
        }
    }
}

/// The frame, or what a mistake makes of it.
fn spoiled(bytes: Bytes, mutant: Option<Mutant>, random: &mut StdRng) -> Option<Bytes> {
    match mutant {
        Some(Mutant::FrameLost) if random.random_bool(0.02) => None,
        Some(Mutant::ObsoleteLost | Mutant::TransactionSplit) => {
            let again = |frame: &Frame| encode_frame(frame).ok();
            match (mutant, decode_frame(&bytes)) {
                (Some(Mutant::ObsoleteLost), Ok(Frame::Obsolete(_))) => again(&Frame::Obsolete(Vec::new())),
                (Some(Mutant::TransactionSplit), Ok(Frame::Transaction(mut t))) => {
                    // Half of it arrives, the rest with the next one.
                    t.changes.truncate(t.changes.len().div_ceil(2));
                    again(&Frame::Transaction(t))
                }
                _ => Some(bytes),
            }
        }
        _ => Some(bytes),
    }
}
