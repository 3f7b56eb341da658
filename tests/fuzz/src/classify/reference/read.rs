//! Headers by the book: RFC 791 and 8200 (IP), 9293 and 768 (ports), 792 and 4443 (ICMP).

use tombolo_abi::{Address, is_v4_mapped, protocol, v4_mapped};

/// Extension headers that are followed; a packet with more is refused.
const EXTENSIONS: usize = 4;

/// An address and a port; of an echo the identifier, 0 where there is neither.
pub type End = (Address, u16);

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ends {
    pub from: End,
    pub to: End,
    pub protocol: u8,
}

/// What the ports of a packet are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ports,
    Echo,
    Other,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// Where the headers of a packet are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub ip: usize,
    pub transport: usize,
    pub kind: Kind,
}

/// A packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    pub v6: bool,
    pub place: Place,
    /// The packet that an ICMP error is about.
    pub inner: Option<Place>,
    /// The connection; of an ICMP error the reverse of the packet that it is about.
    pub ends: Ends,
    pub sender: Address,
    /// Of its own IP header.
    pub protocol: u8,
    pub tcp_flags: u8,
    pub hops: u8,
    pub part: Part,
    pub id: u32,
}

impl Parsed {
    /// Whether it begins a TCP connection.
    pub const fn opens(&self) -> bool {
        self.tcp_flags & 0x12 == 0x02
    }

    /// Whether it ends a TCP connection, or one direction of it.
    pub const fn closes(&self) -> bool {
        self.tcp_flags & 0x05 != 0
    }

    pub const fn is_error(&self) -> bool {
        self.inner.is_some()
    }

    /// What the ports in `ends` are.
    pub fn kind(&self) -> Kind {
        self.inner.unwrap_or(self.place).kind
    }
}

/// Cut short, or not to be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

