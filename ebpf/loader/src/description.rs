//! A set of maps as text, so that a later version, or an earlier one, can read what is in them.
//!
//! ```text
//! layout 1
//! # The first line says which version of this format follows. A line like this one is for people.
//! map FRAGMENT lru_hash entries 8192 version 1
//! key 40
//! field source 0 16 bytes
//! field identification 32 4 number
//! value 4
//! field source_port 0 2 bytes
//! end
//! ```
//!
//! Of a key and of a value there is the size, of a field the offset and the size, all in bytes. The order of fields is that
//! of their offsets. What a field's last word says is explained at [`FieldKind`].

mod parse;

use std::fmt;

use tombolo_abi::{Field, FieldKind, MapKind, MapSpec, map};

pub use self::parse::DescriptionError;

/// A set of maps and what is in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The maps; no two have the same name.
    pub maps: Vec<MapDescription>,
}

/// A map and what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapDescription {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: MapKind,
    /// How many entries it can have; of a ring buffer its size in bytes.
    pub entries: u32,
    /// Differs where keys or values mean something else although their sizes are the same.
    pub version: u32,
    /// Its keys.
    pub key: RecordDescription,
    /// Its values.
    pub value: RecordDescription,
}

/// What a key or a value consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordDescription {
    /// Its size in bytes.
    pub size: usize,
    /// Its fields in the order of their offsets; none reaches into the next one, and no two have the same name.
    pub fields: Vec<FieldDescription>,
}

/// A part of a key or a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldDescription {
    /// Its name.
    pub name: String,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its size in bytes, never 0.
    pub size: usize,
    /// What its bytes are.
    pub kind: FieldKind,
}

impl Description {
    /// The most bytes that a description may have.
    pub const MAX_BYTES: usize = 64 << 10;

    /// The maps of this version.
    pub fn current() -> Self {
        Self { maps: map::ALL.iter().map(MapDescription::from).collect() }
    }

    /// The map with this name.
    pub fn map(&self, name: &str) -> Option<&MapDescription> {
        self.maps.iter().find(|map| map.name == name)
    }
}

impl From<&MapSpec> for MapDescription {
    fn from(spec: &MapSpec) -> Self {
        Self {
            name: spec.name.to_owned(),
            kind: spec.kind,
            entries: spec.entries,
            version: spec.version,
            key: RecordDescription::new(spec.key_size, spec.key_fields),
            value: RecordDescription::new(spec.value_size, spec.value_fields),
        }
    }
}

impl RecordDescription {
    fn new(size: usize, fields: &[Field]) -> Self {
        let field = |field: &Field| FieldDescription {
            name: field.name.to_owned(),
            offset: field.offset,
            size: field.size,
            kind: field.kind,
        };
        Self { size, fields: fields.iter().map(field).collect() }
    }
}

/// A kind as text says it.
trait Word: Copy + 'static {
    /// All kinds.
    const ALL: &'static [Self];
    /// The word.
    fn word(self) -> &'static str;
}

impl Word for MapKind {
    const ALL: &'static [Self] =
        &[Self::Hash, Self::LruHash, Self::LpmTrie, Self::Array, Self::PerCpuArray, Self::RingBuf];

    fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::LruHash => "lru_hash",
            Self::LpmTrie => "lpm_trie",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::RingBuf => "ringbuf",
        }
    }
}

impl Word for FieldKind {
    const ALL: &'static [Self] = &[Self::Number, Self::Bytes];

    fn word(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Bytes => "bytes",
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "layout {}", parse::FORMAT)?;
        for map in &self.maps {
            let MapDescription { name, kind, entries, version, .. } = map;
            writeln!(f, "map {name} {} entries {entries} version {version}", kind.word())?;
            for (keyword, record) in [("key", &map.key), ("value", &map.value)] {
                writeln!(f, "{keyword} {}", record.size)?;
                for FieldDescription { name, offset, size, kind } in &record.fields {
                    writeln!(f, "field {name} {offset} {size} {}", kind.word())?;
                }
            }
        }
        writeln!(f, "end")
    }
}

#[cfg(test)]
mod tests;
