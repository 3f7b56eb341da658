//! Joining received TCP segments of one stream into super-packets for the kernel.
//!
//! Only what the kernel's own receive offload would join is joined: consecutive data segments that differ in
//! sequence number, length and PSH alone, and whose checksums are right.

use std::ops::Range;

use super::{FLAG_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, VnetHeader, be16, be32, checksum, put16};
use crate::batch::RxBatch;

const TCP: u8 = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Largest IP header without options and largest TCP header.
const MAX_HEADERS: usize = 40 + 60;
/// Payload slices of one super-packet, bounded by what one `writev` takes comfortably.
const MAX_SEGMENTS: usize = 64;
/// Streams that are joined side by side in one batch.
const MAX_OPEN: usize = 16;

/// One write to the TUN device: `head` (none when the packet goes out as it came), then the parts of packets
/// of the batch.
#[derive(Clone)]
pub struct Group {
    /// Header for the device.
    pub vnet: VnetHeader,
    head: [u8; MAX_HEADERS],
    head_len: usize,
    indices: Vec<usize>,
    /// Next sequence number, total length so far.
    next: u32,
    total: usize,
    segment: usize,
    open: bool,
}

/// Joins the packets of a batch. Keeps its buffers from batch to batch.
#[derive(Default)]
pub struct Coalescer {
    groups: Vec<Group>,
    used: usize,
}

/// What is needed of a TCP segment that may be joined.
struct Segment {
    headers: usize,
    transport: usize,
    sequence: u32,
    payload: usize,
    push: bool,
}

impl Coalescer {
    /// Groups the packets of `batch`, keeping the order within each stream.
    pub fn join(&mut self, batch: &RxBatch) -> &[Group] {
        self.used = 0;
        for index in 0..batch.len() {
            let packet = batch.packet(index);
            match candidate(packet) {
                Some(segment) => self.add(batch, index, packet, &segment),
                None => {
                    // Order within the stream: nothing after this packet may join what came before it.
                    self.close_stream(packet);
                    self.push(index, packet.len(), 0);
                }
            }
        }
        let Self { groups, used } = self;
        let groups = groups.get_mut(..*used).unwrap_or_default();
        groups.iter_mut().for_each(|group| group.finish(batch));
        groups
    }

    fn add(&mut self, batch: &RxBatch, index: usize, packet: &[u8], segment: &Segment) {
        let start = self.used.saturating_sub(MAX_OPEN);
        let open = self.groups.get_mut(start..self.used).unwrap_or_default();
        let stream = open.iter_mut().rev().find(|g| g.open && same_stream(batch.packet(g.first()), packet));
        if let Some(group) = stream {
            if group.accepts(batch.packet(group.first()), packet, segment) {
                group.indices.push(index);
                group.next = group.next.wrapping_add(segment.payload as u32);
                group.total += segment.payload;
                group.open = segment.payload == group.segment && !segment.push;
                return;
            }
            group.open = false;
        }
        let group = self.push(index, packet.len(), segment.payload);
        group.next = segment.sequence.wrapping_add(segment.payload as u32);
        group.open = !segment.push;
    }

    fn close_stream(&mut self, packet: &[u8]) {
        // Without a parsed header any open stream could be meant; only TCP packets can belong to one.
        if protocol(packet) == Some(TCP) {
            self.groups.iter_mut().take(self.used).for_each(|group| group.open = false);
        }
    }

    fn push(&mut self, index: usize, total: usize, segment: usize) -> &mut Group {
        if self.used == self.groups.len() {
            self.groups.push(Group::empty());
        }
        let at = self.used;
        self.used += 1;
        let group = &mut self.groups[at];
        group.indices.clear();
        group.indices.push(index);
        group.vnet = VnetHeader::default();
        (group.head_len, group.next, group.total, group.segment, group.open) = (0, 0, total, segment, false);
        group
    }
}

