//! Which number each set of labels has: pure, restored from the MeshIdentity objects.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::{ClusterId, Identity, Labels};

/// The numbers of one cluster. A number that was given back is the last to be given out again, so that nothing
/// that still remembers it meets another meaning.
#[derive(Debug)]
pub struct Allocator {
    cluster: ClusterId,
    by_labels: BTreeMap<Labels, BTreeSet<Identity>>,
    by_identity: BTreeMap<Identity, Labels>,
    next: u32,
}

/// All 2^20 - 256 numbers of the cluster are taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("all identities of the cluster are in use: pods have too many different sets of labels")]
pub struct Exhausted;

impl Allocator {
    /// Without any number taken.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            by_labels: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            next: Identity::FIRST_LOCAL,
        }
    }

    /// The number of these labels; the lowest if they have several.
    pub fn get(&self, labels: &Labels) -> Option<Identity> {
        self.by_labels.get(labels).and_then(BTreeSet::first).copied()
    }

    /// The labels of a number.
    pub fn labels(&self, identity: Identity) -> Option<&Labels> {
        self.by_identity.get(&identity)
    }

    /// Notes that a number is taken by these labels. A number never changes its meaning: false when it is taken
    /// by others, or belongs to another cluster.
    pub fn restore(&mut self, identity: Identity, labels: &Labels) -> bool {
        if identity.cluster() != Some(self.cluster) {
            return false;
        }
        if let Some(present) = self.by_identity.get(&identity) {
            return present == labels;
        }
        self.by_identity.insert(identity, labels.clone());
        self.by_labels.entry(labels.clone()).or_default().insert(identity);
        self.next = self.next.max(identity.local().saturating_add(1));
        true
    }

    /// The numbers that are not taken, in the order to give them out. They are taken only by
    /// [`Allocator::restore`].
    pub fn free(&self) -> impl Iterator<Item = Identity> {
        (self.next..=Identity::MAX_LOCAL)
            .chain(Identity::FIRST_LOCAL..self.next.min(Identity::MAX_LOCAL))
            .filter_map(|local| Identity::new(self.cluster, local))
            .filter(|identity| !self.by_identity.contains_key(identity))
    }

    /// Gives a number back.
    pub fn release(&mut self, identity: Identity) {
        let Some(labels) = self.by_identity.remove(&identity) else { return };
        if let Some(identities) = self.by_labels.get_mut(&labels) {
            identities.remove(&identity);
            if identities.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
    }

    /// Every number that is taken.
    pub fn identities(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.by_identity.iter().map(|(identity, labels)| (*identity, labels))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> ClusterId {
        ClusterId::try_from(7).unwrap()
    }

    fn labels(n: u32) -> Labels {
        [("pod:n".to_owned(), n.to_string())].into_iter().collect()
    }

    fn identity(local: u32) -> Identity {
        Identity::new(cluster(), local).unwrap()
    }

    #[test]
    fn numbers_begin_at_the_first_and_never_change_meaning() {
        let mut allocator = Allocator::new(cluster());
        assert_eq!(allocator.free().next(), Some(identity(Identity::FIRST_LOCAL)));
        assert!(allocator.restore(identity(300), &labels(1)));
        assert!(allocator.restore(identity(300), &labels(1)));
        assert!(!allocator.restore(identity(300), &labels(2)));
        assert_eq!((allocator.get(&labels(1)), allocator.get(&labels(2))), (Some(identity(300)), None));
        let foreign = Identity::new(ClusterId::try_from(8).unwrap(), 300).unwrap();
        assert!(!allocator.restore(foreign, &labels(3)) && !allocator.restore(Identity::HOST, &labels(3)));
    }

    #[test]
    fn a_number_given_back_is_given_out_last() {
        let mut allocator = Allocator::new(cluster());
        assert!(allocator.restore(identity(256), &labels(1)));
        allocator.release(identity(256));
        assert_eq!(allocator.free().next(), Some(identity(257)));
        assert!(allocator.restore(identity(Identity::MAX_LOCAL), &labels(2)));
        assert_eq!(allocator.free().next(), Some(identity(256)));
    }

    #[test]
    fn the_lowest_of_several_numbers_counts() {
        let mut allocator = Allocator::new(cluster());
        assert!(allocator.restore(identity(400), &labels(1)) && allocator.restore(identity(300), &labels(1)));
        assert_eq!(allocator.get(&labels(1)), Some(identity(300)));
        allocator.release(identity(300));
        assert_eq!(allocator.get(&labels(1)), Some(identity(400)));
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(steps in prop::collection::vec((0u32..40, prop::bool::ANY), 0..200)) {
            let mut allocator = Allocator::new(cluster());
            for (n, release) in steps {
                match (allocator.get(&labels(n)), release) {
                    (Some(id), true) => allocator.release(id),
                    (Some(_), false) => {}
                    (None, _) => {
                        let id = allocator.free().next().unwrap();
                        prop_assert!(allocator.labels(id).is_none());
                        prop_assert!(allocator.restore(id, &labels(n)));
                    }
                }
            }
        }
    }
}
