//! Which BPF objects the kernel holds. They belong to no namespace, so it is those of the whole machine.

use std::collections::BTreeMap;

use aya::{maps::loaded_maps, programs::loaded_programs};

/// How many programs and maps of each name there are, as `program NAME` and `map NAME` (the kernel keeps 15 bytes of a
/// name). Objects that go away while they are listed are left out, and those without a name: the container runtime
/// makes them for cgroups, and the kernel frees them whenever it is done with the cgroup.
pub fn census() -> BTreeMap<String, usize> {
    let named = |kind: &str, name: Option<&str>| {
        name.filter(|name| !name.is_empty()).map(|name| format!("{kind} {name}"))
    };
    let programs = loaded_programs().filter_map(Result::ok);
    let maps = loaded_maps().filter_map(Result::ok);
    let mut counts = BTreeMap::new();
    for name in programs
        .filter_map(|program| named("program", program.name_as_str()))
        .chain(maps.filter_map(|map| named("map", map.name_as_str())))
    {
        *counts.entry(name).or_default() += 1;
    }
    counts
}
