//! Maps by the types of their keys and values.

#![expect(unsafe_code, reason = "tells aya which types are plain bytes")]

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use bytemuck::{Pod, cast_slice_mut};
use tombolo_abi::TrieKey;

use crate::sys::lookup_batch;

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The map is full.
    #[error("map {0} is full")]
    Full(&'static str),
    /// The map cannot be opened.
    #[error("map {name} cannot be opened: {source}")]
    Open {
        /// The map.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The map cannot be read in batches.
    #[error("map {name} cannot be read: {source}")]
    Batch {
        /// The map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: MapError,
    },
}

/// What all maps can do. Each operation is one system call and takes effect at once.
pub trait Table<K, V> {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Adds or replaces an entry.
    ///
    /// # Errors
    /// [`TableError::Full`] when there is no room.
    fn upsert(&mut self, key: &K, value: &V) -> Result<(), TableError>;

    /// Deletes an entry; false when there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, key: &K) -> Result<bool, TableError>;

    /// The value of a key. For a trie that of the longest prefix that matches.
    ///
    /// # Errors
    /// The kernel refuses.
    fn get(&self, key: &K) -> Result<Option<V>, TableError>;

    /// All entries, in no particular order. One that is added or deleted meanwhile may be missing or appear.
    ///
    /// # Errors
    /// The kernel refuses.
    fn entries(&self) -> Result<Vec<(K, V)>, TableError>;

    /// Deletes these entries, except for those that have changed since they were read.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete_unchanged(&mut self, entries: &[(K, V)]) -> Result<(), TableError>
    where
        V: PartialEq,
    {
        for (key, value) in entries {
            if self.get(key)?.as_ref() == Some(value) {
                self.delete(key)?;
            }
        }
        Ok(())
    }
}

/// Plain bytes for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bytes<T>(pub T);

// SAFETY: the same layout as T, which bytemuck has found to be plain bytes.
unsafe impl<T: Pod> aya::Pod for Bytes<T> {}

/// A hash map, with or without LRU eviction.
pub struct Hash<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, Bytes<K>, Bytes<V>>,
    /// The same map, for batches.
    descriptor: OwnedFd,
}

/// Entries that one system call reads. No bucket has so many.
pub(crate) const BATCH: usize = 4096;

impl<K: Pod, V: Pod> Hash<K, V> {
    pub(crate) fn new(
        name: &'static str,
        data: MapData,
        kind: fn(MapData) -> Map,
    ) -> Result<Self, TableError> {
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|source| TableError::Batch { name, source })?;
        let map = kind(data).try_into().map_err(|source| TableError::Open { name, source })?;
        Ok(Self { name, map, descriptor })
    }
}

impl<K: Pod, V: Pod> Table<K, V> for Hash<K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn upsert(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        self.map.insert(Bytes(*key), Bytes(*value), 0).map_err(|e| written(self.name, e))
    }

    fn delete(&mut self, key: &K) -> Result<bool, TableError> {
        deleted(self.name, self.map.remove(&Bytes(*key)))
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        found(self.name, self.map.get(&Bytes(*key), 0))
    }

    fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        let (mut keys, mut values) = (vec![K::zeroed(); BATCH], vec![V::zeroed(); BATCH]);
        let (mut entries, mut position) = (Vec::new(), None);
        loop {
            let (of_keys, of_values) = (cast_slice_mut(&mut keys), cast_slice_mut(&mut values));
            let read = lookup_batch(self.descriptor.as_fd(), &mut position, of_keys, of_values, BATCH);
            let (count, more) = read.map_err(|source| TableError::Batch { name: self.name, source })?;
            entries.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
            if !more {
                return Ok(entries);
            }
        }
    }
}

/// A map with longest prefix match.
pub struct Trie<K: TrieKey, V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, Bytes<K::Data>, Bytes<V>>,
    key: PhantomData<K>,
}

impl<K: TrieKey, V: Pod> Trie<K, V> {
    pub(crate) fn new(
        name: &'static str,
        data: MapData,
        kind: fn(MapData) -> Map,
    ) -> Result<Self, TableError> {
        let map = kind(data).try_into().map_err(|source| TableError::Open { name, source })?;
        Ok(Self { name, map, key: PhantomData })
    }

    fn key(key: &K) -> Key<Bytes<K::Data>> {
        let (len, data) = key.split();
        Key::new(len, Bytes(data))
    }
}

impl<K: TrieKey, V: Pod> Table<K, V> for Trie<K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn upsert(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        self.map.insert(&Self::key(key), Bytes(*value), 0).map_err(|e| written(self.name, e))
    }

    fn delete(&mut self, key: &K) -> Result<bool, TableError> {
        deleted(self.name, self.map.remove(&Self::key(key)))
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        found(self.name, self.map.get(&Self::key(key), 0))
    }

    fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut entries = Vec::new();
        for entry in &self.map {
            match entry {
                Ok((key, value)) => entries.push((K::join(key.prefix_len(), key.data().0), value.0)),
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(TableError::Map { name: self.name, source }),
            }
        }
        Ok(entries)
    }
}

fn found<V>(name: &'static str, result: Result<Bytes<V>, MapError>) -> Result<Option<V>, TableError> {
    match result {
        Ok(value) => Ok(Some(value.0)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(TableError::Map { name, source }),
    }
}

fn deleted(name: &'static str, result: Result<(), MapError>) -> Result<bool, TableError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(source) if os_error(&source) == Some(libc::ENOENT) => Ok(false),
        Err(source) => Err(TableError::Map { name, source }),
    }
}

fn written(name: &'static str, source: MapError) -> TableError {
    match os_error(&source) {
        Some(libc::E2BIG | libc::ENOSPC) => TableError::Full(name),
        _ => TableError::Map { name, source },
    }
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}
