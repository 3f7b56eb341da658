//! Anti-entropy between two sides that share no history: the exporter sends digests of its buckets, the receiver lists
//! what it holds in those that differ, and the exporter sends what is newer there and tells what exists no more. One
//! round trip more than a snapshot, and bytes in proportion to what differs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use tombolo_model::{Record, RecordKey};

use super::{digest, log::Log};
use crate::wire::{Change, WantedBucket, change_bytes, limits::MAX_HELD};

/// The receiver's half.
#[derive(Debug)]
pub(super) struct Doubts {
    /// The records in differing buckets, by fingerprint.
    held: BTreeMap<u64, RecordKey>,
}

impl Doubts {
    /// What is held in the buckets whose digests differ. None if listing it is more than can be sent.
    pub(super) fn find(
        records: &BTreeMap<RecordKey, Arc<Record>>,
        epoch: u64,
        theirs: &[u64],
    ) -> Option<(Self, Vec<WantedBucket>)> {
        let mut ours: Vec<Vec<(u64, &RecordKey)>> = vec![Vec::new(); theirs.len()];
        for (key, record) in records {
            let print = digest::fingerprint(epoch, &change_bytes(&Change::Upsert(record.clone())));
            ours[digest::bucket(digest::place(key), theirs.len())].push((print, key));
        }
        let sum =
            |bucket: &[(u64, _)]| bucket.iter().fold(0, |sum: u64, (print, _)| sum.wrapping_add(*print));
        let differing =
            || ours.iter().zip(theirs).enumerate().filter(|(_, (own, other))| sum(own) != **other);
        if differing().map(|(_, (own, _))| own.len()).sum::<usize>() > MAX_HELD {
            return None;
        }
        let wanted = differing().map(|(index, (own, _))| WantedBucket {
            index,
            held: own.iter().map(|(print, _)| *print).collect(),
        });
        let held = differing().flat_map(|(_, (own, _))| own).map(|(print, key)| (*print, (*key).clone()));
        Some((Self { held: held.collect() }, wanted.collect()))
    }

    /// The keys of what exists no more, or not in the version held.
    pub(super) fn obsolete(&self, prints: &[u64]) -> BTreeSet<RecordKey> {
        prints.iter().filter_map(|print| self.held.get(print)).cloned().collect()
    }
}

/// The exporter's half: what the receiver does not hold of the buckets, in the order of the keys, and what it holds
/// that is not so. `buckets` is how many digests were sent.
pub(super) fn differences(
    log: &Log,
    buckets: usize,
    wanted: Vec<WantedBucket>,
) -> (VecDeque<Arc<RecordKey>>, Vec<u64>) {
    let (mut missing, mut obsolete) = (BTreeSet::new(), Vec::new());
    for WantedBucket { index, held } in wanted.into_iter().filter(|w| w.index < buckets) {
        let mut held: BTreeSet<u64> = held.into_iter().collect();
        for (key, print) in log.bucket(index, buckets) {
            if !held.remove(&print) {
                missing.insert(key.clone());
            }
        }
        obsolete.extend(held);
    }
    (missing.into_iter().collect(), obsolete)
}
