//! BPF maps as targets.

use std::{collections::BTreeMap, marker::PhantomData};

use tombolo_loader::{Maps, Table, TableError};
use tombolo_node_core::{
    reconcile::Target,
    state::{State, TableId},
};

use crate::engine::{Lane, TableLane};

/// A map of the loader.
pub struct MapTarget<K, V, T> {
    map: T,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Ord, V, T: Table<K, V>> Target<K, V> for MapTarget<K, V, T> {
    type Error = TableError;

    fn update(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        self.map.upsert(key, value)
    }

    fn delete(&mut self, key: &K) -> Result<(), TableError> {
        self.map.delete(key).map(drop)
    }

    fn list(&mut self) -> Result<BTreeMap<K, V>, TableError> {
        Ok(self.map.entries()?.into_iter().collect())
    }
}

/// Lanes of all maps that follow from the state.
pub fn lanes(maps: &Maps) -> Result<Vec<Box<dyn Lane>>, TableError> {
    fn target<K, V, T: Table<K, V>>(map: T) -> MapTarget<K, V, T> {
        MapTarget { map, types: PhantomData }
    }
    Ok(vec![
        Box::new(TableLane::new(TableId::Identity, State::identity, target(maps.identity()?))),
        Box::new(TableLane::new(TableId::Prefix, State::prefix, target(maps.prefix()?))),
        Box::new(TableLane::new(TableId::Address, State::address, target(maps.address()?))),
        Box::new(TableLane::new(TableId::Policy, State::policy, target(maps.policy()?))),
        Box::new(TableLane::new(TableId::Endpoint, State::endpoint, target(maps.endpoint()?))),
        Box::new(TableLane::new(TableId::Backend, State::backend, target(maps.backend()?))),
        Box::new(TableLane::new(TableId::Slot, State::slot, target(maps.backend_slot()?))),
        Box::new(TableLane::new(TableId::Service, State::service, target(maps.service()?))),
    ])
}

/// What a map holds, as a table.
pub fn read<K: Ord, V, T: Table<K, V>>(map: &T) -> Result<BTreeMap<K, V>, TableError> {
    Ok(map.entries()?.into_iter().collect())
}
