//! ICMP: echo carries an identifier, errors carry the packet they are about (RFC 792, RFC 4443).

use tombolo_abi::{Address, DropReason, protocol, v4_mapped};

use super::{Headers, Transport};
use crate::Packet;

/// Reads the ICMP header at `headers.l4`.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    let b = packet.load::<8>(usize::from(headers.l4)).ok_or(DropReason::Truncated)?;
    if is_echo(headers.tuple.protocol, b[0]) {
        headers.transport = Transport::Echo;
        let id = u16::from_be_bytes([b[4], b[5]]);
        headers.tuple.source_port = id;
        headers.tuple.destination_port = id;
        return Ok(());
    }
    let error = match headers.tuple.protocol {
        // Destination unreachable, time exceeded, parameter problem.
        protocol::ICMP => matches!(b[0], 3 | 11 | 12),
        // The first four of the error messages; packet too big is among them.
        _ => matches!(b[0], 1..=4),
    };
    if error {
        headers.inner_l3 = headers.l4 + 8;
        // What cannot be followed stays a packet of its own.
        let _ = inner(packet, headers);
    }
    Ok(())
}

#[inline(always)]
const fn is_echo(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => kind == 8 || kind == 0,
        _ => kind == 128 || kind == 129,
    }
}

/// Follows the packet inside of an error. One that cannot be followed, or that the receiver did not send, leaves
/// the error as a packet of its own.
#[inline(never)]
fn inner<P: Packet>(packet: &P, headers: &mut Headers) -> bool {
    follow(packet, headers).is_some()
}

#[inline(always)]
fn follow<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    let l3 = usize::from(headers.inner_l3);
    let (source, destination, number, l4) =
        if headers.is_v6() { inner_v6(packet, l3)? } else { inner_v4(packet, l3)? };
    if source != headers.tuple.destination {
        return None;
    }
    let b = packet.load::<8>(l4)?;
    let (source_port, destination_port, transport) = match number {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            (u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]]), Transport::Ports)
        }
        protocol::ICMP | protocol::ICMPV6 if is_echo(number, b[0]) => {
            let id = u16::from_be_bytes([b[4], b[5]]);
            (id, id, Transport::Echo)
        }
        _ => (0, 0, Transport::Other),
    };
    headers.inner_l4 = l4 as u16;
    headers.inner_transport = transport;
    headers.transport = Transport::Error;
    headers.tuple.source = destination;
    headers.tuple.source_port = destination_port;
    headers.tuple.destination_port = source_port;
    headers.tuple.protocol = number;
    Some(())
}

#[inline(always)]
fn inner_v4<P: Packet>(packet: &P, l3: usize) -> Option<(Address, Address, u8, usize)> {
    let b = packet.load::<20>(l3)?;
    let later_fragment = u16::from_be_bytes([b[6], b[7]]) & 0x1fff != 0;
    if b[0] >> 4 != 4 || b[0] & 15 < 5 || later_fragment {
        return None;
    }
    let source = v4_mapped([b[12], b[13], b[14], b[15]]);
    let destination = v4_mapped([b[16], b[17], b[18], b[19]]);
    Some((source, destination, b[9], l3 + usize::from(b[0] & 15) * 4))
}

#[inline(always)]
fn inner_v6<P: Packet>(packet: &P, l3: usize) -> Option<(Address, Address, u8, usize)> {
    Some((packet.load::<16>(l3 + 8)?, packet.load::<16>(l3 + 24)?, packet.load::<1>(l3 + 6)?[0], l3 + 40))
}
