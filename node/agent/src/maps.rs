//! BPF maps as text, for people.

mod show;

use serde::Serialize;
use tombolo_abi::Direction;
use tombolo_loader::{Maps, Table, TableError, drops};

use self::show::Show;

/// The maps that can be listed.
pub const NAMES: [&str; 12] = [
    "address",
    "backend",
    "backend_slot",
    "drops",
    "endpoint",
    "flow",
    "identity",
    "origin",
    "policy",
    "prefix",
    "service",
    "snat",
];

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// All entries of a map, ordered by key; none for an unknown name.
pub fn list(maps: &Maps, name: &str) -> Option<Result<Vec<Entry>, TableError>> {
    Some(match name {
        "address" => maps.address().and_then(|map| entries(&map)),
        "backend" => maps.backend().and_then(|map| entries(&map)),
        "backend_slot" => maps.backend_slot().and_then(|map| entries(&map)),
        "drops" => dropped(maps),
        "endpoint" => maps.endpoint().and_then(|map| entries(&map)),
        "flow" => maps.flow().and_then(|map| entries(&map)),
        "identity" => maps.identity().and_then(|map| entries(&map)),
        "origin" => maps.origin().and_then(|map| entries(&map)),
        "policy" => maps.policy().and_then(|map| entries(&map)),
        "prefix" => maps.prefix().and_then(|map| entries(&map)),
        "service" => maps.service().and_then(|map| entries(&map)),
        "snat" => maps.snat().and_then(|map| entries(&map)),
        _ => return None,
    })
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