/// Reads a packet that begins with an Ethernet header, or with the IP header when it is `raw`; none when it is no IP. A
/// later fragment has no ports yet.
pub fn read(bytes: &[u8], raw: bool) -> Result<Option<Parsed>, Unreadable> {
    let ip = if raw { 0 } else { 14 };
    let version = if raw {
        match field::<1>(bytes, 0)?[0] >> 4 {
            4 => 4,
            6 => 6,
            _ => return Ok(None),
        }
    } else {
        match field::<2>(bytes, 12)? {
            [0x08, 0x00] => 4,
            [0x86, 0xdd] => 6,
            _ => return Ok(None),
        }
    };
    if field::<1>(bytes, ip)?[0] >> 4 != version {
        return Err(Unreadable);
    }
    let packet = if version == 4 { v4(bytes, ip)? } else { v6(bytes, ip)? };
    Ok(Some(if packet.part == Part::Later { packet } else { transport(bytes, packet)? }))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unreadable> {
    bytes.get(at..at + N).and_then(|field| field.try_into().ok()).ok_or(Unreadable)
}

fn number(bytes: &[u8], at: usize) -> Result<u16, Unreadable> {
    field(bytes, at).map(u16::from_be_bytes)
}

fn v4(bytes: &[u8], ip: usize) -> Result<Parsed, Unreadable> {
    let header: [u8; 20] = field(bytes, ip)?;
    let len = usize::from(header[0] & 15) * 4;
    if len < 20 {
        return Err(Unreadable);
    }
    let (sender, receiver) = (v4_mapped(field(bytes, ip + 12)?), v4_mapped(field(bytes, ip + 16)?));
    let fragment = number(bytes, ip + 6)?;
    let part = part(fragment & 0x1fff, fragment & 0x2000 != 0);
    let id = number(bytes, ip + 4)?.into();
    Ok(packet(false, (ip, ip + len), (sender, receiver), (header[9], header[8]), (part, id)))
}

fn v6(bytes: &[u8], ip: usize) -> Result<Parsed, Unreadable> {
    let (sender, receiver) = (field(bytes, ip + 8)?, field(bytes, ip + 24)?);
    if [sender, receiver].iter().any(is_v4_mapped) {
        // In the maps they would be addresses of IPv4.
        return Err(Unreadable);
    }
    let [mut next, hops] = field(bytes, ip + 6)?;
    let (mut at, mut fragment, mut followed) = (ip + 40, (Part::Whole, 0), 0);
    while matches!(next, 0 | 43 | 44 | 51 | 60) && fragment.0 != Part::Later {
        if followed == EXTENSIONS {
            return Err(Unreadable);
        }
        followed += 1;
        let [after, len] = field(bytes, at)?;
        if next == 44 {
            let offset = number(bytes, at + 2)?;
            let id = u32::from_be_bytes(field(bytes, at + 4)?);
            fragment = (part(offset & 0xfff8, offset & 1 != 0), id);
        }
        at += match next {
            44 => 8,
            51 => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        next = after;
    }
    Ok(packet(true, (ip, at), (sender, receiver), (next, hops), fragment))
}

const fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}

fn packet(
    v6: bool,
    (ip, transport): (usize, usize),
    (sender, receiver): (Address, Address),
    (protocol, hops): (u8, u8),
    (part, id): (Part, u32),
) -> Parsed {
    let ends = Ends { from: (sender, 0), to: (receiver, 0), protocol };
    let place = Place { ip, transport, kind: Kind::Other };
    Parsed { v6, place, inner: None, ends, sender, protocol, tcp_flags: 0, hops, part, id }
}

fn transport(bytes: &[u8], mut packet: Parsed) -> Result<Parsed, Unreadable> {
    let at = packet.place.transport;
    match packet.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            packet.place.kind = Kind::Ports;
            (packet.ends.from.1, packet.ends.to.1) = (number(bytes, at)?, number(bytes, at + 2)?);
            if packet.protocol == protocol::TCP {
                [packet.tcp_flags] = field(bytes, at + 13)?;
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header: [u8; 8] = field(bytes, at)?;
            if is_echo(packet.protocol, header[0]) {
                packet.place.kind = Kind::Echo;
                let id = u16::from_be_bytes([header[4], header[5]]);
                (packet.ends.from.1, packet.ends.to.1) = (id, id);
            } else if is_error(packet.protocol, header[0])
                && let Ok((inner, ends)) = about(bytes, at + 8, &packet)
            {
                (packet.inner, packet.ends) = (Some(inner), ends);
            }
        }
        _ => {}
    }
    Ok(packet)
}

const fn is_echo(number: u8, kind: u8) -> bool {
    if number == protocol::ICMP { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) }
}

/// Destination unreachable, packet too big, time exceeded, parameter problem.
const fn is_error(number: u8, kind: u8) -> bool {
    if number == protocol::ICMP { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// The packet that an error is about, turned round. An error about a packet that its receiver did not send, or that cannot
/// be read, is about nothing.
fn about(bytes: &[u8], ip: usize, error: &Parsed) -> Result<(Place, Ends), Unreadable> {
    let inner = if error.v6 {
        let [protocol] = field(bytes, ip + 6)?;
        let ends = (field(bytes, ip + 8)?, field(bytes, ip + 24)?);
        packet(true, (ip, ip + 40), ends, (protocol, 0), (Part::Whole, 0))
    } else {
        v4(bytes, ip)?
    };
    let not_v4 = !error.v6 && bytes[ip] >> 4 != 4;
    if not_v4 || inner.part == Part::Later || inner.sender != error.ends.to.0 {
        return Err(Unreadable);
    }
    let header: [u8; 8] = field(bytes, inner.place.transport)?;
    let (first, second) =
        (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
    let id = u16::from_be_bytes([header[4], header[5]]);
    let (kind, from, to) = match inner.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => (Kind::Ports, first, second),
        icmp @ (protocol::ICMP | protocol::ICMPV6) if is_echo(icmp, header[0]) => (Kind::Echo, id, id),
        _ => (Kind::Other, 0, 0),
    };
    let ends = Ends { from: (inner.ends.to.0, to), to: (inner.ends.from.0, from), protocol: inner.protocol };
    Ok((Place { kind, ..inner.place }, ends))
}
