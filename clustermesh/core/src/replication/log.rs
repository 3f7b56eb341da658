//! The newest version of each record, ordered by revision.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use tombolo_model::{ClusterId, Identity, Kind, Record, RecordKey};

use super::{
    Scope,
    digest::{self, Digests},
    withdraw,
};
use crate::wire::{Change, EncodeError, Position, encode_change, encode_decoded};

/// The key that comes before all others.
const FIRST_KEY: RecordKey = RecordKey::Identity(Identity::UNKNOWN);

/// How many withdrawals are remembered for senders in the middle of bulk.
const URGENT: usize = 4096;

/// A store of records with its history, bounded by the number of removals it remembers.
#[derive(Debug)]
pub struct Log {
    epoch: u64,
    revision: u64,
    floor: u64,
    entries: BTreeMap<Arc<RecordKey>, Entry>,
    order: BTreeSet<(u64, Arc<RecordKey>)>,
    removed: BTreeSet<(u64, Arc<RecordKey>)>,
    /// What is not removed, by place.
    places: BTreeSet<(u64, Arc<RecordKey>)>,
    digests: Digests,
    /// Of what is not removed.
    counts: BTreeMap<(Option<ClusterId>, Kind), u64>,
    max_removed: usize,
    /// Numbered in order.
    urgent: VecDeque<(u64, Arc<RecordKey>)>,
    urgent_count: u64,
    scope: Scope,
    scope_version: u64,
    scope_revision: u64,
}

/// The newest version of a record.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) changed_unix_ms: u64,
    /// The encoded change that leads to this version.
    pub(super) encoded: Bytes,
    /// None after a removal.
    pub(super) record: Option<Arc<Record>>,
    place: u64,
    fingerprint: u64,
}

/// A change as it is stored and sent. Logs that have the same change share it.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    key: Arc<RecordKey>,
    /// None for a removal.
    record: Option<Arc<Record>>,
    bytes: Bytes,
}

/// What became of a transaction.
#[derive(Debug, Default)]
pub struct Applied {
    /// The revision it was given; none if it changed nothing.
    pub revision: Option<u64>,
    /// Changes that no receiver would accept. They were left out, and what was there before still stands.
    pub refused: Vec<(RecordKey, EncodeError)>,
}

impl Encoded {
    /// Of a change that was made here: a receiver must be able to take it.
    pub(super) fn checked(change: Change) -> Result<Self, (RecordKey, EncodeError)> {
        Self::new(change, encode_change)
    }

    /// [`Encoded::checked`] of each; those that no receiver could take are `refused`.
    pub(super) fn all(
        changes: impl IntoIterator<Item = Change>,
        refused: &mut Vec<(RecordKey, EncodeError)>,
    ) -> impl Iterator<Item = Self> {
        changes
            .into_iter()
            .filter_map(|change| Self::checked(change).map_err(|error| refused.push(error)).ok())
    }

    /// Of a change that was decoded here, so that others can decode it too.
    pub(super) fn decoded(change: Change) -> Result<Self, (RecordKey, EncodeError)> {
        Self::new(change, encode_decoded)
    }

    fn new(
        change: Change,
        encode: impl FnOnce(&Change) -> Result<Bytes, EncodeError>,
    ) -> Result<Self, (RecordKey, EncodeError)> {
        let bytes = encode(&change).map_err(|error| (change.key(), error))?;
        let (key, record) = match change {
            Change::Upsert(record) => (record.key(), Some(record)),
            Change::Remove(key) => (key, None),
        };
        Ok(Self { key: Arc::new(key), record, bytes })
    }
}

impl Log {
    /// How many removals are remembered by default.
    pub const DEFAULT_HISTORY: usize = 1 << 16;

    /// An empty log. `epoch` is a random number, so that revisions of another run are not taken for those of this
    /// one. `history` is how many removals are remembered; a receiver that missed more must start over.
    pub fn new(epoch: u64, history: usize) -> Self {
        Self {
            epoch,
            revision: 0,
            floor: 0,
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
            removed: BTreeSet::new(),
            places: BTreeSet::new(),
            digests: Digests::default(),
            counts: BTreeMap::new(),
            max_removed: history,
            urgent: VecDeque::new(),
            urgent_count: 0,
            scope: Scope::Nothing,
            scope_version: 0,
            scope_revision: 0,
        }
    }

