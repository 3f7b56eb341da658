//! What arrives from one exporter, applied as whole transactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tombolo_model::{ClusterId, Record, RecordKey};

use super::{
    Subscription,
    admission::{Admission, Containment, Refusal},
    compare::Doubts,
    weight::weight,
    withdraw,
};
use crate::wire::{Change, Frame, Heartbeat, Position, Scope, Transaction};

/// How much one exporter can make a receiver hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Memory for records, and again for a transaction under way, in bytes, roughly.
    pub bytes: usize,
}

impl Default for Limits {
    /// Enough for the largest clusters that Kubernetes supports (5,000 nodes, 150,000 pods).
    fn default() -> Self {
        Self { records: 500_000, bytes: 512 << 20 }
    }
}

/// What has changed for the consumer of a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Delta {
    /// To be made visible together.
    pub changes: Vec<Change>,
    /// Whether all records are here, but for those of the clusters in `pending`. Until then what the consumer keeps
    /// from an earlier time must not be pruned.
    pub complete: bool,
    /// Clusters whose records the exporter does not know all of yet: nothing of theirs may be pruned.
    pub pending: BTreeSet<ClusterId>,
    /// When the oldest change was made: milliseconds since 1970 (UTC) by the exporter's clock. None in a snapshot.
    pub changed_unix_ms: Option<u64>,
}

/// A frame that does not fit. The session must end; what was applied before stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame of a kind that does not belong here.
    #[error("an unexpected {0} frame arrived")]
    Unexpected(&'static str),
    /// A revision that does not follow the one before.
    #[error("revision {got} arrived after revision {had}")]
    Backwards {
        /// The revision before.
        had: u64,
        /// The one that arrived.
        got: u64,
    },
    /// A transaction that takes more memory than allowed.
    #[error("a transaction takes more than {0} bytes")]
    TooLong(usize),
}

/// The receiving side of a subscription. It outlives connections: call [`Receiver::subscribe`] for each new one.
#[derive(Debug)]
pub struct Receiver {
    admission: Admission,
    limits: Limits,
    records: BTreeMap<RecordKey, Arc<Record>>,
    bytes: usize,
    position: Option<Position>,
    /// More may be admitted than when the records were received: they must be sent again.
    resync: bool,
    stream: Option<Stream>,
    reply: Option<Frame>,
    scope: Scope,
    /// Held from before the last snapshot, and not mentioned since.
    unconfirmed: BTreeSet<RecordKey>,
    heartbeat: Option<Heartbeat>,
    refusals: BTreeMap<Refusal, u64>,
}

/// What is known of the exporter on the other end of this connection.
#[derive(Debug)]
struct Stream {
    epoch: u64,
    /// The last revision of a whole transaction.
    revision: u64,
    /// A snapshot is under way.
    snapshot: bool,
    /// Digests have been compared, and these records found to be in doubt.
    doubts: Option<Doubts>,
    /// Parts of a transaction, and their weight.
    partial: Vec<Change>,
    partial_bytes: usize,
}

impl Receiver {
    /// A receiver with nothing.
    pub fn new(admission: Admission, limits: Limits) -> Self {
        Self {
            admission,
            limits,
            records: BTreeMap::new(),
            bytes: 0,
            position: None,
            resync: false,
            stream: None,
            reply: None,
            scope: Scope::Nothing,
            unconfirmed: BTreeSet::new(),
            heartbeat: None,
            refusals: BTreeMap::new(),
        }
    }

    /// Takes a record for one that was received before, if it may be admitted: what another replica has heard. Whether
    /// it still holds turns out when digests are compared.
    pub fn hold(&mut self, record: Arc<Record>) {
        if self.admission.record(&record).and_then(|()| self.room_for(&record.key(), &record)).is_ok() {
            self.put(Change::Upsert(record));
        }
    }

