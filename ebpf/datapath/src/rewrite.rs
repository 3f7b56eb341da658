//! Changes of addresses, ports and the hop limit, with all checksums.

use tombolo_abi::{Address, DropReason, protocol};

use crate::{
    Fragment, Headers, Packet, Transport,
    checksum::{difference, update},
    sctp,
};

/// Which end of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum End {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

impl End {
    /// The same end of a packet in the opposite direction.
    const fn opposite(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Gives one end of the connection another address and port, in the packet and in `headers`. In an ICMP error the
/// packet it is about changes at its opposite end, and the error itself where it comes from or goes to that end.
#[inline(never)]
pub fn set_end<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    end: End,
    address: &Address,
    port: u16,
) -> Result<(), DropReason> {
    let changed = if headers.is_error() {
        in_error(packet, headers, end, address, port)
    } else {
        in_packet(packet, headers, end, address, port)
    };
    if !changed {
        return Err(DropReason::RewriteFailed);
    }
    if !headers.is_error() && headers.protocol == protocol::SCTP && end_of(headers, end).1 != port {
        sctp::set_port(packet, headers, end, port)?;
    }
    match end {
        End::Source => {
            if headers.sender == headers.tuple.source {
                headers.sender = *address;
            }
            headers.tuple.source = *address;
            headers.tuple.source_port = port;
        }
        End::Destination => {
            headers.tuple.destination = *address;
            headers.tuple.destination_port = port;
        }
    }
    let echo =
        if headers.is_error() { headers.inner_transport } else { headers.transport } == Transport::Echo;
    if echo {
        headers.tuple.source_port = port;
        headers.tuple.destination_port = port;
    }
    Ok(())
}

/// The end as it is before the change.
#[inline(always)]
const fn end_of(headers: &Headers, end: End) -> (&Address, u16) {
    match end {
        End::Source => (&headers.tuple.source, headers.tuple.source_port),
        End::Destination => (&headers.tuple.destination, headers.tuple.destination_port),
    }
}

#[inline(never)]
fn in_packet<P: Packet>(packet: &mut P, headers: &Headers, end: End, address: &Address, port: u16) -> bool {
    let mut change = || {
        store_address(packet, headers, end, address)?;
        if headers.fragment == Fragment::Later {
            return Some(());
        }
        let (old_address, old_port) = end_of(headers, end);
        let l4 = usize::from(headers.l4);
        let Some((field, pseudo)) = checksum_field(headers.protocol) else {
            return Some(());
        };
        let zero_is_none = headers.protocol == protocol::UDP;
        if pseudo {
            packet.add_checksum(l4 + field, difference(old_address, address), true, zero_is_none)?;
        }
        if old_port != port {
            packet.store(l4 + port_field(headers.transport, end)?, port.to_be_bytes())?;
            let changes = difference(&old_port.to_be_bytes(), &port.to_be_bytes());
            packet.add_checksum(l4 + field, changes, false, zero_is_none)?;
        }
        Some(())
    };
    change().is_some()
}

#[inline(never)]
fn in_error<P: Packet>(packet: &mut P, headers: &Headers, end: End, address: &Address, port: u16) -> bool {
    let mut change = || {
        let (old_address, old_port) = end_of(headers, end);
        let field = usize::from(headers.l4) + 2;
        let inner_end = end.opposite();
        let inner_l3 = usize::from(headers.inner_l3);
        if headers.is_v6() {
            // The IPv6 header has no checksum of its own to even the change out: that of the error does.
            packet.store(inner_l3 + v6_field(inner_end), *address)?;
            packet.add_checksum(field, difference(old_address, address), false, false)?;
        } else {
            store_v4(packet, inner_l3, inner_end, address)?;
        }
        if old_port != port {
            let offset = usize::from(headers.inner_l4) + port_field(headers.inner_transport, inner_end)?;
            packet.store(offset, port.to_be_bytes())?;
            let changes = difference(&old_port.to_be_bytes(), &port.to_be_bytes());
            packet.add_checksum(field, changes, false, false)?;
        }
        if end == End::Source && headers.sender != *old_address {
            return Some(());
        }
        store_address(packet, headers, end, address)?;
        if headers.is_v6() {
            packet.add_checksum(field, difference(old_address, address), true, false)?;
        }
        Some(())
    };
    change().is_some()
}

/// Writes an address into the packet's own IP header.
#[inline(always)]
fn store_address<P: Packet>(packet: &mut P, headers: &Headers, end: End, address: &Address) -> Option<()> {
    let l3 = usize::from(headers.l3);
    if headers.is_v6() {
        return packet.store_summed(l3 + v6_field(end), *address);
    }
    store_v4(packet, l3, end, address)
}

/// Where an address stands in an IPv6 header.
#[inline(always)]
const fn v6_field(end: End) -> usize {
    match end {
        End::Source => 8,
        End::Destination => 24,
    }
}

/// Writes an address into the IPv4 header at `l3`, with the checksum that evens the change out.
#[inline(always)]
fn store_v4<P: Packet>(packet: &mut P, l3: usize, end: End, address: &Address) -> Option<()> {
    let b = packet.load::<10>(l3 + 10)?;
    let new = [address[12], address[13], address[14], address[15]];
    let (source, destination) = ([b[2], b[3], b[4], b[5]], [b[6], b[7], b[8], b[9]]);
    let (old, source, destination) = match end {
        End::Source => (source, new, destination),
        End::Destination => (destination, source, new),
    };
    let c = update([b[0], b[1]], difference(&old, &new));
    let (s, d) = (source, destination);
    packet.store(l3 + 10, [c[0], c[1], s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]])
}

