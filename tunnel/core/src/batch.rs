//! Caller-owned output buffers, reused from batch to batch.

use std::net::SocketAddr;

/// Segments that one UDP send with segmentation offload may carry (UDP_MAX_SEGMENTS of Linux before 6.9).
const MAX_SEGMENTS: usize = 64;
/// Payload bytes of one such send: 65,535 less the largest IP and UDP headers.
const MAX_RUN_BYTES: usize = 65_535 - 40 - 8;

/// Encrypted datagrams for the network, encrypted in place. Neighbours of equal size to one address form a
/// [`Run`] that one system call with UDP_SEGMENT sends; the last segment of a run may be shorter.
pub struct TxBatch {
    buf: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
}

/// A stretch of equal-size datagrams for one destination.
#[derive(Clone, Copy)]
struct Run {
    to: SocketAddr,
    segment: usize,
    start: usize,
    end: usize,
    closed: bool,
}

impl TxBatch {
    /// Allocates the buffer once. Packets that do not fit in `bytes` before [`TxBatch::clear`] are dropped.
    pub fn new(bytes: usize) -> Self {
        Self { buf: vec![0; bytes].into_boxed_slice(), used: 0, runs: Vec::with_capacity(256) }
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.buf.len() - self.used
    }

    /// True when nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }

    /// Destination, segment size in bytes and payload of each run, in the order they were made.
    pub fn runs(&self) -> impl Iterator<Item = (SocketAddr, usize, &[u8])> {
        self.runs.iter().filter_map(|r| Some((r.to, r.segment, self.buf.get(r.start..r.end)?)))
    }

    /// Every datagram on its own.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.runs().flat_map(|(to, segment, bytes)| bytes.chunks(segment).map(move |d| (to, d)))
    }

    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.used..).unwrap_or_default()
    }

    /// Takes the first `len` bytes of the spare room as a datagram to `to`.
    pub(crate) fn commit(&mut self, to: SocketAddr, len: usize) {
        let len = len.min(self.room());
        let (start, end) = (self.used, self.used + len);
        if len == 0 {
            return;
        }
        self.used = end;
        match self.runs.last_mut() {
            Some(run)
                if !run.closed
                    && run.to == to
                    && len <= run.segment
                    && end - run.start <= MAX_RUN_BYTES
                    && end - run.start <= MAX_SEGMENTS * run.segment =>
            {
                run.end = end;
                run.closed = len < run.segment;
            }
            _ => self.runs.push(Run { to, segment: len, start, end, closed: false }),
        }
    }
}

/// Decrypted inner IP packets, one after the other.
pub struct RxBatch {
    buf: Box<[u8]>,
    used: usize,
    packets: Vec<(usize, usize)>,
}

impl RxBatch {
    /// Allocates the buffer once. Packets that do not fit in `bytes` before [`RxBatch::clear`] are dropped.
    pub fn new(bytes: usize) -> Self {
        Self { buf: vec![0; bytes].into_boxed_slice(), used: 0, packets: Vec::with_capacity(512) }
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.buf.len() - self.used
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
    }

    /// Number of packets held.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// True when no packet is held.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packet at `index`, in order of arrival; empty when there is none.
    pub fn packet(&self, index: usize) -> &[u8] {
        self.packets.get(index).and_then(|&(start, end)| self.buf.get(start..end)).unwrap_or_default()
    }

    /// Appends a packet; false when there is no room for it.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(spare) = self.spare().get_mut(..packet.len()) else { return false };
        spare.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.used..).unwrap_or_default()
    }

    pub(crate) fn commit(&mut self, len: usize) {
        let end = self.used + len.min(self.room());
        self.packets.push((self.used, end));
        self.used = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_share_a_run_and_a_shorter_one_ends_it() {
        let a: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let b: SocketAddr = "127.0.0.1:2".parse().unwrap();
        let mut batch = TxBatch::new(200_000);
        for (to, len) in [(a, 100), (a, 100), (a, 40), (a, 100), (b, 100), (b, 101)] {
            batch.commit(to, len);
        }
        let runs: Vec<_> = batch.runs().map(|(to, size, bytes)| (to, size, bytes.len())).collect();
        assert_eq!(runs, [(a, 100, 240), (a, 100, 100), (b, 100, 100), (b, 101, 101)]);
        batch.clear();
        (0..65).for_each(|_| batch.commit(a, 1452));
        assert_eq!(batch.runs().map(|(_, _, bytes)| bytes.len() / 1452).collect::<Vec<_>>(), [45, 20]);
        assert_eq!(batch.datagrams().count(), 65);
    }
}