    /// Forgets what was half received, and gives the frame to ask the exporter with.
    pub fn subscribe(&mut self) -> Frame {
        self.stream = None;
        self.reply = None;
        self.heartbeat = None;
        self.resubscribe()
    }

    /// The frame to ask the exporter with again on the same connection, after [`Receiver::set_containment`].
    pub fn resubscribe(&self) -> Frame {
        Frame::Subscribe(Subscription {
            from: self.position.filter(|_| !self.resync),
            holds_records: !self.records.is_empty(),
        })
    }

    /// What the exporter must be answered, after [`Receiver::handle`].
    pub const fn take_reply(&mut self) -> Option<Frame> {
        self.reply.take()
    }

    /// Takes a frame. Frames of a newer version are ignored.
    pub fn handle(&mut self, frame: Frame) -> Result<Option<Delta>, ProtocolError> {
        match frame {
            Frame::Begin { position, snapshot } => self.begin(position, snapshot),
            Frame::Digests(digests) => self.compare(&digests),
            Frame::Obsolete(prints) => self.doubt(&prints),
            Frame::Transaction(t) => self.transaction(t),
            Frame::Withdraw(change) => {
                self.stream("withdraw")?;
                Ok(change.and_then(|change| self.withdraw(change)))
            }
            Frame::Watermark { position, scope } => self.watermark(position, scope).map(Some),
            Frame::Heartbeat(heartbeat) => {
                self.heartbeat = Some(heartbeat);
                Ok(None)
            }
            Frame::Unknown => Ok(None),
            Frame::Hello(_) => Err(ProtocolError::Unexpected("hello")),
            Frame::Subscribe(_) => Err(ProtocolError::Unexpected("subscribe")),
            Frame::Want(_) => Err(ProtocolError::Unexpected("want")),
            Frame::Observation(_) => Err(ProtocolError::Unexpected("observation")),
            Frame::NodeFacts(_) => Err(ProtocolError::Unexpected("node-facts")),
            Frame::EnrollRequest(_) | Frame::EnrollResponse(_) => Err(ProtocolError::Unexpected("enroll")),
            Frame::Refusal(_) => Err(ProtocolError::Unexpected("refusal")),
            Frame::Membership(_) => Err(ProtocolError::Unexpected("membership")),
        }
    }

    /// Follows what membership says about the peer. Records that are now outside are dropped. For what may be admitted
    /// now, everything is asked for again at the next [`Receiver::subscribe`] or [`Receiver::resubscribe`].
    pub fn set_containment(&mut self, containment: Containment) -> Delta {
        self.admission = Admission::Peer(containment);
        self.resync = true;
        let outside: Vec<_> =
            self.records.values().filter(|r| self.admission.record(r).is_err()).map(|r| r.key()).collect();
        let removed = outside.into_iter().filter_map(|key| self.put(Change::Remove(key))).collect();
        self.delta(removed, None)
    }

    /// Whether [`Receiver::set_containment`] would change anything.
    pub fn admission_differs(&self, containment: &Containment) -> bool {
        !matches!(&self.admission, Admission::Peer(own) if own == containment)
    }

    /// Forgets all records, and says so: for a cluster that has left.
    pub fn clear(&mut self) -> Delta {
        let keys: Vec<_> = self.records.keys().cloned().collect();
        self.position = None;
        self.unconfirmed.clear();
        let removed = keys.into_iter().filter_map(|key| self.put(Change::Remove(key))).collect();
        self.delta(removed, None)
    }

    /// Where the receiver stands; none before the first watermark.
    pub const fn position(&self) -> Option<Position> {
        self.position
    }

    /// The exporter's last sign of life on this connection.
    pub const fn heartbeat(&self) -> Option<Heartbeat> {
        self.heartbeat
    }

    /// The records held, by key.
    pub const fn records(&self) -> &BTreeMap<RecordKey, Arc<Record>> {
        &self.records
    }

