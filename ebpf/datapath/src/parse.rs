//! Headers of a packet: IPv4 and IPv6, extension headers, TCP, UDP, SCTP, ICMP with the packet an error is about,
//! and fragments.

mod icmp;
mod ip;

use tombolo_abi::{Address, DropReason, FragmentKey, FragmentValue, protocol};

use crate::{Link, Packet, Tables};

/// Who talks to whom. Aligned so that BPF code copies words; without it, it copies bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// Sender's port; for ICMP echo the identifier.
    pub source_port: u16,
    /// Receiver's port; for ICMP echo the identifier.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Transport {
    /// Something without ports.
    #[default]
    Other = 0,
    /// TCP, UDP or SCTP.
    Ports = 1,
    /// ICMP echo request or reply.
    Echo = 2,
    /// An ICMP error.
    Error = 3,
}

/// Which part of a datagram the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole = 0,
    /// The first of several.
    First = 1,
    /// Another one, without the transport header.
    Later = 2,
}

/// What is known about a packet. Offsets count from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Headers {
    /// The connection it belongs to, in the direction in which it goes. For an ICMP error that is the reverse of
    /// the packet it is about.
    pub tuple: Tuple,
    /// Who sent it: for an ICMP error maybe a router, else the source of the tuple.
    pub sender: Address,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header; meaningless in a later fragment.
    pub l4: u16,
    /// Offset of the IP header inside of an ICMP error.
    pub inner_l3: u16,
    /// Offset of the transport header inside of an ICMP error.
    pub inner_l4: u16,
    /// Identification of a fragment.
    pub fragment_id: u32,
    /// IANA protocol number in the packet's own IP header.
    pub protocol: u8,
    /// TCP flags (RFC 9293, section 3.1); 0 for other protocols.
    pub tcp_flags: u8,
    /// What follows the IP header.
    pub transport: Transport,
    /// What follows the IP header inside of an ICMP error.
    pub inner_transport: Transport,
    /// Which part of a datagram it is.
    pub fragment: Fragment,
    /// Version of IP, 4 or 6. Not a flag: the verifier does not know that a byte of memory is 0 or 1, which the
    /// compiler builds on.
    pub version: u8,
}

impl Headers {
    /// Whether it is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.version == 6
    }

    /// Whether it is an ICMP error.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.transport == Transport::Error
    }

    /// Whether a TCP packet opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        const SYN_ACK: u8 = 0x12;
        const SYN: u8 = 0x02;
        self.tcp_flags & SYN_ACK == SYN
    }

    /// Bytes from the transport header on, as the IP header says: what follows may be padding of the link.
    #[inline(always)]
    pub(crate) fn transport_len<P: Packet>(&self, packet: &P) -> Option<u16> {
        let at = usize::from(self.l3) + if self.is_v6() { 4 } else { 2 };
        let said = u16::from_be_bytes(packet.load::<2>(at)?);
        said.checked_sub(self.l4.checked_sub(self.l3 + if self.is_v6() { 40 } else { 0 })?)
    }
}

/// Ethernet types.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Reads the headers and follows fragments. False when the packet is no IP packet at all (ARP for instance).
///
/// # Errors
/// Headers that are cut short or cannot be followed, or a fragment whose first one is not known.
#[inline(always)]
pub fn classify<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    link: Link,
    headers: &mut Headers,
) -> Result<bool, DropReason> {
    *headers = Headers::default();
    let l3 = link.header_len();
    let v6 = match link {
        Link::Ethernet => match u16::from_be_bytes(packet.load::<2>(12).ok_or(DropReason::Truncated)?) {
            IPV4 => false,
            IPV6 => true,
            _ => return Ok(false),
        },
        Link::Raw => match packet.load::<1>(0).ok_or(DropReason::Truncated)?[0] >> 4 {
            4 => false,
            6 => true,
            _ => return Ok(false),
        },
    };
    headers.l3 = l3 as u16;
    headers.version = if v6 { 6 } else { 4 };
    if v6 {
        ip::v6(packet, headers)?;
    } else {
        ip::v4(packet, headers)?;
    }
    headers.sender = headers.tuple.source;
    match headers.fragment {
        Fragment::Whole => transport(packet, headers)?,
        Fragment::First => {
            transport(packet, headers)?;
            remember(tables, headers);
        }
        Fragment::Later => recall(tables, headers)?,
    }
    Ok(true)
}

/// Notes the ports of a first fragment for the others.
#[inline(never)]
fn remember<T: Tables>(tables: &T, headers: &Headers) {
    let ports = FragmentValue::new(headers.tuple.source_port, headers.tuple.destination_port);
    tables.set_fragment(&fragment_key(headers), &ports);
}

/// Gives a later fragment the ports of the first.
#[inline(never)]
fn recall<T: Tables>(tables: &T, headers: &mut Headers) -> Result<(), DropReason> {
    let ports = tables.fragment(&fragment_key(headers)).ok_or(DropReason::Fragment)?;
    headers.tuple.source_port = ports.source_port();
    headers.tuple.destination_port = ports.destination_port();
    headers.transport = match headers.tuple.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => Transport::Ports,
        protocol::ICMP | protocol::ICMPV6 => Transport::Echo,
        _ => Transport::Other,
    };
    Ok(())
}

#[inline(always)]
fn fragment_key(headers: &Headers) -> FragmentKey {
    let t = &headers.tuple;
    FragmentKey::new(t.source, t.destination, headers.fragment_id, t.protocol)
}

#[inline(never)]
fn transport<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    let l4 = usize::from(headers.l4);
    match headers.tuple.protocol {
        protocol::TCP => {
            ports(packet, headers)?;
            headers.tcp_flags = packet.load::<1>(l4 + 13).ok_or(DropReason::Truncated)?[0];
            Ok(())
        }
        protocol::UDP | protocol::SCTP => ports(packet, headers),
        protocol::ICMP | protocol::ICMPV6 => icmp::parse(packet, headers),
        _ => Ok(()),
    }
}

#[inline(always)]
fn ports<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    let b = packet.load::<4>(usize::from(headers.l4)).ok_or(DropReason::Truncated)?;
    headers.transport = Transport::Ports;
    headers.tuple.source_port = u16::from_be_bytes([b[0], b[1]]);
    headers.tuple.destination_port = u16::from_be_bytes([b[2], b[3]]);
    Ok(())
}
