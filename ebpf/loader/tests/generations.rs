//! Maps of another layout: what is in them is carried over, and traffic goes on.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, path::Path};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use common::{ip, on_a_node};
use tombolo_abi::{
    AddressFlags, AddressKey, AddressValue, FlowFlags, FlowKey, FlowValue, PrefixKey, Scope, SnatValue,
    forward_key, map, protocol, v4_mapped,
};
use tombolo_loader::{Datapath, Description, Hash, LoadError, Maps, Table, Trie, unload};

const HASH: u32 = 1;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;

/// A pinned map.
fn pinned(directory: &Path, name: &str, kind: u32, sizes: (u32, u32), entries: u32) -> Map {
    let flags = if kind == LRU_HASH { 0 } else { NO_PREALLOC };
    let definition = aya_obj::Map::new_from_params(kind, sizes.0, sizes.1, entries, flags);
    let data = MapData::create(definition, name, None).unwrap();
    data.pin(directory.join(name)).unwrap();
    match kind {
        HASH => Map::HashMap(data),
        LRU_HASH => Map::LruHashMap(data),
        _ => Map::LpmTrie(data),
    }
}

const OUTSIDE: [u8; 16] = v4_mapped([203, 0, 113, 9]);
const POD: [u8; 16] = v4_mapped([10, 1, 0, 1]);

fn connection() -> FlowKey {
    FlowKey::new(Scope::Connection, POD, 40_000, OUTSIDE, 443, protocol::TCP)
}

fn bytes<T: bytemuck::Pod, const N: usize>(value: &T) -> [u8; N] {
    bytemuck::bytes_of(value).try_into().unwrap()
}

/// What release 0.1.0 leaves: a connection seen at `seen`, an address, a prefix, and links.
fn release(pins: &Path, seen: u64) -> HashMap<MapData, [u8; 40], [u8; 40]> {
    fs::create_dir_all(pins.join("links")).unwrap();
    let mut flow = HashMap::try_from(pinned(pins, "FLOW", LRU_HASH, (40, 40), 1 << 18)).unwrap();
    flow.insert(bytes(&connection()), flow_of_first(seen), 0).unwrap();
    let mut snat: HashMap<_, [u8; 40], [u8; 32]> =
        HashMap::try_from(pinned(pins, "SNAT", LRU_HASH, (40, 32), 1 << 17)).unwrap();
    let forward = forward_key((POD, 40_000), (OUTSIDE, 443), protocol::TCP);
    let mut value = [0; 32];
    value[..8].copy_from_slice(&seen.to_ne_bytes());
    value[8..24].copy_from_slice(&v4_mapped([192, 0, 2, 1]));
    value[24..26].copy_from_slice(&1024_u16.to_be_bytes());
    snat.insert(bytes::<_, 40>(&forward), value, 0).unwrap();
    let mut address: HashMap<_, [u8; 16], [u8; 8]> =
        HashMap::try_from(pinned(pins, "ADDRESS", HASH, (16, 8), 1 << 20)).unwrap();
    for number in 0..10_000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        let value = AddressValue::new(300 + number, AddressFlags::NO_MASQUERADE);
        address.insert(ip(10, b, c, d), bytes::<_, 8>(&value), 0).unwrap();
    }
    let mut prefix: LpmTrie<_, [u8; 16], [u8; 8]> =
        LpmTrie::try_from(pinned(pins, "PREFIX", LPM_TRIE, (20, 8), 1 << 18)).unwrap();
    for third in 0..=255 {
        let value = AddressValue::new(u32::from(third), AddressFlags::TUNNEL);
        prefix.insert(&Key::new(120, ip(10, 2, third, 0)), bytes::<_, 8>(&value), 0).unwrap();
    }
    for (name, kind, sizes, entries) in [
        ("ENDPOINT", HASH, (16, 28), 16_384),
        ("IDENTITY", HASH, (4, 128), 1 << 20),
        ("POLICY", LPM_TRIE, (12, 256), 1 << 17),
        ("SERVICE", HASH, (20, 12), 1 << 18),
        ("BACKEND_SLOT", HASH, (8, 4), 1 << 20),
        ("BACKEND", HASH, (4, 24), 1 << 19),
        ("FRAGMENT", LRU_HASH, (40, 4), 8192),
        ("ORIGIN", LRU_HASH, (32, 20), 1 << 17),
    ] {
        pinned(pins, name, kind, sizes, entries);
    }
    flow
}

/// The value that 0.1.0 has for an answered connection.
fn flow_of_first(seen: u64) -> [u8; 40] {
    let mut value = [0; 40];
    value[..8].copy_from_slice(&seen.to_ne_bytes());
    value[8] = 3;
    value
}

