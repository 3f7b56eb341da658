//! Whether there is memory for the maps of two generations.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use crate::{generation::Generation, sys};

/// There is not enough memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the maps of this version need {needed} MiB beside those of the version before, and {available} MiB are available: \
     traffic goes on as it is; give the node, or the agent's container, more memory"
)]
pub struct MemoryError {
    /// What is needed, MiB.
    pub needed: u64,
    /// What there is, MiB.
    pub available: u64,
}

/// Fails unless the memory that the maps of `generation` have is there once more.
pub fn check(generation: &Generation) -> Result<(), MemoryError> {
    let maps = generation.layout.maps.iter();
    let used: u64 = maps
        .filter_map(|map| sys::open_pin(&generation.directory.join(&map.name)).ok())
        .map(|map| used_by(&map))
        .sum();
    let available = on_node().into_iter().chain(in_container()).min().unwrap_or(u64::MAX);
    if available > used {
        return Ok(());
    }
    Err(MemoryError { needed: used >> 20, available: available >> 20 })
}

/// Bytes that the kernel says a map has; 0 when it says nothing.
fn used_by(map: &OwnedFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    number_after(&fs::read_to_string(path).unwrap_or_default(), "memlock:").unwrap_or(0)
}

fn on_node() -> Option<u64> {
    number_after(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|kib| kib << 10)
}

/// What the limit of the own cgroup leaves; none without one.
fn in_container() -> Option<u64> {
    let read = |name: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

/// The number behind a word at the beginning of a line.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_words() {
        let text = "MemTotal:  24 kB\nMemAvailable:\t 1234 kB\n";
        assert_eq!(number_after(text, "MemAvailable:"), Some(1234));
        assert_eq!(number_after(text, "memlock:"), None);
        assert!(on_node().is_some_and(|bytes| bytes > 1 << 20));
    }
}
