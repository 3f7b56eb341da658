//! Short forms of records, by which two sides that share no history find what differs.
//!
//! A record has a place, the hash of its key, and a fingerprint, the hash of its newest version and of the exporter's
//! epoch. Places are divided into buckets by their leading bits; the digest of a bucket is the sum of the fingerprints
//! in it. The epoch is random and new with each history, so that nobody can make records whose sums agree beforehand.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tombolo_model::RecordKey;

use crate::wire::{Change, change_bytes, limits::MAX_BUCKETS};

/// Records in a bucket on average. Digests of everything and the records of the differing buckets are both sent, so
/// neither should be many.
const PER_BUCKET: usize = 16;

/// The fewest buckets.
const MIN_BUCKETS: usize = 16;

/// Where a key's record is.
pub(super) fn place(key: &RecordKey) -> u64 {
    leading(&Sha256::digest(change_bytes(&Change::Remove(key.clone()))))
}

/// What stands for a version of a record, given as an encoded change.
pub(super) fn fingerprint(epoch: u64, encoded: &Bytes) -> u64 {
    leading(&Sha256::new_with_prefix(epoch.to_be_bytes()).chain_update(encoded).finalize())
}

/// The bucket, of a power of two, that a place is in.
pub(super) fn bucket(place: u64, buckets: usize) -> usize {
    let bits = buckets.trailing_zeros();
    let index = place.checked_shr(u64::BITS - bits).unwrap_or_default();
    usize::try_from(index).unwrap_or_default()
}

/// The first place of a bucket.
pub(super) fn first_place(bucket: usize, buckets: usize) -> u64 {
    (bucket as u64).checked_shl(u64::BITS - buckets.trailing_zeros()).unwrap_or_default()
}

/// The digests of the records that are held, kept up to date.
#[derive(Debug)]
pub(super) struct Digests {
    /// As many as are ever sent; fewer are sums of neighbours.
    sums: Box<[u64]>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { sums: vec![0; MAX_BUCKETS].into() }
    }
}

impl Digests {
    pub(super) fn add(&mut self, place: u64, fingerprint: u64) {
        let sum = &mut self.sums[bucket(place, MAX_BUCKETS)];
        *sum = sum.wrapping_add(fingerprint);
    }

    pub(super) fn take(&mut self, place: u64, fingerprint: u64) {
        let sum = &mut self.sums[bucket(place, MAX_BUCKETS)];
        *sum = sum.wrapping_sub(fingerprint);
    }

    /// As many as suit so many records.
    pub(super) fn for_records(&self, records: usize) -> Vec<u64> {
        let buckets = (records / PER_BUCKET).next_power_of_two().clamp(MIN_BUCKETS, MAX_BUCKETS);
        let sum = |neighbours: &[u64]| neighbours.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
        self.sums.chunks(MAX_BUCKETS / buckets).map(sum).collect()
    }
}

fn leading(hash: &[u8]) -> u64 {
    hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn fewer_buckets_are_sums_of_more(places in vec(any::<(u64, u64)>(), 0..200), bits in 4u32..13) {
            let mut digests = Digests::default();
            places.iter().for_each(|(place, print)| digests.add(*place, *print));
            let buckets = 1 << bits;
            let mut expected = vec![0u64; buckets];
            for (place, print) in &places {
                let sum = &mut expected[bucket(*place, buckets)];
                *sum = sum.wrapping_add(*print);
            }
            prop_assert_eq!(digests.for_records(buckets * PER_BUCKET), expected);
            places.iter().for_each(|(place, print)| digests.take(*place, *print));
            prop_assert!(digests.sums.iter().all(|sum| *sum == 0));
        }

        #[test]
        fn buckets_begin_at_their_first_place(index in 0usize..64) {
            let first = first_place(index, 64);
            prop_assert_eq!(bucket(first, 64), index);
            prop_assert!(index == 0 || bucket(first - 1, 64) == index - 1);
        }
    }
}