    /// Everything held, as the first delta of a new consumer.
    pub fn everything(&self) -> Delta {
        self.delta(self.records.values().cloned().map(Change::Upsert).collect(), None)
    }

    /// How many records were refused, by reason.
    pub const fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    fn begin(&mut self, position: Position, snapshot: bool) -> Result<Option<Delta>, ProtocolError> {
        if !snapshot && self.position != Some(position) {
            return Err(ProtocolError::Backwards {
                had: self.position.map_or(0, |p| p.revision),
                got: position.revision,
            });
        }
        if snapshot {
            self.resync = false;
            self.position = None;
            self.scope = Scope::Nothing;
            self.unconfirmed = self.records.keys().cloned().collect();
        }
        self.stream = Some(Stream {
            epoch: position.epoch,
            revision: position.revision,
            snapshot,
            doubts: None,
            partial: Vec::new(),
            partial_bytes: 0,
        });
        Ok(None)
    }

    /// Lists what is held where the exporter's digests differ; asks for everything if that is too much.
    fn compare(&mut self, digests: &[u64]) -> Result<Option<Delta>, ProtocolError> {
        let epoch = self.fresh("digests")?.epoch;
        let reply = match Doubts::find(&self.records, epoch, digests) {
            Some((doubts, wanted)) => {
                self.fresh("digests")?.doubts = Some(doubts);
                Frame::Want(wanted)
            }
            None => Frame::Subscribe(Subscription { from: None, holds_records: false }),
        };
        self.reply = Some(reply);
        Ok(None)
    }

    /// Of everything held, only this is still in doubt.
    fn doubt(&mut self, prints: &[u64]) -> Result<Option<Delta>, ProtocolError> {
        let doubts = self.fresh("obsolete")?.doubts.take();
        let doubts = doubts.ok_or(ProtocolError::Unexpected("obsolete"))?;
        self.unconfirmed = doubts.obsolete(prints);
        Ok(None)
    }

    fn transaction(&mut self, t: Transaction) -> Result<Option<Delta>, ProtocolError> {
        let limit = self.limits.bytes;
        let stream = self.stream("transaction")?;
        let part_of_snapshot = t.revision == 0;
        if part_of_snapshot && !stream.snapshot {
            return Err(ProtocolError::Unexpected("snapshot"));
        }
        if !part_of_snapshot && t.revision <= stream.revision {
            return Err(ProtocolError::Backwards { had: stream.revision, got: t.revision });
        }
        stream.partial_bytes += t.changes.iter().map(change_weight).sum::<usize>();
        if stream.partial_bytes > limit {
            return Err(ProtocolError::TooLong(limit));
        }
        stream.partial.extend(t.changes);
        let whole = (!t.more).then(|| {
            stream.partial_bytes = 0;
            if !part_of_snapshot {
                stream.revision = t.revision;
            }
            (std::mem::take(&mut stream.partial), stream.epoch, stream.snapshot)
        });
        if t.invalid > 0 {
            *self.refusals.entry(Refusal::Invalid).or_default() += t.invalid as u64;
        }
        let Some((changes, epoch, snapshot)) = whole else { return Ok(None) };
        if !snapshot {
            self.position = Some(Position { epoch, revision: t.revision });
        }
        let changes: Vec<_> = changes.into_iter().filter_map(|c| self.admit(c)).collect();
        let time = (!part_of_snapshot).then_some(t.changed_unix_ms);
        Ok((!changes.is_empty()).then(|| self.delta(changes, time)))
    }

    fn withdraw(&mut self, change: Change) -> Option<Delta> {
        let held = self.records.get(&change.key())?;
        let change = match (&**held, &change) {
            (Record::Service(_), Change::Remove(_)) => change,
            (Record::Service(held), Change::Upsert(newest)) => {
                let Record::Service(newest) = &**newest else { return None };
                Change::Upsert(Arc::new(Record::Service(withdraw::restrict(held, newest))))
            }
            _ => return None,
        };
        let change = self.put(change)?;
        Some(self.delta(vec![change], None))
    }

