use proptest::{collection::vec, prelude::*, sample::subsequence};
use tombolo_abi::{
    FlowFlags, FlowKey, FlowValue, MapKind, NatTimeouts, Scope, SnatValue, forward_key, protocol, v4_mapped,
};

use super::*;
use crate::description::Description;

fn map(fields: &[(&str, usize, usize, FieldKind)], size: usize) -> MapDescription {
    let field = |&(name, offset, size, kind): &(&str, usize, usize, FieldKind)| FieldDescription {
        name: name.to_owned(),
        offset,
        size,
        kind,
    };
    let record = RecordDescription { size, fields: fields.iter().map(field).collect() };
    let key = RecordDescription { size: 0, fields: Vec::new() };
    MapDescription { name: "M".into(), kind: MapKind::Hash, entries: 1, version: 1, key, value: record }
}

/// Fields in the order of the list, with a gap before each.
fn packed(fields: &[(&str, usize, FieldKind)], gap: usize) -> MapDescription {
    let mut end = 0;
    let mut placed = Vec::new();
    for &(name, size, kind) in fields {
        placed.push((name, end + gap, size, kind));
        end += gap + size;
    }
    map(&placed, end + gap)
}

fn bytes_of<'b>(map: &MapDescription, name: &str, value: &'b [u8]) -> Option<&'b [u8]> {
    let field = map.value.fields.iter().find(|field| field.name == name)?;
    Some(&value[place(field)])
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Two versions: bytes keep their size, numbers need not.
fn versions() -> impl Strategy<Value = (MapDescription, MapDescription)> {
    let fields = || subsequence(NAMES.to_vec(), 0..=NAMES.len()).prop_shuffle();
    let kinds = vec((any::<bool>(), 1..9_usize, 1..9_usize), NAMES.len());
    (fields(), fields(), kinds, 0..3_usize, 0..3_usize).prop_map(|(old, new, kinds, gap, other_gap)| {
        let of = |name: &&'static str, is_new: bool| {
            let (number, size, new_size) = kinds[NAMES.iter().position(|known| known == name).unwrap()];
            match number {
                true => (*name, if is_new { new_size } else { size }, FieldKind::Number),
                false => (*name, size, FieldKind::Bytes),
            }
        };
        let old: Vec<_> = old.iter().map(|name| of(name, false)).collect();
        let new: Vec<_> = new.iter().map(|name| of(name, true)).collect();
        (packed(&old, gap), packed(&new, other_gap))
    })
}

proptest! {
    #[test]
    fn there_and_back_keeps_what_both_have(
        (old, new) in versions(),
        seed in vec(prop_oneof![Just(0), any::<u8>()], 80),
    ) {
        let value = &seed[..old.value.size];
        let (mut there, mut back) = (vec![0xee; new.value.size], vec![0xee; old.value.size]);
        let fits = |field: &FieldDescription| {
            let zero_from = |bytes: &[u8]| bytes.iter().skip(field.size).all(|&byte| byte == 0);
            bytes_of(&old, &field.name, value).is_none_or(zero_from)
        };
        match Conversion::between(&old, &new).unwrap().value(value, &mut there) {
            Err(ConversionError::TooLarge { field, .. }) => {
                let field = new.value.fields.iter().find(|known| known.name == field).unwrap();
                prop_assert!(!fits(field));
                return Ok(());
            }
            result => prop_assert_eq!(result, Ok(())),
        }
        prop_assert!(new.value.fields.iter().all(fits));
        Conversion::between(&new, &old).unwrap().value(&there, &mut back).unwrap();
        for name in NAMES {
            let zeros = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
            let (before, after) = (bytes_of(&old, name, value), bytes_of(&old, name, &back));
            match bytes_of(&new, name, &there) {
                Some(_) if before.is_some() => prop_assert_eq!(before, after),
                Some(added) => prop_assert!(zeros(added)),
                None => prop_assert!(after.is_none_or(zeros)),
            }
        }
    }
}

#[test]
fn numbers_change_their_size_when_the_value_fits() {
    let narrow = map(&[("n", 0, 2, FieldKind::Number)], 2);
    let wide = map(&[("n", 4, 4, FieldKind::Number)], 8);
    let mut buffer = [0xff; 8];
    Conversion::between(&narrow, &wide).unwrap().value(&[0x34, 0x12], &mut buffer).unwrap();
    assert_eq!(buffer, [0, 0, 0, 0, 0x34, 0x12, 0, 0]);
    let back = Conversion::between(&wide, &narrow).unwrap();
    let mut short = [0; 2];
    back.value(&buffer, &mut short).unwrap();
    assert_eq!(short, [0x34, 0x12]);
    let error = back.value(&[0, 0, 0, 0, 0, 0, 1, 0], &mut short).unwrap_err();
    assert_eq!(error.to_string(), "the number in field n does not fit into 2 bytes");
    assert_eq!(back.value(&[0; 9], &mut short), Err(ConversionError::Size { expected: 8, found: 9 }));
    assert_eq!(back.value(&[0; 8], &mut [0; 3]), Err(ConversionError::Size { expected: 2, found: 3 }));
}

