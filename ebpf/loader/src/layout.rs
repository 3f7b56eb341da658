//! Whether a pinned map is the one that the programs expect.

use aya::maps::{MapInfo, MapType};
use tombolo_abi::{
    AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, Config, Counter, DropCount, EndpointValue,
    FlowKey, FlowValue, FragmentKey, FragmentValue, OriginKey, OriginValue, PolicyKey, PolicyValue,
    PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue, map,
};

/// Kind and sizes of a map.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name.
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

impl Layout {
    const fn of<K, V>(name: &'static str, kind: MapType, entries: u32) -> Self {
        Self { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
    }

    /// Whether the map has this layout.
    pub fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.max_entries() == self.entries
    }
}

/// All maps.
pub const LAYOUTS: [Layout; 16] = [
    Layout::of::<AddressKey, EndpointValue>(map::ENDPOINT, MapType::Hash, map::ENDPOINT_ENTRIES),
    Layout::of::<AddressKey, AddressValue>(map::ADDRESS, MapType::Hash, map::ADDRESS_ENTRIES),
    Layout::of::<PrefixKey, AddressValue>(map::PREFIX, MapType::LpmTrie, map::PREFIX_ENTRIES),
    Layout::of::<u32, Bitmap>(map::IDENTITY, MapType::Hash, map::IDENTITY_ENTRIES),
    Layout::of::<PolicyKey, PolicyValue>(map::POLICY, MapType::LpmTrie, map::POLICY_ENTRIES),
    Layout::of::<ServiceKey, ServiceValue>(map::SERVICE, MapType::Hash, map::SERVICE_ENTRIES),
    Layout::of::<SlotKey, SlotValue>(map::BACKEND_SLOT, MapType::Hash, map::BACKEND_SLOT_ENTRIES),
    Layout::of::<BackendKey, BackendValue>(map::BACKEND, MapType::Hash, map::BACKEND_ENTRIES),
    Layout::of::<FlowKey, FlowValue>(map::FLOW, MapType::LruHash, map::FLOW_ENTRIES),
    Layout::of::<FlowKey, SnatValue>(map::SNAT, MapType::LruHash, map::SNAT_ENTRIES),
    Layout::of::<FragmentKey, FragmentValue>(map::FRAGMENT, MapType::LruHash, map::FRAGMENT_ENTRIES),
    Layout::of::<OriginKey, OriginValue>(map::ORIGIN, MapType::LruHash, map::ORIGIN_ENTRIES),
    Layout::of::<u32, DropCount>(map::DROPS, MapType::PerCpuArray, map::DROPS_ENTRIES),
    Layout::of::<u32, Counter>(map::METRICS, MapType::PerCpuArray, map::METRICS_ENTRIES),
    Layout::of::<(), ()>(map::EVENTS, MapType::RingBuf, map::EVENTS_BYTES),
    Layout::of::<u32, Config>(map::CONFIG, MapType::Array, 1),
];
