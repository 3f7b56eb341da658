//! The pinned maps by name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use bytemuck::Pod;
use tombolo_abi::{
    AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, Config, Counter, DropCount, DropReason,
    EndpointValue, FlowKey, FlowValue, Metric, OriginKey, OriginValue, PolicyKey, PolicyValue, PrefixKey,
    ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue, map,
};

use crate::{
    EventReader,
    table::{Bytes, Hash, TableError, Trie},
};

/// Opens maps by their pins. Works without loading programs, so that tools can look at a running datapath.
#[derive(Clone, Debug)]
pub struct Maps {
    pin_dir: PathBuf,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $method:ident: $kind:ident<$key:ty, $value:ty> = $name:path, $variant:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// The map is not pinned, or not what it should be.
            pub fn $method(&self) -> Result<$kind<$key, $value>, TableError> {
                $kind::new($name, Map::$variant(self.open($name)?))
            }
        )*
    };
}

impl Maps {
    /// The maps pinned in `pin_dir`.
    pub fn at(pin_dir: &Path) -> Self {
        Self { pin_dir: pin_dir.to_owned() }
    }

    tables! {
        /// Pods of this node.
        endpoint: Hash<AddressKey, EndpointValue> = map::ENDPOINT, HashMap;
        /// Owners of addresses.
        address: Hash<AddressKey, AddressValue> = map::ADDRESS, HashMap;
        /// Owners of prefixes.
        prefix: Trie<PrefixKey, AddressValue> = map::PREFIX, LpmTrie;
        /// Selectors of identities.
        identity: Hash<u32, Bitmap> = map::IDENTITY, HashMap;
        /// Rules.
        policy: Trie<PolicyKey, PolicyValue> = map::POLICY, LpmTrie;
        /// Frontends.
        service: Hash<ServiceKey, ServiceValue> = map::SERVICE, HashMap;
        /// Slots of services.
        backend_slot: Hash<SlotKey, SlotValue> = map::BACKEND_SLOT, HashMap;
        /// Backends.
        backend: Hash<BackendKey, BackendValue> = map::BACKEND, HashMap;
        /// Connections; for reading.
        flow: Hash<FlowKey, FlowValue> = map::FLOW, LruHashMap;
        /// Masqueraded connections; for reading.
        snat: Hash<FlowKey, SnatValue> = map::SNAT, LruHashMap;
        /// Redirected sockets; for reading.
        origin: Hash<OriginKey, OriginValue> = map::ORIGIN, LruHashMap;
    }

    /// What the datapath is told about the node.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn config(&self) -> Result<Config, TableError> {
        let array = self.config_array()?;
        array.get(&0, 0).map(|c| c.0).map_err(|source| TableError::Map { name: map::CONFIG, source })
    }

    /// Tells the datapath about the node.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn set_config(&self, config: &Config) -> Result<(), TableError> {
        let mut array = self.config_array()?;
        array.set(0, Bytes(*config), 0).map_err(|source| TableError::Map { name: map::CONFIG, source })
    }

    /// A reader of drops as they happen. Several readers take entries from each other.
    ///
    /// # Errors
    /// The ring is not pinned.
    pub fn events(&self) -> Result<EventReader, TableError> {
        EventReader::new(Map::RingBuf(self.open(map::EVENTS)?))
    }

    fn config_array(&self) -> Result<Array<MapData, Bytes<Config>>, TableError> {
        let name = map::CONFIG;
        Map::Array(self.open(name)?).try_into().map_err(|source| TableError::Open { name, source })
    }

    fn per_cpu<V: Pod>(&self, name: &'static str) -> Result<PerCpuArray<MapData, Bytes<V>>, TableError> {
        Map::PerCpuArray(self.open(name)?).try_into().map_err(|source| TableError::Open { name, source })
    }

    fn open(&self, name: &'static str) -> Result<MapData, TableError> {
        MapData::from_pin(self.pin_dir.join(name)).map_err(|source| TableError::Open { name, source })
    }
}

/// Drops by reason, over all CPUs; every reason is there.
///
/// # Errors
/// The map is not pinned.
pub fn drops(maps: &Maps) -> Result<BTreeMap<DropReason, DropCount>, TableError> {
    let array = maps.per_cpu::<DropCount>(map::DROPS)?;
    let read = |reason: DropReason| {
        let values = array.get(&(reason as u32), 0);
        let values = values.map_err(|source| TableError::Map { name: map::DROPS, source })?;
        Ok((reason, values.iter().fold(DropCount::default(), |sum, value| sum.plus(value.0))))
    };
    DropReason::ALL.iter().copied().map(read).collect()
}

/// Counters, over all CPUs; every one is there.
///
/// # Errors
/// The map is not pinned.
pub fn metrics(maps: &Maps) -> Result<BTreeMap<Metric, Counter>, TableError> {
    let array = maps.per_cpu::<Counter>(map::METRICS)?;
    let read = |metric: Metric| {
        let values = array.get(&(metric as u32), 0);
        let values = values.map_err(|source| TableError::Map { name: map::METRICS, source })?;
        Ok((metric, values.iter().fold(Counter::default(), |sum, value| sum.plus(value.0))))
    };
    Metric::ALL.iter().copied().map(read).collect()
}