    fn watermark(&mut self, position: Position, scope: Scope) -> Result<Delta, ProtocolError> {
        let stream = self.stream("watermark")?;
        if !stream.partial.is_empty() || position.epoch != stream.epoch || position.revision < stream.revision
        {
            return Err(ProtocolError::Backwards { had: stream.revision, got: position.revision });
        }
        stream.snapshot = false;
        stream.revision = position.revision;
        self.position = Some(position);
        let mut dropped = Vec::new();
        if let Scope::AllBut(pending) = &scope {
            let keep = |key: &RecordKey| key.cluster().is_some_and(|c| pending.contains(&c));
            let (kept, gone) = std::mem::take(&mut self.unconfirmed).into_iter().partition(keep);
            self.unconfirmed = kept;
            let gone: BTreeSet<RecordKey> = gone;
            dropped = gone.into_iter().filter_map(|key| self.put(Change::Remove(key))).collect();
        }
        self.scope = scope;
        Ok(self.delta(dropped, None))
    }

    /// Applies what may be applied. A refused version of a record takes the place of the admitted one before it:
    /// that one is no longer true.
    fn admit(&mut self, change: Change) -> Option<Change> {
        let key = change.key();
        let refusal = match &change {
            Change::Upsert(record) => {
                self.admission.record(record).and_then(|()| self.room_for(&key, record))
            }
            Change::Remove(key) => self.admission.key(key),
        };
        self.unconfirmed.remove(&key);
        match refusal {
            // The consumer may hold from an earlier time what this receiver has not heard of.
            Ok(()) if matches!(change, Change::Remove(_)) && self.scope == Scope::Nothing => {
                self.put(change.clone());
                Some(change)
            }
            Ok(()) => self.put(change),
            Err(refusal) => {
                *self.refusals.entry(refusal).or_default() += 1;
                self.put(Change::Remove(key))
            }
        }
    }

    fn room_for(&self, key: &RecordKey, record: &Record) -> Result<(), Refusal> {
        let known = self.records.get(key);
        let bytes = self.bytes + weight(record) - known.map_or(0, |r| weight(r));
        let records = self.records.len() + usize::from(known.is_none());
        if bytes > self.limits.bytes || records > self.limits.records { Err(Refusal::Limit) } else { Ok(()) }
    }

    /// The change again, unless it changes nothing.
    fn put(&mut self, change: Change) -> Option<Change> {
        let old = match &change {
            Change::Upsert(record) => {
                let key = record.key();
                if self.records.get(&key) == Some(record) {
                    return None;
                }
                self.bytes += weight(record);
                self.records.insert(key, record.clone())
            }
            Change::Remove(key) => Some(self.records.remove(key)?),
        };
        self.bytes -= old.map_or(0, |r| weight(&r));
        Some(change)
    }

    fn delta(&self, changes: Vec<Change>, changed_unix_ms: Option<u64>) -> Delta {
        let (complete, pending) = match &self.scope {
            Scope::Nothing => (false, BTreeSet::new()),
            Scope::AllBut(pending) => (true, pending.clone()),
        };
        Delta { changes, complete, pending, changed_unix_ms }
    }

    /// The stream at the beginning of a snapshot.
    fn fresh(&mut self, frame: &'static str) -> Result<&mut Stream, ProtocolError> {
        let stream = self.stream(frame)?;
        if stream.snapshot { Ok(stream) } else { Err(ProtocolError::Unexpected(frame)) }
    }

    fn stream(&mut self, frame: &'static str) -> Result<&mut Stream, ProtocolError> {
        self.stream.as_mut().ok_or(ProtocolError::Unexpected(frame))
    }
}

fn change_weight(change: &Change) -> usize {
    match change {
        Change::Upsert(record) => weight(record),
        Change::Remove(_) => 256,
    }
}