fn seen(maps: &Maps, key: &FlowKey) -> Option<u64> {
    maps.flow().unwrap().get(key).unwrap().map(|flow| flow.last_seen())
}

#[test]
#[ignore = "needs root; 20 s"]
fn what_the_first_release_has_left_is_carried_over() {
    on_a_node(|pins| {
        let mut flow = release(pins, 1000);
        let datapath = Datapath::load(pins).unwrap();
        assert_eq!(datapath.generation_before(), Some(0));
        let maps = datapath.maps();
        let carried = maps.flow().unwrap().get(&connection()).unwrap().unwrap();
        assert_eq!(carried, FlowValue::new(1000, FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED)));
        let nat: Vec<(FlowKey, SnatValue)> = maps.snat().unwrap().entries().unwrap();
        assert_eq!((nat.len(), nat[0].1.port(), nat[0].1.endpoint()), (1, 1024, 0));
        let addresses: Hash<AddressKey, AddressValue> = maps.address().unwrap();
        assert_eq!(addresses.entries().unwrap().len(), 10_000);
        let prefixes: Trie<PrefixKey, AddressValue> = maps.prefix().unwrap();
        assert_eq!(prefixes.entries().unwrap().len(), 256);
        let of_prefix = prefixes.get(&PrefixKey::new(ip(10, 2, 7, 9), 128)).unwrap();
        assert_eq!(of_prefix, Some(AddressValue::new(7, AddressFlags::TUNNEL)));

        // Until programs are replaced, the old ones note packets.
        flow.insert(bytes(&connection()), flow_of_first(2000), 0).unwrap();
        datapath.begin_handover().unwrap();
        assert_eq!(seen(&maps, &connection()), Some(2000));
        // From then on the new ones do, too, and know better; what only the old ones know is added.
        let later = FlowKey::new(Scope::Connection, POD, 40_001, OUTSIDE, 443, protocol::TCP);
        flow.insert(bytes(&connection()), flow_of_first(3000), 0).unwrap();
        flow.insert(bytes(&later), flow_of_first(3001), 0).unwrap();
        let carried = datapath.carry_new().unwrap();
        datapath.end_handover().unwrap();
        assert_eq!((carried.entries, carried.lost), (1, 0));
        assert_eq!((seen(&maps, &connection()), seen(&maps, &later)), (Some(2000), Some(3001)));
        assert_eq!(datapath.generation_before(), None);
        assert!(map::ALL.iter().all(|map| !pins.join(map.name).exists()), "nothing of the release is left");
        assert_eq!(seen(&Maps::newest(pins), &later), Some(3001));
        unload(pins).unwrap();
        assert!(!pins.exists());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn an_agent_that_dies_on_the_way_goes_on_where_it_was() {
    on_a_node(|pins| {
        let mut flow = release(pins, 1000);
        // It dies before any of its programs runs: what it has copied is worth nothing.
        drop(Datapath::load(pins).unwrap());
        flow.insert(bytes(&connection()), flow_of_first(2000), 0).unwrap();
        let again = Datapath::load(pins).unwrap();
        assert_eq!(again.generation_before(), Some(0));
        assert_eq!(seen(&again.maps(), &connection()), Some(2000));
        again.begin_handover().unwrap();
        // Now the next one may find programs of both: what the new ones have noted stays.
        drop(again);
        flow.insert(bytes(&connection()), flow_of_first(3000), 0).unwrap();
        let again = Datapath::load(pins).unwrap();
        again.begin_handover().unwrap();
        assert_eq!(seen(&again.maps(), &connection()), Some(2000));
        again.end_handover().unwrap();
        let last = Datapath::load(pins).unwrap();
        assert_eq!(last.generation_before(), None);
        assert_eq!(seen(&last.maps(), &connection()), Some(2000));
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_release_that_was_here_again_is_the_newest() {
    on_a_node(|pins| {
        drop(Datapath::load(pins).unwrap());
        release(pins, 5000);
        for _ in 0..2 {
            let datapath = Datapath::load(pins).unwrap();
            assert_eq!(datapath.generation_before(), Some(0), "not the one before it");
            assert_eq!(seen(&datapath.maps(), &connection()), Some(5000));
            datapath.begin_handover().unwrap();
        }
        Datapath::load(pins).unwrap().end_handover().unwrap();
        let names: Vec<_> = fs::read_dir(pins).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "links and one generation: {names:?}");
    });
}

/// A description as a pin.
fn describe(directory: &Path, text: &str) {
    let mut array = Array::<_, [u8; Description::MAX_BYTES]>::create(1, 0).unwrap();
    let mut value = [0; Description::MAX_BYTES];
    value[..text.len()].copy_from_slice(text.as_bytes());
    array.set(0, value, 0).unwrap();
    array.pin(directory.join("LAYOUT")).unwrap();
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_generation_that_is_half_made_or_half_removed_is_none() {
    on_a_node(|pins| {
        release(pins, 5000);
        Datapath::load(pins).unwrap().end_handover().unwrap();
        // Killed between two pins of generation 0, and while making another one.
        pinned(pins, "SNAT", LRU_HASH, (40, 32), 1 << 17);
        fs::create_dir(pins.join("preparing")).unwrap();
        pinned(&pins.join("preparing"), "SNAT", LRU_HASH, (40, 32), 1 << 17);
        let datapath = Datapath::load(pins).unwrap();
        assert_eq!(datapath.generation_before(), None);
        assert!(!pins.join("SNAT").exists() && !pins.join("preparing").exists());
        assert_eq!(seen(&datapath.maps(), &connection()), Some(5000));
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn what_a_later_version_has_left_is_carried_back() {
    on_a_node(|pins| {
        drop(Datapath::load(pins).unwrap());
        // The later version has FLOW with a field more and all others elsewhere; what else it has, it has taken along.
        let (own, later) = (pins.join("generation-1"), pins.join("generation-2"));
        fs::create_dir(&later).unwrap();
        for map in map::ALL.iter().filter(|map| map.name != "FLOW") {
            MapData::from_pin(own.join(map.name)).unwrap().pin(later.join(map.name)).unwrap();
        }
        fs::remove_dir_all(own).unwrap();
        let mut layout = Description::current();
        let flow = layout.maps.iter_mut().find(|map| map.name == "FLOW").unwrap();
        flow.value.size = 80;
        flow.value.fields.iter_mut().for_each(|field| field.offset += 16);
        let mut added = flow.value.fields[0].clone();
        (added.name, added.offset) = ("later".into(), 0);
        flow.value.fields.insert(0, added);
        describe(&later, &layout.to_string());
        let mut flow: HashMap<_, [u8; 40], [u8; 80]> =
            HashMap::try_from(pinned(&later, "FLOW", LRU_HASH, (40, 80), 1 << 18)).unwrap();
        let noted = FlowValue::new(1000, FlowFlags::FROM_SOURCE).judged(7, 0, 3).translated(5, OUTSIDE, 80);
        let mut value = [9; 80];
        value[16..].copy_from_slice(bytemuck::bytes_of(&noted));
        flow.insert(bytes::<_, 40>(&connection()), value, 0).unwrap();
        Maps::newest(pins).advance_policy_epoch().unwrap();
        MapData::from_pin(later.join("LAYOUT")).unwrap().pin(later.join("ALONE")).unwrap();

        let datapath = Datapath::load(pins).unwrap();
        assert_eq!(datapath.generation_before(), Some(2));
        assert_eq!(datapath.maps().flow().unwrap().entries().unwrap(), [(connection(), noted)]);
        assert_eq!(datapath.maps().policy_epoch().unwrap(), 1);
        datapath.end_handover().unwrap();
        assert!(!later.exists() && pins.join("generation-3/FLOW").exists());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn what_is_damaged_is_named_and_stays() {
    on_a_node(|pins| {
        let directory = pins.join("generation-1");
        drop(Datapath::load(pins).unwrap());
        fs::rename(directory.join("FLOW"), directory.join("moved")).unwrap();
        let error = Datapath::load(pins).err().unwrap();
        assert!(matches!(error, LoadError::Generation(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("generation-1/FLOW") && text.contains("traffic goes on"), "{text}");
        fs::rename(directory.join("moved"), directory.join("FLOW")).unwrap();
        fs::rename(directory.join("FRAGMENT"), directory.join("moved")).unwrap();
        fs::rename(directory.join("SNAT"), directory.join("FRAGMENT")).unwrap();
        let text = Datapath::load(pins).err().unwrap().to_string();
        assert!(text.contains("generation-1/FRAGMENT") || text.contains("generation-1/SNAT"), "{text}");
        fs::rename(directory.join("FRAGMENT"), directory.join("SNAT")).unwrap();
        fs::rename(directory.join("moved"), directory.join("FRAGMENT")).unwrap();
        drop(Datapath::load(pins).unwrap());

        fs::remove_file(directory.join("LAYOUT")).unwrap();
        let text = Datapath::load(pins).err().unwrap().to_string();
        assert!(text.contains("generation-1/LAYOUT"), "{text}");
        describe(&directory, "layout 1\nmap");
        let text = Datapath::load(pins).err().unwrap().to_string();
        assert!(text.contains("generation-1") && text.contains("line 2"), "{text}");
        assert!(directory.join("FLOW").exists());
    });
}