    /// Makes the changes, in order, one transaction. Those that change nothing are left out.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now_unix_ms: u64) -> Applied {
        let mut refused = Vec::new();
        let encoded: Vec<_> = Encoded::all(changes, &mut refused).collect();
        Applied { revision: self.take(encoded, now_unix_ms), refused }
    }

    /// [`Log::apply`] of what is encoded already.
    pub(super) fn take(
        &mut self,
        changes: impl IntoIterator<Item = Encoded>,
        now_unix_ms: u64,
    ) -> Option<u64> {
        let revision = self.revision + 1;
        let mut changed = false;
        for change in changes {
            changed |= self.put(revision, now_unix_ms, change);
        }
        if !changed {
            return None;
        }
        self.revision = revision;
        self.forget_removals();
        Some(revision)
    }

    /// Says of which clusters the log now holds all records. Until then receivers drop nothing.
    pub fn set_scope(&mut self, scope: Scope) {
        if self.scope != scope {
            self.scope = scope;
            self.scope_version += 1;
            self.scope_revision = self.revision;
        }
    }

    /// Where the log stands.
    pub const fn position(&self) -> Position {
        Position { epoch: self.epoch, revision: self.revision }
    }

    /// Grows with every change of records or of the scope.
    pub const fn version(&self) -> (u64, u64) {
        (self.revision, self.scope_version)
    }

    /// Of which clusters the log holds all records.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The record of a key.
    pub fn get(&self, key: &RecordKey) -> Option<&Arc<Record>> {
        self.entries.get(key).and_then(|e| e.record.as_ref())
    }

    /// All records, in the order of their keys.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.entries.values().filter_map(|e| e.record.as_ref())
    }

    /// How many records there are of each cluster and kind.
    pub(super) fn counts(&self) -> impl Iterator<Item = ((Option<ClusterId>, Kind), u64)> {
        self.counts.iter().map(|(of, count)| (*of, *count)).filter(|(_, count)| *count > 0)
    }

    /// Whether a receiver that stands at `from` can be told what it missed.
    pub(super) fn covers(&self, from: Position) -> bool {
        from.epoch == self.epoch && (self.floor..=self.revision).contains(&from.revision)
    }

    /// Counts the changes of the scope.
    pub(super) const fn scope_version(&self) -> u64 {
        self.scope_version
    }

    /// The revision that a receiver must have before the scope means anything to it.
    pub(super) const fn scope_revision(&self) -> u64 {
        self.scope_revision
    }

    /// Counts the withdrawals.
    pub(super) const fn urgent_count(&self) -> u64 {
        self.urgent_count
    }

    pub(super) fn entry(&self, key: &RecordKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// What follows a key in the order of keys; everything for none.
    pub(super) fn after(&self, key: Option<&RecordKey>) -> impl Iterator<Item = (&Arc<RecordKey>, &Entry)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<RecordKey, _>((from, Bound::Unbounded))
    }

    /// What changed after a revision, oldest first.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = (&Arc<RecordKey>, &Entry)> {
        let from = (revision.saturating_add(1), Arc::new(FIRST_KEY));
        self.order.range(from..).filter_map(|(_, key)| self.entries.get_key_value(key.as_ref()))
    }

    /// The digests of the buckets of what is held.
    pub(super) fn digests(&self) -> Vec<u64> {
        self.digests.for_records(self.places.len())
    }

    /// What is held in one of so many buckets, with the fingerprints.
    pub(super) fn bucket(
        &self,
        index: usize,
        buckets: usize,
    ) -> impl Iterator<Item = (&Arc<RecordKey>, u64)> {
        let from = (digest::first_place(index, buckets), Arc::new(FIRST_KEY));
        let inside = move |place: u64| digest::bucket(place, buckets) == index;
        let keys = self.places.range(from..).take_while(move |(place, _)| inside(*place));
        keys.filter_map(|(_, key)| Some((key, self.entries.get(key)?.fingerprint)))
    }

    /// The services that lost backends after the first `count` withdrawals, oldest first, numbered.
    pub(super) fn urgent_since(&self, count: u64) -> impl Iterator<Item = (u64, &Arc<RecordKey>)> {
        let from = self.urgent.partition_point(|(n, _)| *n <= count);
        self.urgent.range(from..).map(|(n, key)| (*n, key))
    }

    /// Whether this changed anything.
    fn put(&mut self, revision: u64, now: u64, change: Encoded) -> bool {
        let Encoded { key, record, bytes: encoded } = change;
        let old = self.entries.get(&key);
        let unchanged = match old {
            Some(old) => old.record.is_none() == record.is_none() && old.encoded == encoded,
            // Receivers may hold what this exporter has not read yet.
            None => record.is_none() && self.knows(&key),
        };
        if unchanged {
            return false;
        }
        if withdraw::worsens(old.and_then(|o| o.record.as_deref()), record.as_deref()) {
            self.urgent_count += 1;
            self.urgent.push_back((self.urgent_count, key.clone()));
            if self.urgent.len() > URGENT {
                self.urgent.pop_front();
            }
        }
        if let Some(old) = old {
            let place = (old.revision, key.clone());
            self.order.remove(&place);
            self.removed.remove(&place);
            if old.record.is_some() {
                self.digests.take(old.place, old.fingerprint);
                *self.counts.entry((key.cluster(), key.kind())).or_default() -= 1;
            }
        }
        let place = old.map_or_else(|| digest::place(&key), |old| old.place);
        let fingerprint = digest::fingerprint(self.epoch, &encoded);
        self.order.insert((revision, key.clone()));
        if record.is_some() {
            self.digests.add(place, fingerprint);
            *self.counts.entry((key.cluster(), key.kind())).or_default() += 1;
            self.places.insert((place, key.clone()));
        } else {
            self.removed.insert((revision, key.clone()));
            self.places.remove(&(place, key.clone()));
        }
        self.entries
            .insert(key, Entry { revision, changed_unix_ms: now, encoded, record, place, fingerprint });
        true
    }

    /// Whether what the log does not hold does not exist.
    fn knows(&self, key: &RecordKey) -> bool {
        match &self.scope {
            Scope::Nothing => false,
            Scope::AllBut(pending) => key.cluster().is_none_or(|cluster| !pending.contains(&cluster)),
        }
    }

    fn forget_removals(&mut self) {
        while self.removed.len() > self.max_removed {
            let Some((revision, key)) = self.removed.pop_first() else { return };
            self.entries.remove(&key);
            self.order.remove(&(revision, key));
            self.floor = revision;
        }
    }
}
