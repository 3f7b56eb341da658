//! The clock that the datapath reads.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot (CLOCK_MONOTONIC).
pub fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
