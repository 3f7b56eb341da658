//! What the datapath reports: counters into metrics, single drops into the log.

use std::{io, os::fd::AsFd, sync::atomic::Ordering, thread};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::oneshot;
use tombolo_abi::Direction;
use tombolo_loader::{Maps, TableError};

use crate::metrics::{DropLabels, Metrics};

/// How long the reader of drops sleeps at most, milliseconds.
const LOOK: u16 = 500;

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

/// Logs each drop at level debug, until the future is dropped or the ring cannot be read any more. There is one
/// reader per node.
pub async fn log_drops(maps: &Maps) -> io::Result<()> {
    let mut events = maps.events().map_err(io::Error::other)?;
    let (failed, failure) = oneshot::channel::<io::Error>();
    let read = move || {
        // Looks now and then whether anybody still wants to know.
        while !failed.is_closed() {
            if let Err(e) =
                poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK))
                && e != Errno::EINTR
            {
                // Nobody waits any more when the agent stops.
                let _ = failed.send(e.into());
                return;
            }
            while let Some(event) = events.next_event() {
                tracing::debug!(reason = event.reason.name(), ?event, "packet dropped");
            }
        }
    };
    thread::Builder::new().name("drops".into()).spawn(read)?;
    match failure.await {
        Ok(error) => Err(error),
        Err(_) => Err(io::Error::other("the reader of drops has ended")),
    }
}
