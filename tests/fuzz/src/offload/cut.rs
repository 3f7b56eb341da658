//! What cutting a packet must come to, said slowly.

use tombolo_tunnel_core::offload::{VnetHeader, segment::segment};

use crate::sums;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The header for the device, by virtio 1.2, section 5.1.6.
struct Header {
    needs_checksum: bool,
    /// Without the bit for congestion notification.
    kind: u8,
    size: usize,
    start: usize,
    offset: usize,
}

impl Header {
    fn of(bytes: [u8; 10]) -> Self {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]).into();
        Self {
            needs_checksum: bytes[0] & 1 != 0,
            kind: bytes[1] & 0x7f,
            size: number(4),
            start: number(6),
            offset: number(8),
        }
    }
}

/// Cuts `packet` and checks every packet that comes out; none when the header is refused.
pub fn cut(header: [u8; 10], packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (vnet, _) = VnetHeader::split(&header).expect("ten bytes");
    let mut wires = Vec::new();
    segment(vnet, &mut packet.to_vec(), &mut vec![0; 65_536], |wire| wires.push(wire.to_vec()))?;
    let header = Header::of(header);
    if header.kind == 0 {
        assert_eq!(wires.len(), 1);
        check_whole(&header, packet, &wires[0]);
    } else {
        check_segments(&header, packet, &wires);
    }
    Some(wires)
}

fn check_whole(header: &Header, packet: &[u8], wire: &[u8]) {
    if !header.needs_checksum {
        assert_eq!(packet, wire);
        return;
    }
    let at = header.start + header.offset;
    let (mut before, mut after) = (packet.to_vec(), wire.to_vec());
    let (partial, field) = (sums::sum(&before[at..at + 2]), after[at..at + 2].to_vec());
    before[at..at + 2].fill(0);
    after[at..at + 2].fill(0);
    assert_eq!(before, after, "only the checksum changes");
    let off = sums::sum(&before[header.start..]) + partial + sums::sum(&field);
    assert_eq!(off % 0xffff, 0, "the checksum is wrong");
    // Receivers take a zero for no checksum (UDP over IPv4) or drop it (UDP over IPv6).
    assert_ne!(field, [0, 0], "a checksum that says that there is none");
}

fn check_segments(header: &Header, packet: &[u8], wires: &[Vec<u8>]) {
    let tcp = matches!(header.kind, 1 | 4);
    let data_offset = if tcp { usize::from(packet[header.start + 12] >> 4) * 4 } else { 8 };
    let headers = header.start + data_offset;
    let chunks: Vec<&[u8]> = packet[headers..].chunks(header.size).collect();
    assert_eq!(wires.len(), chunks.len());
    for (index, (wire, chunk)) in wires.iter().zip(&chunks).enumerate() {
        let last = index + 1 == chunks.len();
        let wanted = expected(header, tcp, [&packet[..headers], chunk].concat(), index, last);
        let protocol = if tcp { TCP } else { UDP };
        let pseudo = sums::pseudo_header(wire, protocol, wire.len() - header.start);
        let transport = &wire[header.start..];
        assert_eq!(sums::sum(&[pseudo.as_slice(), transport].concat()), 0, "the checksum of segment {index}");
        assert!(tcp || transport[6..8] != [0, 0], "a checksum that says that there is none");
        assert_eq!(without_checksums(wire.clone(), header, tcp), without_checksums(wanted, header, tcp));
        if wire[0] >> 4 != 6 {
            assert_eq!(sums::sum(&wire[..usize::from(wire[0] & 15) * 4]), 0, "the IPv4 header");
        }
    }
}

/// The headers of a segment: lengths, IPv4 identification, sequence number and flags are its own.
fn expected(header: &Header, tcp: bool, mut wire: Vec<u8>, index: usize, last: bool) -> Vec<u8> {
    let put = |wire: &mut [u8], at: usize, value: usize| {
        wire[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    };
    let total = wire.len();
    if wire[0] >> 4 == 6 {
        put(&mut wire, 4, total - 40);
    } else {
        let id = usize::from(u16::from_be_bytes([wire[4], wire[5]]));
        put(&mut wire, 2, total);
        put(&mut wire, 4, id + index);
    }
    let transport = header.start;
    if tcp {
        let field = transport + 4..transport + 8;
        let first = u32::from_be_bytes(wire[field.clone()].try_into().expect("four bytes"));
        let sequence = first.wrapping_add(u32::try_from(index * header.size).expect("at most 64 kB"));
        wire[field].copy_from_slice(&sequence.to_be_bytes());
        let kept = (if last { FIN_PSH } else { 0 }) | (if index == 0 { CWR } else { 0 });
        wire[transport + 13] &= !(FIN_PSH | CWR) | kept;
    } else {
        put(&mut wire, transport + 4, total - transport);
    }
    wire
}

fn without_checksums(mut wire: Vec<u8>, header: &Header, tcp: bool) -> Vec<u8> {
    let transport = header.start + if tcp { 16 } else { 6 };
    wire[transport..transport + 2].fill(0);
    if wire[0] >> 4 != 6 {
        wire[10..12].fill(0);
    }
    wire
}
