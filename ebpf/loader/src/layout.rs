//! Whether a pinned map is the one that a description says.

use aya::maps::{MapInfo, MapType};
use tombolo_abi::MapKind;

use crate::description::MapDescription;

/// Whether a map has the kind and the sizes of its description.
pub fn fits(map: &MapDescription, info: &MapInfo) -> bool {
    let kind = match map.kind {
        MapKind::Hash => MapType::Hash,
        MapKind::LruHash => MapType::LruHash,
        MapKind::LpmTrie => MapType::LpmTrie,
        MapKind::Array => MapType::Array,
        MapKind::PerCpuArray => MapType::PerCpuArray,
        MapKind::RingBuf => MapType::RingBuf,
    };
    // The kernel does not know what is put into a ring.
    let value_size = if map.kind == MapKind::RingBuf { 0 } else { map.value.size };
    info.map_type().is_ok_and(|found| found == kind)
        && info.key_size() as usize == map.key.size
        && info.value_size() as usize == value_size
        && info.max_entries() == map.entries
}