impl Group {
    /// The headers that replace those of the first packet; empty when it goes out as it came.
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_len).unwrap_or_default()
    }

    /// Index in the batch and byte range of each part that follows the head.
    pub fn parts<'a>(&'a self, batch: &'a RxBatch) -> impl Iterator<Item = &'a [u8]> {
        self.indices.iter().map(|&i| {
            let packet = batch.packet(i);
            let range: Range<usize> = self.head_len..packet.len();
            packet.get(range).unwrap_or_default()
        })
    }

    fn empty() -> Self {
        Self {
            vnet: VnetHeader::default(),
            head: [0; MAX_HEADERS],
            head_len: 0,
            indices: Vec::with_capacity(MAX_SEGMENTS),
            next: 0,
            total: 0,
            segment: 0,
            open: false,
        }
    }

    fn first(&self) -> usize {
        self.indices.first().copied().unwrap_or(usize::MAX)
    }

    fn accepts(&self, first: &[u8], packet: &[u8], segment: &Segment) -> bool {
        segment.sequence == self.next
            && segment.payload <= self.segment
            && self.indices.len() < MAX_SEGMENTS
            && self.total + segment.payload <= 65_535
            && same_headers(first, packet, segment)
    }

    /// Writes the headers of a joined packet.
    fn finish(&mut self, batch: &RxBatch) {
        if self.indices.len() > 1 && self.build(batch).is_none() {
            self.head_len = 0;
        }
    }

    fn build(&mut self, batch: &RxBatch) -> Option<()> {
        let first = batch.packet(self.first());
        let segment = layout(first)?;
        let last = batch.packet(*self.indices.last()?);
        let push = last.get(segment.transport + 13)? & PSH;
        let head = self.head.get_mut(..segment.headers)?;
        head.copy_from_slice(first.get(..segment.headers)?);
        *head.get_mut(segment.transport + 13)? |= push;
        let v6 = segment.transport == 40;
        if v6 {
            put16(head, 4, u16::try_from(self.total - 40).ok()?)?;
        } else {
            put16(head, 2, u16::try_from(self.total).ok()?)?;
            put16(head, 10, 0)?;
            let value = !checksum::fold(checksum::sum(head.get(..20)?, 0));
            put16(head, 10, value)?;
        }
        let pseudo = checksum::pseudo_header(head, TCP, self.total - segment.transport)?;
        put16(head, segment.transport + 16, checksum::fold(pseudo))?;
        self.vnet = VnetHeader {
            flags: FLAG_NEEDS_CSUM,
            gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 },
            header_len: segment.headers as u16,
            gso_size: self.segment as u16,
            csum_start: segment.transport as u16,
            csum_offset: 16,
        };
        self.head_len = segment.headers;
        Some(())
    }
}

fn protocol(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => packet.get(9).copied(),
        6 => packet.get(6).copied(),
        _ => None,
    }
}

/// Header layout of a TCP packet without IP options, extension headers or fragments.
fn layout(packet: &[u8]) -> Option<Segment> {
    let (transport, len) = match *packet.first()? {
        0x45 if be16(packet, 6)? & 0x3fff == 0 => (20, usize::from(be16(packet, 2)?)),
        byte if byte >> 4 == 6 => (40, usize::from(be16(packet, 4)?) + 40),
        _ => return None,
    };
    let words = usize::from(packet.get(transport + 12)? >> 4);
    let headers = transport + words * 4;
    if protocol(packet)? != TCP || len != packet.len() || words < 5 || headers > len {
        return None;
    }
    let push = packet.get(transport + 13)? & PSH != 0;
    Some(Segment { headers, transport, sequence: be32(packet, transport + 4)?, payload: len - headers, push })
}

/// A data segment with no flags but ACK and PSH and a right checksum.
fn candidate(packet: &[u8]) -> Option<Segment> {
    let segment = layout(packet)?;
    if segment.payload == 0 || packet.get(segment.transport + 13)? & !PSH != ACK {
        return None;
    }
    let pseudo = checksum::pseudo_header(packet, TCP, packet.len() - segment.transport)?;
    let right = checksum::fold(checksum::sum(packet.get(segment.transport..)?, pseudo)) == 0xffff;
    let header_right =
        segment.transport == 40 || checksum::fold(checksum::sum(packet.get(..20)?, 0)) == 0xffff;
    (right && header_right).then_some(segment)
}

/// Same family, addresses and ports. Both packets have been checked by [`layout`].
fn same_stream(a: &[u8], b: &[u8]) -> bool {
    let range = match b.first().map(|byte| byte >> 4) {
        Some(4) => 12..24,
        _ => 8..44,
    };
    a.first().map(|x| x >> 4) == b.first().map(|x| x >> 4) && a.get(range.clone()) == b.get(range)
}

/// Equal in all that a joined packet has only once.
fn same_headers(a: &[u8], b: &[u8], segment: &Segment) -> bool {
    let t = segment.transport;
    let same = |range: Range<usize>| a.get(range.clone()) == b.get(range);
    let ip = if t == 20 { same(0..2) && same(6..9) } else { same(0..4) && same(6..8) };
    // Acknowledgement, data offset, window, urgent pointer, options.
    ip && same(t + 8..t + 13) && same(t + 14..t + 16) && same(t + 18..segment.headers)
}
