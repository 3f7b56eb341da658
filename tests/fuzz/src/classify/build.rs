//! Packets with right headers and checksums, as far as the input wants them right.

use tombolo_abi::{Address, protocol};

use super::{
    addresses::address,
    reference::{End, Ends},
};
use crate::{
    input::Input,
    sums::{checksum, pseudo_header},
};

/// Ports that packets and maps of the target are about; the last ones are those of masquerading.
pub const PORTS: [u16; 8] = [0, 53, 80, 443, 1000, 8080, 61000, 61001];
/// Protocols; the last one has no ports.
pub const PROTOCOLS: [u8; 5] = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::SCTP, 47];

/// What a packet is besides its ends.
pub struct Shape<'a> {
    pub v6: bool,
    pub tcp_flags: u8,
    pub hops: u8,
    /// Type of an ICMP message.
    pub icmp: u8,
    /// The words of options of an IPv4 header, or the extension headers of an IPv6 packet.
    pub extensions: &'a [u8],
    /// Offset in bytes divided by eight, more fragments, identification.
    pub fragment: Option<(u16, bool, u8)>,
    pub payload: &'a [u8],
    /// No checksum in a UDP datagram.
    pub unsummed: bool,
}

impl<'a> Shape<'a> {
    /// What the input says.
    pub fn choose(input: &mut Input<'a>, v6: bool) -> Self {
        let choices = input.byte();
        let chosen = |bit: u8| choices >> bit & 1 == 1;
        let tcp_flags = if chosen(0) { input.pick(&[0x10, 0x12, 0x11, 0x14, 0x00, 0xff]) } else { 0x02 };
        let hops = if chosen(1) { input.pick(&[1, 0, 2, 255]) } else { 64 };
        let icmp = match (chosen(2), v6) {
            (false, false) => 8,
            (false, true) => 128,
            (true, false) => input.pick(&[0, 3, 11, 12, 13, 5]),
            (true, true) => input.pick(&[129, 1, 2, 3, 4, 135]),
        };
        let count = if chosen(3) { input.byte() % 6 } else { 0 };
        let extensions = input.bytes(count.into());
        let fragment = chosen(4).then(|| {
            let byte = input.byte();
            (u16::from(byte & 3), byte & 4 != 0, byte >> 3)
        });
        let len = if chosen(5) { input.byte() % 64 } else { 2 };
        let payload = input.bytes(len.into());
        Self { v6, tcp_flags, hops, icmp, extensions, fragment, payload, unsummed: chosen(6) }
    }
}

/// Two of the addresses and ports.
pub fn ends(input: &mut Input<'_>) -> (Ends, bool) {
    let (from, to, what) = (input.byte(), input.byte(), input.byte());
    let v6 = from & 0x80 != 0;
    let end = |who: u8, port: u8| -> End { (address(who.into(), v6), PORTS[usize::from(port) % 8]) };
    let protocol = match input.pick(&PROTOCOLS) {
        protocol::ICMP if v6 => protocol::ICMPV6,
        other => other,
    };
    (Ends { from: end(from, what), to: end(to, what >> 3), protocol }, v6)
}

/// A packet that begins with its IP header. For an echo the first port is the identifier; an ICMP error is about a packet
/// of the same ends the other way round, of the protocol that the payload begins with.
pub fn packet(ends: &Ends, shape: &Shape<'_>) -> Vec<u8> {
    let first = shape.fragment.is_none_or(|(offset, ..)| offset == 0);
    let mut upper = if first { transport(ends, shape) } else { shape.payload.to_vec() };
    if first && let Some(field) = field_of(ends.protocol) {
        let addresses = ip_header(ends, shape, 0);
        let covered = match ends.protocol {
            protocol::ICMP => upper.clone(),
            number => [pseudo_header(&addresses, number, upper.len()), upper.clone()].concat(),
        };
        let none = shape.unsummed && ends.protocol == protocol::UDP;
        let sum = if none { [0; 2] } else { checksum(&covered) };
        upper[field..field + 2].copy_from_slice(&sum);
    }
    [ip_header(ends, shape, upper.len()), upper].concat()
}

