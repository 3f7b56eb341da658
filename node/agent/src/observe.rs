//! What the datapath reports: counters into metrics, single drops into the log.

use std::{io, os::fd::AsFd, sync::atomic::Ordering};

use tokio::io::unix::AsyncFd;
use tombolo_abi::Direction;
use tombolo_loader::{Maps, TableError};

use crate::metrics::{DropLabels, Metrics};

/// Copies the datapath's counters of drops into the metrics.
pub fn collect_drops(maps: &Maps, metrics: &Metrics) -> Result<(), TableError> {
    for (reason, count) in tombolo_loader::drops(maps)? {
        let packets = |direction| count.get(direction).packets();
        let total = packets(Direction::Ingress).saturating_add(packets(Direction::Egress));
        let labels = DropLabels { reason: reason.name().to_owned() };
        metrics.drops.get_or_create(&labels).inner().store(total, Ordering::Relaxed);
    }
    Ok(())
}

/// Logs each drop at level debug, until the ring cannot be read any more. There is one reader per node.
pub async fn log_drops(maps: &Maps) -> io::Result<()> {
    let mut events = maps.events().map_err(io::Error::other)?;
    let readable = AsyncFd::register(events.as_fd().try_clone_to_owned()?)?;
    loop {
        let mut ready = readable.readable().await?;
        while let Some(event) = events.next_event() {
            tracing::debug!(reason = event.reason.name(), ?event, "packet dropped");
        }
        ready.clear_ready();
    }
}
