//! A desired table that knows which of its keys changed since they were last asked for.

use std::collections::{BTreeMap, BTreeSet};

/// Keys and the values they should have.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    entries: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// All entries.
    pub const fn entries(&self) -> &BTreeMap<K, V> {
        &self.entries
    }

    /// Whether a key has changed.
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The keys that have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.changed)
    }

    /// Makes `key` hold `value`, or nothing.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        if self.entries.get(&key) == value.as_ref() {
            return;
        }
        match value {
            Some(value) => self.entries.insert(key.clone(), value),
            None => self.entries.remove(&key),
        };
        self.changed.insert(key);
    }

    /// Makes the table hold these entries and no others.
    pub(crate) fn replace(&mut self, entries: BTreeMap<K, V>) {
        let gone: Vec<K> = self.entries.keys().filter(|key| !entries.contains_key(key)).cloned().collect();
        for key in gone {
            self.set(key, None);
        }
        for (key, value) in entries {
            self.set(key, Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changed_keys_are_the_difference(before: BTreeMap<u8, u8>, after: BTreeMap<u8, u8>) {
            let mut table = Table::default();
            table.replace(before.clone());
            prop_assert_eq!(table.take_changed(), before.keys().copied().collect());
            table.replace(after.clone());
            let keys: BTreeSet<u8> = before.keys().chain(after.keys()).copied().collect();
            let expected = keys.into_iter().filter(|key| before.get(key) != after.get(key)).collect();
            prop_assert_eq!(table.take_changed(), expected);
            prop_assert_eq!(table.entries(), &after);
            prop_assert!(!table.is_changed());
        }
    }
}
