//! A packet to a frontend without backends is answered at once, so that its sender need not wait for nothing: TCP by a
//! reset (RFC 9293, section 3.10.7.1), other protocols by an ICMP error (RFC 792, RFC 4443).

use tombolo_abi::protocol;

use crate::{Fragment, Headers, Link, Packet, Tables, Transport, checksum, service};

/// Where the answer is built: so far behind the packet's own headers. What is before it is taken out in the end, and with it
/// the beginning of what the pod's kernel has left to a device to sum up, which would spoil the answer.
const BEHIND: usize = 256;
/// Bytes that are copied at a time.
const CHUNK: usize = 16;
/// Chunks that an ICMP error quotes of a packet: with its headers 124 bytes.
const CHUNKS_V4: usize = 6;
/// The same of IPv6: with its headers 1,280 bytes, which every link carries.
const CHUNKS_V6: usize = 77;
/// Bytes of the transport header without which nobody knows what an error is about.
const LEAST: u16 = 8;
const HOPS: u8 = 64;

/// Turns a packet from a pod into the answer that goes back to it. Returns false when there is no answer; the packet may be
/// half changed then, and must be dropped.
#[inline(never)]
pub fn refuse<P: Packet, T: Tables>(packet: &mut P, tables: &T, headers: &Headers) -> bool {
    // Backends may be about to change. Then the next packet finds one.
    let has_no_backend = service::find(tables, &headers.tuple).is_some_and(|service| service.count() == 0);
    if !has_no_backend || !may_be_answered(packet, headers) {
        return false;
    }
    if headers.protocol == protocol::TCP { reset(packet, headers) } else { unreachable(packet, headers) }
}

/// Nobody answers errors, parts of a packet but the first, and what was sent to many (RFC 1122, section 3.2.2).
#[inline(always)]
fn may_be_answered<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let to = &headers.tuple.destination;
    let to_many = if headers.is_v6() { to[0] == 0xff } else { to[12] >= 224 };
    let framed_to_many = packet.load::<1>(0).is_none_or(|[first]| first & 1 == 1);
    let ports = headers.transport == Transport::Ports && headers.fragment != Fragment::Later;
    let places = usize::from(headers.l3) == Link::Ethernet.header_len() && usize::from(headers.l4) < BEHIND;
    ports && places && !to_many && !framed_to_many
}

#[inline(never)]
fn reset<P: Packet>(packet: &mut P, headers: &Headers) -> bool {
    send_reset(packet, headers).is_some()
}

#[inline(always)]
fn send_reset<P: Packet>(packet: &mut P, headers: &Headers) -> Option<()> {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const LEN: u16 = 20;
    let tcp = packet.load::<14>(usize::from(headers.l4))?;
    let flags = tcp[13];
    if flags & RST != 0 {
        return None;
    }
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let (s, a, flags) = if flags & ACK != 0 {
        ([tcp[8], tcp[9], tcp[10], tcp[11]], [0; 4], RST)
    } else {
        let data = headers.transport_len(packet)?.checked_sub(u16::from(tcp[12] >> 4) * 4)?;
        let taken = u32::from(data) + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        ([0; 4], sequence.wrapping_add(taken).to_be_bytes(), RST | ACK)
    };
    let (from, to) = (headers.tuple.destination_port.to_be_bytes(), headers.tuple.source_port.to_be_bytes());
    let mut answer = [
        from[0], from[1], to[0], to[1], s[0], s[1], s[2], s[3], a[0], a[1], a[2], a[3], 0x50, flags, 0, 0, 0,
        0, 0, 0,
    ];
    let sum = pseudo_header(headers, protocol::TCP, LEN) + checksum::sum(&answer);
    [answer[16], answer[17]] = checksum::field(sum);
    let end = BEHIND + Link::Ethernet.header_len() + ip_len(headers) + usize::from(LEN);
    // Twice, so that the length changes: what a device has summed up over the whole packet is forgotten by that.
    packet.set_len(end + 1)?;
    packet.set_len(end)?;
    let at = begin(packet, headers, protocol::TCP, LEN)?;
    packet.store(at, answer)
}

#[inline(never)]
fn unreachable<P: Packet>(packet: &mut P, headers: &Headers) -> bool {
    send_unreachable(packet, headers).is_some()
}

#[inline(always)]
fn send_unreachable<P: Packet>(packet: &mut P, headers: &Headers) -> Option<()> {
    let (chunks, number, kind, code) =
        if headers.is_v6() { (CHUNKS_V6, protocol::ICMPV6, 1, 4) } else { (CHUNKS_V4, protocol::ICMP, 3, 3) };
    let l3 = usize::from(headers.l3);
    let len = headers.transport_len(packet).filter(|len| *len >= LEAST)?;
    let said = usize::from(headers.l4) - l3 + usize::from(len);
    if l3 + said > packet.len() as usize {
        return None;
    }
    let quoted = if said < chunks * CHUNK { said } else { chunks * CHUNK };
    packet.set_len(l3 + quoted)?;
    let to = BEHIND + l3 + ip_len(headers) + 8;
    packet.set_len(to + chunks * CHUNK)?;
    let mut sum = checksum::sum(&[kind, code]);
    let mut i = chunks;
    // From the end: the copy may lie over what was copied.
    while i > 0 {
        i -= 1;
        let chunk = packet.load::<CHUNK>(l3 + i * CHUNK)?;
        sum += checksum::sum(&chunk);
        packet.store(to + i * CHUNK, chunk)?;
    }
    packet.set_len(to + quoted)?;
    let len = 8 + quoted as u16;
    if headers.is_v6() {
        sum += pseudo_header(headers, number, len);
    }
    let at = begin(packet, headers, number, len)?;
    let [high, low] = checksum::field(sum);
    packet.store(at, [kind, code, high, low, 0, 0, 0, 0])
}

/// Takes out what is before the answer and gives it its link and IP headers; returns where the rest begins.
#[inline(always)]
fn begin<P: Packet>(packet: &mut P, headers: &Headers, number: u8, len: u16) -> Option<usize> {
    let m = packet.load::<12>(0)?;
    packet.take_out(BEHIND)?;
    packet.store(0, [m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5]])?;
    let l3 = Link::Ethernet.header_len();
    let (from, to) = (&headers.tuple.destination, &headers.tuple.source);
    if headers.is_v6() {
        let [high, low] = len.to_be_bytes();
        packet.store(l3, [0x60, 0, 0, 0, high, low, number, HOPS])?;
        packet.store(l3 + 8, *from)?;
        packet.store(l3 + 24, *to)?;
    } else {
        let [high, low] = (len + 20).to_be_bytes();
        let (f, t) = (from, to);
        // An atomic datagram (RFC 6864).
        let mut header = [
            0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, number, 0, 0, f[12], f[13], f[14], f[15], t[12], t[13],
            t[14], t[15],
        ];
        [header[10], header[11]] = checksum::field(checksum::sum(&header));
        packet.store(l3, header)?;
    }
    Some(l3 + ip_len(headers))
}

#[inline(always)]
fn ip_len(headers: &Headers) -> usize {
    if headers.is_v6() { 40 } else { 20 }
}

/// The sum over the pseudo header; what v4-mapped addresses begin with adds nothing.
#[inline(always)]
fn pseudo_header(headers: &Headers, number: u8, len: u16) -> u32 {
    let [high, low] = len.to_be_bytes();
    let (s, d) = (&headers.tuple.source, &headers.tuple.destination);
    checksum::sum(s) + checksum::sum(d) + checksum::sum(&[0, number, high, low])
}

#[cfg(test)]
mod tests;
