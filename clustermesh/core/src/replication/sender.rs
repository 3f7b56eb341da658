//! What one receiver is sent, and when.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tombolo_model::{Kind, Record, RecordKey};

use super::{
    Subscription, WantedBucket, compare,
    log::{Entry, Log},
    withdraw,
};
use crate::wire::{
    Change, Frame, Heartbeat, Position, encode_change, encode_frame, encode_transaction, limits::MAX_FRAME,
};

/// Bytes of changes after which a frame is closed: small, so that what is urgent need not wait long.
const FRAME_TARGET: usize = 64 << 10;

/// The state of one subscription. It holds no records while the receiver keeps up, and at most one reference to each
/// changed record while a transaction is under way.
#[derive(Debug, Default)]
pub struct Sender {
    state: State,
    /// To be said before anything else.
    first: VecDeque<Frame>,
    /// The receiver holds records, and can compare them.
    compares: bool,
    /// So many withdrawals need not overtake anything any more.
    urgent_after: u64,
    /// The version of the scope that the receiver knows.
    scope_version: Option<u64>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unsubscribed,
    /// Everything is sent, in the order of the keys.
    Snapshot {
        /// The revision at which it began. What changed later follows in one transaction.
        base: u64,
        /// The last key that was looked at.
        after: Option<Arc<RecordKey>>,
    },
    /// The receiver was sent digests, and is to list what it holds where they differ.
    Comparing {
        /// The revision of the digests. What changed later follows in one transaction.
        base: u64,
        buckets: usize,
    },
    /// What differs is sent, in the order of the keys.
    Patch { base: u64, rest: VecDeque<Arc<RecordKey>> },
    /// The receiver has, or is about to have, everything up to a revision.
    Live { sent: u64, batch: Option<Batch> },
}

/// A transaction under way.
#[derive(Debug)]
struct Batch {
    target: u64,
    changed_unix_ms: u64,
    rest: VecDeque<(Arc<RecordKey>, Entry)>,
}

/// How a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Where the receiver stands.
    Resumption,
    /// With what differs from what the receiver holds.
    Comparison,
    /// With everything.
    Snapshot,
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The encoded frame, without length prefix.
    pub frame: Bytes,
    /// How many changes are in it.
    pub changes: usize,
}

impl Sender {
    /// Starts, or starts over, on the receiver's request.
    pub fn subscribe(&mut self, log: &Log, subscription: Subscription) {
        self.compares = subscription.holds_records;
        match subscription.from {
            Some(from) if log.covers(from) => {
                self.state = State::Live { sent: from.revision, batch: None };
                self.first = [Frame::Begin { position: from, snapshot: false }].into();
                self.urgent_after = log.urgent_count();
                self.scope_version = None;
            }
            _ => self.start_over(log),
        }
    }

    /// Takes the receiver's answer to the digests. One that was not asked for is ignored: the receiver may have
    /// answered before it was told to start over.
    pub fn want(&mut self, log: &Log, wanted: Vec<WantedBucket>) {
        if let State::Comparing { base, buckets } = self.state {
            let (rest, obsolete) = compare::differences(log, buckets, wanted);
            self.first.push_back(Frame::Obsolete(obsolete));
            self.state = State::Patch { base, rest };
        }
    }

    /// How the subscription begins.
    pub const fn start(&self) -> Start {
        match self.state {
            State::Unsubscribed | State::Snapshot { .. } => Start::Snapshot,
            State::Comparing { .. } | State::Patch { .. } => Start::Comparison,
            State::Live { .. } => Start::Resumption,
        }
    }

    /// The next frame; none when the receiver has been sent everything, until the log changes.
    pub fn poll(&mut self, log: &Log) -> Option<Outgoing> {
        loop {
            if let Some(frame) = self.first.pop_front() {
                return Some(control(&frame));
            }
            if let Some(withdrawal) = self.next_withdrawal(log) {
                return Some(withdrawal);
            }
            match &mut self.state {
                State::Unsubscribed | State::Comparing { .. } => return None,
                State::Snapshot { base, after } => {
                    if let Some(chunk) = next_chunk(log, *base, after) {
                        return Some(chunk);
                    }
                    let base = *base;
                    self.collect(log, base);
                }
                State::Patch { base, rest } => {
                    if let Some(chunk) = next_difference(log, *base, rest) {
                        return Some(chunk);
                    }
                    let base = *base;
                    self.collect(log, base);
                }
                State::Live { sent, batch: Some(batch) } => {
                    let frame = batch.next_frame(log);
                    if batch.rest.is_empty() {
                        let target = batch.target;
                        *sent = target;
                        self.state = State::Live { sent: target, batch: None };
                    }
                    return Some(frame);
                }
                State::Live { sent, batch: None } => {
                    let sent = *sent;
                    if self.scope_version != Some(log.scope_version()) && sent >= log.scope_revision() {
                        return Some(self.watermark(log, sent));
                    }
                    if sent == log.position().revision {
                        return None;
                    }
                    self.collect(log, sent);
                }
            }
        }
    }

    /// A sign of life, to be sent in regular intervals.
    pub fn heartbeat(log: &Log, now_unix_ms: u64) -> Outgoing {
        let revision = log.position().revision;
        control(&Frame::Heartbeat(Heartbeat { revision, unix_time_ms: now_unix_ms }))
    }

