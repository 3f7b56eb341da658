//! Stable numbers for things that maps refer to.

use std::collections::BTreeMap;

/// Gives each key a number, never 0. A number comes back only when all others have been given.
#[derive(Debug)]
pub(super) struct Numbers<K> {
    numbers: BTreeMap<K, u32>,
    keys: BTreeMap<u32, K>,
    last: u32,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), keys: BTreeMap::new(), last: 0 }
    }
}

impl<K: Ord + Copy> Numbers<K> {
    /// The number of a key, a new one if it has none.
    pub(super) fn get(&mut self, key: K) -> u32 {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let mut number = next(self.last);
        while self.keys.contains_key(&number) {
            number = next(number);
        }
        self.last = number;
        self.insert(key, number);
        number
    }

    /// Takes over a number that a key has already; the first claim counts.
    pub(super) fn adopt(&mut self, key: K, number: u32) {
        if number != 0 && !self.keys.contains_key(&number) && !self.numbers.contains_key(&key) {
            self.insert(key, number);
        }
        self.skip(number);
    }

    /// New numbers begin behind this one.
    pub(super) fn skip(&mut self, number: u32) {
        self.last = self.last.max(number);
    }

    /// The number that the key had.
    pub(super) fn release(&mut self, key: &K) -> Option<u32> {
        let number = self.numbers.remove(key)?;
        self.keys.remove(&number);
        Some(number)
    }

    /// Releases the key with this number.
    pub(super) fn release_number(&mut self, number: u32) {
        if let Some(key) = self.keys.remove(&number) {
            self.numbers.remove(&key);
        }
    }

    fn insert(&mut self, key: K, number: u32) {
        self.numbers.insert(key, number);
        self.keys.insert(number, key);
    }
}

const fn next(number: u32) -> u32 {
    if number == u32::MAX { 1 } else { number + 1 }
}