#[test]
fn what_cannot_be_converted_is_named() {
    let bytes = map(&[("port", 0, 2, FieldKind::Bytes)], 2);
    for (other, shown) in [
        (map(&[("port", 0, 4, FieldKind::Bytes)], 4), "4 bytes"),
        (map(&[("port", 0, 2, FieldKind::Number)], 2), "a number of 2 bytes"),
    ] {
        let error = Conversion::between(&bytes, &other).unwrap_err().to_string();
        let wanted = format!("field port of map M is 2 bytes in the old version and {shown} in the new one");
        assert!(error.starts_with(&wanted), "{error}");
    }
}

/// The maps of the first release, with the bytes of entries as it wrote them.
mod first_release {
    use super::*;

    const TEXT: &str = include_str!("../../layouts/0.1.0.txt");
    const POD: [u8; 16] = v4_mapped([10, 0, 0, 7]);
    const OUTSIDE: [u8; 16] = v4_mapped([198, 51, 100, 9]);

    fn key(scope: u8) -> Vec<u8> {
        let ports = [0x9c, 0x40, 0x01, 0xbb];
        [&POD[..], &OUTSIDE, &ports, &[protocol::TCP, scope, 0, 0]].concat()
    }

    /// The entry in the form of this version.
    fn converted<V: bytemuck::Pod>(map: &str, key: &[u8], value: &[u8]) -> (FlowKey, V) {
        let (old, new) = (Description::parse(TEXT.as_bytes()).unwrap(), Description::current());
        let plan = Conversion::between(old.map(map).unwrap(), new.map(map).unwrap()).unwrap();
        let (mut new_key, mut new_value) = (FlowKey::default(), V::zeroed());
        plan.key(key, bytemuck::bytes_of_mut(&mut new_key)).unwrap();
        plan.value(value, bytemuck::bytes_of_mut(&mut new_value)).unwrap();
        (new_key, new_value)
    }

    #[test]
    fn its_maps_can_be_converted() {
        let (old, new) = (Description::parse(TEXT.as_bytes()).unwrap(), Description::current());
        let of_later =
            ["SOCKET_BACKEND", "POD_CONNECTIONS", "CONFIG", "POLICY_EPOCH", "DROPS", "METRICS", "EVENTS"];
        for map in &new.maps {
            assert_eq!(old.map(&map.name).is_none(), of_later.contains(&map.name.as_str()), "{}", map.name);
        }
        for map in &old.maps {
            Conversion::between(map, new.map(&map.name).unwrap()).unwrap();
        }
    }

    /// Flags have kept their meaning; FlowFlags::ESTABLISHED came later, and only in SNAT.
    #[test]
    fn a_connection_is_carried_over() {
        let backend = v4_mapped([10, 96, 0, 1]);
        let value = [
            &[0x15, 0xcd, 0x5b, 0x07, 0, 0, 0, 0][..], // last_seen
            &[0x23, 0, 0, 0],                          // FROM_SOURCE, REPLIED, TRANSLATED
            &[5, 1, 0, 0],                             // backend
            &backend,
            &[0x1f, 0x90],
            &[0; 6],
        ]
        .concat();
        let (key, value) = converted::<FlowValue>("FLOW", &key(0), &value);
        assert_eq!(key, FlowKey::new(Scope::Connection, POD, 40_000, OUTSIDE, 443, protocol::TCP));
        let flags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED).with(FlowFlags::TRANSLATED);
        assert_eq!((value.last_seen(), value.flags(), value.backend()), (123_456_789, flags, 261));
        assert_eq!((value.address(), value.port()), (backend, 8080));
    }

    /// Since then the state of a connection stands in its entry, in bytes that were reserved. Without flags it is not known:
    /// such an entry is kept for as long as an idle connection may live.
    #[test]
    fn a_masqueraded_connection_is_carried_over_without_state() {
        let node = v4_mapped([192, 0, 2, 1]);
        let value = [&[0x15, 0xcd, 0x5b, 0x07, 0, 0, 0, 0][..], &node, &[0x04, 0x00], &[0; 6]].concat();
        let (key, value) = converted::<SnatValue>("SNAT", &key(2), &value);
        assert_eq!(key, forward_key((POD, 40_000), (OUTSIDE, 443), protocol::TCP));
        assert_eq!(value, SnatValue::new(123_456_789, node, 1024, FlowFlags::NONE, 0));
        let lifetime = NatTimeouts::DEFAULT.lifetime(value.flags(), key.protocol(), key.destination_port());
        assert_eq!(lifetime, NatTimeouts::WITHOUT_STATE);
    }
}
