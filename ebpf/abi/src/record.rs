//! What keys and values consist of, so that another version can read them.

use bytemuck::Pod;

/// A key or a value of a map.
pub trait Record: Pod {
    /// Its fields in the order of their offsets. What is between or behind them is reserved and zero.
    const FIELDS: &'static [Field];
}

/// A part of a key or a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name, unique in its record.
    pub name: &'static str,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// What its bytes are.
    pub kind: FieldKind,
}

/// This size of a record or of its reserved bytes, and eight bytes more in the build that the test of an upgrade takes for
/// another version (feature `other-layout`).
pub(crate) const fn room(bytes: usize) -> usize {
    if cfg!(feature = "other-layout") { bytes + 8 } else { bytes }
}

/// What the bytes of a field are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FieldKind {
    /// A number, or a set of bits, with the least significant byte first: zeros behind it change nothing.
    Number,
    /// Anything else: addresses and ports in network order, and records within records.
    Bytes,
}

/// Says which fields a record has, in the order of their offsets, and behind a semicolon what is reserved. It does not
/// compile when one is forgotten.
macro_rules! record {
    ($record:ident { $($field:ident),+ $(; $reserved:ident)? }) => {
        impl $crate::Record for $record {
            const FIELDS: &'static [$crate::Field] = &[$($crate::record::field(
                stringify!($field),
                ::core::mem::offset_of!($record, $field),
                |record: &$record| &record.$field,
            )),+];
        }

        const _: fn($record) = |$record { $($field: _,)+ $($reserved: _)? }| {};
    };
}

/// A field, with size and kind from its type, which `get` only tells.
pub(crate) const fn field<R, F: FieldType>(
    name: &'static str,
    offset: usize,
    _get: for<'r> fn(&'r R) -> &'r F,
) -> Field {
    Field { name, offset, size: size_of::<F>(), kind: F::KIND }
}

/// A type that fields can have.
pub(crate) trait FieldType {
    /// What its bytes are.
    const KIND: FieldKind;
}

macro_rules! field_types {
    ($($kind:ident: $($field:ty),+;)+) => {
        $($(impl FieldType for $field {
            const KIND: FieldKind = FieldKind::$kind;
        })+)+
    };
}

field_types! {
    Number: u8, u16, u32, u64, [u64; 16], crate::Bitmap;
    Bytes: crate::Counter, crate::NatPorts, crate::NatTimeouts;
}

impl<const N: usize> FieldType for [u8; N] {
    const KIND: FieldKind = FieldKind::Bytes;
}

impl Record for u32 {
    const FIELDS: &'static [Field] =
        &[Field { name: "number", offset: 0, size: size_of::<u32>(), kind: FieldKind::Number }];
}

impl Record for () {
    const FIELDS: &'static [Field] = &[];
}

#[cfg(test)]
mod tests {
    use crate::{FieldKind, FragmentKey, Record, map};

    #[test]
    fn fields_stand_in_order_and_have_names_of_their_own() {
        for map in map::ALL {
            for (fields, size) in [(map.key_fields, map.key_size), (map.value_fields, map.value_size)] {
                let mut end = 0;
                for (i, field) in fields.iter().enumerate() {
                    assert!(field.offset >= end && field.size > 0, "{} {}", map.name, field.name);
                    assert!(fields[..i].iter().all(|other| other.name != field.name), "{}", map.name);
                    end = field.offset + field.size;
                }
                assert!(end <= size, "{}", map.name);
            }
        }
    }

    #[test]
    fn types_tell_what_bytes_are() {
        let fields: Vec<_> = FragmentKey::FIELDS.iter().map(|f| (f.name, f.offset, f.size, f.kind)).collect();
        let wanted = [
            ("source", 0, 16, FieldKind::Bytes),
            ("destination", 16, 16, FieldKind::Bytes),
            ("identification", 32, 4, FieldKind::Number),
            ("protocol", 36, 1, FieldKind::Number),
        ];
        assert_eq!(fields, wanted);
    }
}
