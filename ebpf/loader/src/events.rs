//! Drops as they happen.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map, MapData, RingBuf};
use tombolo_abi::{DropEvent, DropEventFacts, map};

use crate::TableError;

/// Takes drops out of the ring. Its descriptor becomes readable when there are any.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    pub(crate) fn new(ring: Map) -> Result<Self, TableError> {
        Ok(Self {
            ring: ring.try_into().map_err(|source| TableError::Open { name: map::EVENTS.name, source })?,
        })
    }

    /// The next drop, none when there is none yet. Entries of another version are skipped.
    pub fn next_event(&mut self) -> Option<DropEventFacts> {
        while let Some(entry) = self.ring.next() {
            let event: Result<DropEvent, _> = bytemuck::try_pod_read_unaligned(&entry);
            if let Ok(Ok(facts)) = event.map(|event| event.facts()) {
                return Some(facts);
            }
        }
        None
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
