//! BPF maps as text, for people.

use std::fmt::Debug;

use serde::Serialize;
use tombolo_loader::{Maps, Table, TableError};

/// The maps that can be listed.
pub const NAMES: [&str; 11] = [
    "address",
    "backend",
    "backend_slot",
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// All entries of a map; none for an unknown name.
pub fn list(maps: &Maps, name: &str) -> Option<Result<Vec<Entry>, TableError>> {
    Some(match name {
        "address" => maps.address().and_then(|map| entries(&map)),
        "backend" => maps.backend().and_then(|map| entries(&map)),
        "backend_slot" => maps.backend_slot().and_then(|map| entries(&map)),
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

fn entries<K: Debug, V: Debug>(map: &impl Table<K, V>) -> Result<Vec<Entry>, TableError> {
    let entry = |(key, value): (K, V)| Entry { key: format!("{key:?}"), value: format!("{value:?}") };
    Ok(map.entries()?.into_iter().map(entry).collect())
}
