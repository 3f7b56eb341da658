//! Which BPF objects the kernel holds. They belong to no namespace, so it is those of the whole machine.

use std::collections::BTreeMap;

use aya::{maps::loaded_maps, programs::loaded_programs};

/// How many programs and maps of each name there are, as `program NAME` and `map NAME` (the kernel keeps 15 bytes of a
/// name). Objects that go away while they are listed are left out.
pub fn census() -> BTreeMap<String, usize> {
    let programs = loaded_programs().filter_map(Result::ok);
    let maps = loaded_maps().filter_map(Result::ok);
    let mut counts = BTreeMap::new();
    for name in programs
        .map(|program| format!("program {}", program.name_as_str().unwrap_or_default()))
        .chain(maps.map(|map| format!("map {}", map.name_as_str().unwrap_or_default())))
    {
        *counts.entry(name).or_default() += 1;
    }
    counts
}
