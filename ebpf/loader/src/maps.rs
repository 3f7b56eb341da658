//! The pinned maps by name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use bytemuck::Pod;
use tombolo_abi::{Config, Counter, DropCount, DropReason, Metric, for_each_map, map};

use crate::{
    EventReader, generation,
    table::{Bytes, Hash, TableError, Trie},
};

/// Opens maps by their pins. Works without loading programs, so that tools can look at a running datapath.
#[derive(Clone, Debug)]
pub struct Maps {
    directory: PathBuf,
}

/// The method that opens a map as a table. Arrays and rings are no tables: each has its own way of being read.
macro_rules! table {
    (Hash $($map:tt)*) => { table! { @open Hash HashMap $($map)* } };
    (LruHash $($map:tt)*) => { table! { @open Hash LruHashMap $($map)* } };
    (LpmTrie $($map:tt)*) => { table! { @open Trie LpmTrie $($map)* } };
    (Array $($map:tt)*) => {};
    (PerCpuArray $($map:tt)*) => {};
    (RingBuf $($map:tt)*) => {};
    (@open $table:ident $variant:ident $name:ident $method:ident $key:ty, $value:ty, $(#[$doc:meta])*) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// The map is not pinned, or not what it should be.
        pub fn $method(&self) -> Result<$table<$key, $value>, TableError> {
            let name = map::$name.name;
            $table::new(name, self.open(name)?, Map::$variant)
        }
    };
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $method:ident: $kind:ident<$key:ty, $value:ty>,
       entries $entries:expr, version $version:literal;)*) => {
        $(table! { $kind $name $method $key, $value, $(#[$doc])* })*
    };
}

impl Maps {
    /// The maps pinned in `directory`.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The maps of the newest generation below `pin_dir`.
    pub fn newest(pin_dir: &Path) -> Self {
        Self::at(&generation::newest(pin_dir))
    }

    for_each_map!(tables);

    /// What the datapath is told about the node.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn config(&self) -> Result<Config, TableError> {
        let array = self.array::<Config>(map::CONFIG.name)?;
        array.get(&0, 0).map(|c| c.0).map_err(|source| TableError::Map { name: map::CONFIG.name, source })
    }

    /// Tells the datapath about the node.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn set_config(&self, config: &Config) -> Result<(), TableError> {
        let mut array = self.array(map::CONFIG.name)?;
        array.set(0, Bytes(*config), 0).map_err(|source| TableError::Map { name: map::CONFIG.name, source })
    }

    /// The policy epoch; 0 before the first.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn policy_epoch(&self) -> Result<u32, TableError> {
        let name = map::POLICY_EPOCH.name;
        self.array::<u32>(name)?
            .get(&0, 0)
            .map(|epoch| epoch.0)
            .map_err(|source| TableError::Map { name, source })
    }

    /// Moves the policy epoch on: the next packet of each connection is judged anew. To be called after the maps that decide
    /// verdicts have been written, by one writer.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn advance_policy_epoch(&self) -> Result<(), TableError> {
        let name = map::POLICY_EPOCH.name;
        let next = self.policy_epoch()?.checked_add(1).unwrap_or(1);
        self.array(name)?.set(0, Bytes(next), 0).map_err(|source| TableError::Map { name, source })
    }

    /// A reader of drops as they happen. Several readers take entries from each other.
    ///
    /// # Errors
    /// The ring is not pinned.
    pub fn events(&self) -> Result<EventReader, TableError> {
        EventReader::new(Map::RingBuf(self.open(map::EVENTS.name)?))
    }

    fn array<V: Pod>(&self, name: &'static str) -> Result<Array<MapData, Bytes<V>>, TableError> {
        Map::Array(self.open(name)?).try_into().map_err(|source| TableError::Open { name, source })
    }

    fn per_cpu<V: Pod>(&self, name: &'static str) -> Result<PerCpuArray<MapData, Bytes<V>>, TableError> {
        Map::PerCpuArray(self.open(name)?).try_into().map_err(|source| TableError::Open { name, source })
    }

    fn open(&self, name: &'static str) -> Result<MapData, TableError> {
        MapData::from_pin(self.directory.join(name)).map_err(|source| TableError::Open { name, source })
    }
}

/// Drops by reason, over all CPUs; every reason is there.
///
/// # Errors
/// The map is not pinned.
pub fn drops(maps: &Maps) -> Result<BTreeMap<DropReason, DropCount>, TableError> {
    let array = maps.per_cpu::<DropCount>(map::DROPS.name)?;
    let read = |reason: DropReason| {
        let values = array.get(&(reason as u32), 0);
        let values = values.map_err(|source| TableError::Map { name: map::DROPS.name, source })?;
        Ok((reason, values.iter().fold(DropCount::default(), |sum, value| sum.plus(value.0))))
    };
    DropReason::ALL.iter().copied().map(read).collect()
}

/// Counters, over all CPUs; every one is there.
///
/// # Errors
/// The map is not pinned.
pub fn metrics(maps: &Maps) -> Result<BTreeMap<Metric, Counter>, TableError> {
    let array = maps.per_cpu::<Counter>(map::METRICS.name)?;
    let read = |metric: Metric| {
        let values = array.get(&(metric as u32), 0);
        let values = values.map_err(|source| TableError::Map { name: map::METRICS.name, source })?;
        Ok((metric, values.iter().fold(Counter::default(), |sum, value| sum.plus(value.0))))
    };
    Metric::ALL.iter().copied().map(read).collect()
}