    fn start_over(&mut self, log: &Log) {
        let position = log.position();
        let base = position.revision;
        self.first = [Frame::Begin { position, snapshot: true }].into();
        self.state = if self.compares {
            let digests = log.digests();
            let buckets = digests.len();
            self.first.push_back(Frame::Digests(digests));
            State::Comparing { base, buckets }
        } else {
            State::Snapshot { base, after: None }
        };
        self.urgent_after = log.urgent_count();
        self.scope_version = None;
    }

    /// Begins the transaction with everything newer than `sent`, which takes the receiver from one consistent state
    /// to another.
    fn collect(&mut self, log: &Log, sent: u64) {
        let position = log.position();
        if !log.covers(Position { revision: sent, ..position }) {
            return self.start_over(log);
        }
        let rest: VecDeque<_> = log.since(sent).map(|(k, e)| (k.clone(), e.clone())).collect();
        self.urgent_after = log.urgent_count();
        let batch = (!rest.is_empty()).then(|| Batch {
            target: position.revision,
            changed_unix_ms: rest.iter().map(|(_, e)| e.changed_unix_ms).min().unwrap_or_default(),
            rest,
        });
        self.state = State::Live { sent: position.revision, batch };
    }

    /// What was withdrawn since the bulk now under way began.
    fn next_withdrawal(&mut self, log: &Log) -> Option<Outgoing> {
        if matches!(self.state, State::Unsubscribed | State::Live { batch: None, .. }) {
            return None;
        }
        let (number, entry) =
            log.urgent_since(self.urgent_after).find_map(|(n, key)| Some((n, log.entry(key)?)))?;
        let change = match &entry.record {
            Some(record) => Change::Upsert(record.clone()),
            None => crate::wire::decode_change(&entry.encoded).ok().flatten()?,
        };
        self.urgent_after = number;
        Some(Outgoing { changes: 1, ..control(&Frame::Withdraw(Some(change))) })
    }

    fn watermark(&mut self, log: &Log, sent: u64) -> Outgoing {
        self.scope_version = Some(log.scope_version());
        let position = Position { revision: sent, ..log.position() };
        control(&Frame::Watermark { position, scope: log.scope().clone() })
    }
}

impl Batch {
    fn next_frame(&mut self, log: &Log) -> Outgoing {
        let mut changes = Vec::new();
        let mut bytes = 0;
        while let Some((key, entry)) = self.rest.front() {
            let encoded = up_to_date(log, key, entry, self.target);
            if bytes > 0 && bytes + encoded.len() > FRAME_TARGET {
                break;
            }
            bytes += encoded.len();
            changes.push(encoded);
            self.rest.pop_front();
        }
        let count = changes.len();
        let more = !self.rest.is_empty();
        Outgoing {
            frame: encode_transaction(self.target, self.changed_unix_ms, more, changes),
            changes: count,
        }
    }
}

/// A service's backends that went away after the transaction was begun are left out of it.
fn up_to_date(log: &Log, key: &RecordKey, entry: &Entry, target: u64) -> Bytes {
    let newest = log.entry(key).filter(|newest| newest.revision > target);
    let (Some(Record::Service(old)), Some(newest)) = (entry.record.as_deref(), newest) else {
        return entry.encoded.clone();
    };
    match newest.record.as_deref() {
        Some(Record::Service(newest)) => {
            let restricted = Record::Service(withdraw::restrict(old, newest));
            encode_change(&Change::Upsert(Arc::new(restricted))).unwrap_or_else(|_| entry.encoded.clone())
        }
        _ => newest.encoded.clone(),
    }
}

/// The next part of a snapshot. What changed after `base` is left to the transaction that follows, lest it comes
/// before what it refers to; identities refer to nothing.
fn next_chunk(log: &Log, base: u64, after: &mut Option<Arc<RecordKey>>) -> Option<Outgoing> {
    let mut changes = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    for (key, entry) in log.after(after.as_deref()) {
        if is_due(key, entry, base) {
            if bytes > 0 && bytes + entry.encoded.len() > FRAME_TARGET {
                break;
            }
            bytes += entry.encoded.len();
            changes.push(entry.encoded.clone());
        }
        last = Some(key.clone());
    }
    *after = last.or_else(|| after.take());
    part(changes)
}

/// The next part of what differs, likewise.
fn next_difference(log: &Log, base: u64, rest: &mut VecDeque<Arc<RecordKey>>) -> Option<Outgoing> {
    let mut changes = Vec::new();
    let mut bytes = 0;
    while let Some(key) = rest.front() {
        if let Some(entry) = log.entry(key).filter(|entry| is_due(key, entry, base)) {
            if bytes > 0 && bytes + entry.encoded.len() > FRAME_TARGET {
                break;
            }
            bytes += entry.encoded.len();
            changes.push(entry.encoded.clone());
        }
        rest.pop_front();
    }
    part(changes)
}

fn is_due(key: &RecordKey, entry: &Entry, base: u64) -> bool {
    entry.record.is_some() && (entry.revision <= base || key.kind() == Kind::Identity)
}

/// A part of a snapshot, unless it is empty.
fn part(changes: Vec<Bytes>) -> Option<Outgoing> {
    let count = changes.len();
    (count > 0).then(|| Outgoing { frame: encode_transaction(0, 0, false, changes), changes: count })
}

fn control(frame: &Frame) -> Outgoing {
    // Frames other than transactions are far below the limit, and a withdrawn record is below it by construction.
    let frame = encode_frame(frame).unwrap_or_default();
    debug_assert!(!frame.is_empty() && frame.len() <= MAX_FRAME);
    Outgoing { frame, changes: 0 }
}
