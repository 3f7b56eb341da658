//! BPF maps as text, for people.

mod show;

use serde::Serialize;
use tombolo_abi::{Direction, for_each_map};
use tombolo_loader::{Maps, Table, TableError, drops};

use self::show::Show;
pub use self::show::protocol_name;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Lists the entries of a map.
type Reader = fn(&Maps) -> Result<Vec<Entry>, TableError>;

/// Every map with keys and values of its own is listed, except for what lives as long as a datagram is under way.
macro_rules! reader {
    (fragment $kind:ident) => {
        None
    };
    (drops $kind:ident) => {
        Some(dropped)
    };
    ($map:ident Array) => {
        None
    };
    ($map:ident PerCpuArray) => {
        None
    };
    ($map:ident RingBuf) => {
        None
    };
    ($map:ident $table:ident) => {
        Some(|maps| maps.$map().and_then(|map| entries(&map)))
    };
}

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident $method:ident: $kind:ident<$key:ty, $value:ty>,
       entries $entries:expr, version $version:literal;)*) => {
        [$((stringify!($method), reader!($method $kind))),*]
    };
}

/// How each map is listed; none for what is not.
const READERS: &[(&str, Option<Reader>)] = &for_each_map!(readers);

/// The maps that can be listed, in alphabetical order.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> =
        READERS.iter().filter(|(_, reader)| reader.is_some()).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

/// All entries of a map, ordered by key; none for a name that cannot be listed.
pub fn list(maps: &Maps, name: &str) -> Option<Result<Vec<Entry>, TableError>> {
    let (_, reader) = READERS.iter().find(|(known, _)| *known == name)?;
    reader.map(|read| read(maps))
}

fn entries<K: Show, V: Show>(map: &impl Table<K, V>) -> Result<Vec<Entry>, TableError> {
    let entry = |(key, value): (K, V)| Entry { key: key.show(), value: value.show() };
    let mut all: Vec<_> = map.entries()?.into_iter().map(entry).collect();
    all.sort();
    Ok(all)
}

/// Only what was ever counted.
fn dropped(maps: &Maps) -> Result<Vec<Entry>, TableError> {
    let mut all = Vec::new();
    for (reason, count) in drops(maps)? {
        for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            let counter = count.get(direction);
            if counter.packets() > 0 {
                all.push(Entry {
                    key: format!("{} {name}", reason.name()),
                    value: format!("{} packets, {} bytes", counter.packets(), counter.bytes()),
                });
            }
        }
    }
    Ok(all)
}
