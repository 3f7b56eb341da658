//! BPF maps as targets.

use std::{collections::BTreeMap, fmt::Debug, marker::PhantomData};

use tombolo_loader::{Maps, Table, TableError};
use tombolo_node_core::{
    reconcile::Target,
    state::{State, TableId},
    table::Table as Desired,
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
    TableId::ALL.into_iter().filter_map(|table| lane(maps, table).transpose()).collect()
}

/// The lane of a table; none for what is not written to a map.
fn lane(maps: &Maps, id: TableId) -> Result<Option<Box<dyn Lane>>, TableError> {
    fn to_map<K, V, T>(id: TableId, table: fn(&mut State) -> &mut Desired<K, V>, map: T) -> Box<dyn Lane>
    where
        K: Ord + Clone + Debug + Send + 'static,
        V: PartialEq + Clone + Send + 'static,
        T: Table<K, V> + Send + 'static,
    {
        Box::new(TableLane::new(id, table, MapTarget { map, types: PhantomData }))
    }
    Ok(Some(match id {
        TableId::Peer | TableId::Route => return Ok(None),
        TableId::Identity => to_map(id, State::identity, maps.identity()?),
        TableId::Prefix => to_map(id, State::prefix, maps.prefix()?),
        TableId::Address => to_map(id, State::address, maps.address()?),
        TableId::Policy => to_map(id, State::policy, maps.policy()?),
        TableId::Endpoint => to_map(id, State::endpoint, maps.endpoint()?),
        TableId::Backend => to_map(id, State::backend, maps.backend()?),
        TableId::Slot => to_map(id, State::slot, maps.backend_slot()?),
        TableId::Service => to_map(id, State::service, maps.service()?),
    }))
}

/// What a map holds, as a table.
pub fn read<K: Ord, V, T: Table<K, V>>(map: &T) -> Result<BTreeMap<K, V>, TableError> {
    Ok(map.entries()?.into_iter().collect())
}