/// Where the checksum stands in the transport header, and whether it covers the addresses; that of SCTP does not, and is
/// no sum.
#[inline(always)]
const fn checksum_field(number: u8) -> Option<(usize, bool)> {
    match number {
        protocol::TCP => Some((16, true)),
        protocol::UDP => Some((6, true)),
        protocol::ICMP => Some((2, false)),
        protocol::ICMPV6 => Some((2, true)),
        _ => None,
    }
}

/// Where the port, or the identifier of an echo, stands in the transport header.
#[inline(always)]
const fn port_field(transport: Transport, end: End) -> Option<usize> {
    match (transport, end) {
        (Transport::Ports, End::Source) => Some(0),
        (Transport::Ports, End::Destination) => Some(2),
        (Transport::Echo, _) => Some(4),
        (Transport::Other | Transport::Error, _) => None,
    }
}

/// Takes one from the hop limit.
///
/// # Errors
/// [`DropReason::TtlExceeded`] when it would come to zero; the packet is as before.
#[inline(always)]
pub fn take_hop<P: Packet>(packet: &mut P, headers: &Headers) -> Result<(), DropReason> {
    let l3 = usize::from(headers.l3);
    if headers.is_v6() {
        let [hops] = packet.load::<1>(l3 + 7).ok_or(DropReason::Truncated)?;
        if hops <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        return packet.store_summed(l3 + 7, [hops - 1]).ok_or(DropReason::RewriteFailed);
    }
    let [hops, number, c0, c1] = packet.load::<4>(l3 + 8).ok_or(DropReason::Truncated)?;
    if hops <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let [c0, c1] = update([c0, c1], difference(&[hops, number], &[hops - 1, number]));
    packet.store(l3 + 8, [hops - 1, number, c0, c1]).ok_or(DropReason::RewriteFailed)
}

#[cfg(test)]
mod tests {
    use tombolo_abi::{FragmentKey, FragmentValue};

    use super::*;
    use crate::{
        Link, classify,
        testing::{Frame, Memory, Summed},
    };

    #[test]
    fn no_change_takes_the_checksum_of_a_datagram_away() {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, protocol::UDP, 64]);
        frame.extend([[0xfd; 16], [0xfe; 16]].concat());
        frame.extend([0, 53, 0, 53, 0, 10, 0x12, 0x34, 7, 7]);
        let frame = Frame(frame);
        for port in 1..=u16::MAX {
            let (mut frame, mut headers) = (frame.clone(), Headers::default());
            assert_eq!(classify(&frame, &Memory::default(), Link::Ethernet, &mut headers), Ok(true));
            set_end(&mut frame, &mut headers, End::Destination, &[0xfc; 16], port).unwrap();
            assert_ne!(frame.load::<2>(60), Some([0, 0]), "port {port}: receivers drop it (RFC 8200, 8.1)");
        }
    }

    #[test]
    fn what_a_device_has_summed_up_follows_each_change() {
        let later_fragment = [protocol::UDP, 0, 0, 8, 0, 0, 0, 1];
        let datagram = [0, 53, 0, 53, 0, 10, 0x12, 0x34];
        let unsummed = [0, 53, 0, 53, 0, 10, 0, 0];
        let sctp = [0, 53, 0, 53, 1, 2, 3, 4, 5, 6, 7, 8];
        for (number, upper) in [
            (protocol::UDP, &datagram[..]),
            (protocol::UDP, &unsummed),
            (protocol::SCTP, &sctp),
            (protocol::ICMPV6, &[128, 0, 5, 5, 0, 53, 0, 1]),
            (47, &datagram),
            (44, &later_fragment),
        ] {
            let mut frame = vec![2; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, u8::try_from(upper.len()).unwrap(), number, 64]);
            frame.extend([[0xfd; 16], [0xfe; 16]].concat());
            frame.extend(upper);
            let (mut packet, memory) = (Summed::new(Frame(frame), Link::Ethernet), Memory::default());
            let ports = FragmentValue::new(53, 53);
            memory
                .fragments
                .borrow_mut()
                .insert(FragmentKey::new([0xfd; 16], [0xfe; 16], 1, protocol::UDP), ports);
            let mut headers = Headers::default();
            assert_eq!(classify(&packet, &memory, Link::Ethernet, &mut headers), Ok(true));
            assert_eq!(take_hop(&mut packet, &headers), Ok(()));
            assert!(packet.is_right(), "a hop of protocol {number}");
            for (end, address) in [(End::Source, [0xfc; 16]), (End::Destination, [0x12; 16])] {
                assert_eq!(set_end(&mut packet, &mut headers, end, &address, 99), Ok(()));
                assert!(packet.is_right(), "{end:?} of protocol {number}");
            }
        }
    }
}
