//! What a packet that goes on may differ in: addresses, ports, identifiers, the hop limit, and the checksums over them,
//! which are as right afterwards as they were before.

use tombolo_abi::protocol;
use tombolo_datapath::testing::crc32c;

use super::read::{Kind, Parsed, Part, Place};
use crate::sums::sum;

/// Compares a packet before and after.
pub fn check(packet: &Parsed, before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len(), "its length");
    let may_change = places(packet);
    for at in 0..before.len() {
        let may = may_change.iter().any(|(start, len)| (*start..start + len).contains(&at));
        assert!(may || before[at] == after[at], "byte {at} is nobody's to change");
    }
    check_ip(packet.v6, packet.place, before, after);
    if let Some(inner) = packet.inner {
        check_ip(packet.v6, inner, before, after);
    }
    if packet.part != Part::Later {
        check_transport(packet, before, after);
    }
}

/// Offset and length of the fields that may change.
fn places(packet: &Parsed) -> Vec<(usize, usize)> {
    let ip = packet.place.ip;
    let mut places = if packet.v6 { vec![(ip + 7, 33)] } else { vec![(ip + 8, 1), (ip + 10, 10)] };
    if packet.part == Part::Later {
        return places;
    }
    match checksum_of(packet.protocol) {
        Some((field, _)) => places.push((packet.place.transport + field, 2)),
        None if packet.protocol == protocol::SCTP => places.push((packet.place.transport + 8, 4)),
        None => {}
    }
    let ports = |place: Place| match place.kind {
        Kind::Ports => (place.transport, 4),
        Kind::Echo => (place.transport + 4, 2),
        Kind::Other => (0, 0),
    };
    match packet.inner {
        Some(inner) => {
            let (addresses, len) = if packet.v6 { (8, 32) } else { (10, 10) };
            places.extend([(inner.ip + addresses, len), ports(inner)]);
        }
        None => places.push(ports(packet.place)),
    }
    places
}

/// Where the checksum stands in a transport header, and whether it covers the addresses. The datapath has the same table:
/// a reference that asked it could not contradict it.
pub const fn checksum_of(number: u8) -> Option<(usize, bool)> {
    match number {
        protocol::TCP => Some((16, true)),
        protocol::UDP => Some((6, true)),
        protocol::ICMP => Some((2, false)),
        protocol::ICMPV6 => Some((2, true)),
        _ => None,
    }
}

fn check_ip(v6: bool, place: Place, before: &[u8], after: &[u8]) {
    let header = place.ip..place.ip + 20;
    let same = v6 || sum(&before[header.clone()]) == sum(&after[header]);
    assert!(same, "the checksum of the IPv4 header at {}", place.ip);
}

/// Whether an SCTP packet has a whole header, as its IP header and the bytes that are there say.
pub fn has_sctp_header(packet: &Parsed, bytes: &[u8]) -> bool {
    sctp_end(packet, bytes).min(bytes.len()) >= packet.place.transport + 12
}

/// Where an SCTP packet ends, as its IP header says.
fn sctp_end(packet: &Parsed, bytes: &[u8]) -> usize {
    let ip = packet.place.ip;
    let said = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    if packet.v6 { ip + 40 + said(ip + 4) } else { ip + said(ip + 2) }
}

/// The CRC32c of an SCTP packet that is there in full, and what a wrong one is off by.
fn check_sctp(packet: &Parsed, before: &[u8], after: &[u8]) {
    let (start, end) = (packet.place.transport, sctp_end(packet, before));
    if !has_sctp_header(packet, before) || end > before.len() {
        return;
    }
    let is_zero = |bytes: &[u8]| bytes[start + 8..start + 12] == [0; 4];
    if is_zero(before) {
        return assert!(is_zero(after), "a checksum that the device fills in");
    }
    let off = |bytes: &[u8]| {
        let sctp = &bytes[start..end];
        let field = u32::from_le_bytes([sctp[8], sctp[9], sctp[10], sctp[11]]);
        crc32c(&[&sctp[..8], &[0; 4], &sctp[12..]].concat()) ^ field
    };
    assert_eq!(off(before), off(after), "the checksum of SCTP");
}

/// The sum over a packet with a right checksum is a constant, and what a wrong one is off by stays.
fn check_transport(packet: &Parsed, before: &[u8], after: &[u8]) {
    if packet.protocol == protocol::SCTP {
        return check_sctp(packet, before, after);
    }
    let Some((field, covers_addresses)) = checksum_of(packet.protocol) else { return };
    let at = packet.place.transport + field;
    // A datagram without a checksum (RFC 768) stays without, and no other becomes one.
    if packet.protocol == protocol::UDP {
        let none = |bytes: &[u8]| bytes.get(at..at + 2) == Some(&[0, 0]);
        assert_eq!(none(before), none(after), "a datagram without a checksum");
        if none(before) {
            return;
        }
    }
    let whole = |bytes: &[u8]| {
        let ip = packet.place.ip;
        let addresses = if packet.v6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
        let pseudo = if covers_addresses { sum(&bytes[addresses]) } else { 0 };
        (pseudo + sum(&bytes[packet.place.transport..])) % 0xffff
    };
    assert_eq!(whole(before), whole(after), "the checksum of protocol {}", packet.protocol);
}