const fn field_of(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

fn transport(ends: &Ends, shape: &Shape<'_>) -> Vec<u8> {
    let (from, to) = (ends.from.1.to_be_bytes(), ends.to.1.to_be_bytes());
    let mut header = [from, to].concat();
    match ends.protocol {
        protocol::TCP => {
            header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, shape.tcp_flags, 1, 0, 0, 0, 0, 0]);
        }
        protocol::UDP => header.extend([0, 8, 0, 0]),
        protocol::SCTP => header.extend([0; 8]),
        protocol::ICMP | protocol::ICMPV6 if is_error(shape) => {
            return [[shape.icmp, 0, 0, 0, 0, 0, 0, 0].as_slice(), &inner(ends, shape)].concat();
        }
        protocol::ICMP | protocol::ICMPV6 => header = [shape.icmp, 0, 0, 0, from[0], from[1], 0, 1].to_vec(),
        _ => header.fill(0),
    }
    header.extend(shape.payload);
    header
}

const fn is_error(shape: &Shape<'_>) -> bool {
    if shape.v6 { shape.icmp < 128 } else { matches!(shape.icmp, 3 | 11 | 12) }
}

/// The packet that an error is about.
fn inner(ends: &Ends, shape: &Shape<'_>) -> Vec<u8> {
    let mut payload = Input::new(shape.payload);
    let number = match payload.pick(&PROTOCOLS) {
        protocol::ICMP if shape.v6 => protocol::ICMPV6,
        other => other,
    };
    let about = Ends { from: ends.to, to: ends.from, protocol: number };
    let icmp = if shape.v6 { 128 } else { 8 };
    let plain = Shape { icmp, extensions: &[], fragment: None, payload: &[7; 8], hops: 63, ..*shape };
    packet(&about, &plain)
}

fn ip_header(ends: &Ends, shape: &Shape<'_>, len: usize) -> Vec<u8> {
    if shape.v6 { v6_header(ends, shape, len) } else { v4_header(ends, shape, len) }
}

fn v4_header(ends: &Ends, shape: &Shape<'_>, len: usize) -> Vec<u8> {
    let words = shape.extensions.len();
    let total = u16::try_from(20 + words * 4 + len).expect("a small packet").to_be_bytes();
    let (offset, more, id) = shape.fragment.unwrap_or((0, false, 0));
    let fragment = (offset | if more { 0x2000 } else { 0 }).to_be_bytes();
    let start = [0x45 + words as u8, 0, total[0], total[1], 0, id, fragment[0], fragment[1]];
    let middle = [shape.hops, ends.protocol, 0, 0];
    let options: Vec<u8> = shape.extensions.iter().flat_map(|byte| [1, 1, 1, *byte]).collect();
    let mut header = [start.as_slice(), &middle, &ends.from.0[12..], &ends.to.0[12..], &options].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

fn v6_header(ends: &Ends, shape: &Shape<'_>, len: usize) -> Vec<u8> {
    let mut chain: Vec<u8> =
        shape.extensions.iter().map(|byte| [0, 43, 60, 51][usize::from(byte % 4)]).collect();
    if shape.fragment.is_some() {
        chain.push(44);
    }
    let mut extensions = Vec::new();
    for (at, kind) in chain.iter().enumerate() {
        let next = chain.get(at + 1).copied().unwrap_or(ends.protocol);
        let (offset, more, id) = shape.fragment.unwrap_or((0, false, 0));
        let field = (offset << 3 | u16::from(more)).to_be_bytes();
        extensions.extend(match kind {
            44 => [next, 0, field[0], field[1], 0, 0, 0, id],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        });
    }
    let payload = u16::try_from(extensions.len() + len).expect("a small packet").to_be_bytes();
    let next = chain.first().copied().unwrap_or(ends.protocol);
    let start = [0x60, 0, 0, 0, payload[0], payload[1], next, shape.hops];
    let addresses: [Address; 2] = [ends.from.0, ends.to.0];
    [start.as_slice(), &addresses.concat(), &extensions].concat()
}
