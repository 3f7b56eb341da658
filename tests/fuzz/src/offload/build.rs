//! Super-packets as the kernel hands them to a TUN device, and damage to them.

use crate::{input::Input, sums};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The header for the device (`struct virtio_net_hdr`) and the packet behind it.
pub fn super_packet(input: &mut Input<'_>) -> ([u8; 10], Vec<u8>) {
    let (choices, port) = (input.byte(), input.byte());
    let (v6, udp, whole, aimed) = (choices & 1 != 0, choices & 2 != 0, choices & 4 != 0, choices & 8 != 0);
    let (protocol, field) = if udp { (UDP, 6) } else { (TCP, 16) };
    let transport = if v6 { 40 } else { 20 };
    let payload_len = usize::from(input.number() % 4096).max(2);
    let size = input.number() % 2000 + 50;
    let mut packet = ip_header(v6, protocol);
    packet.extend([0x14, port, 0x9c, 0x40]);
    if udp {
        packet.extend(u16::try_from(8 + payload_len).expect("at most 4 kB").to_be_bytes());
        packet.extend([0; 2]);
    } else {
        let (sequence, flags, words) = (input.array::<4>(), input.byte() & 0x19 | 0x10, input.byte() % 11);
        packet.extend(sequence);
        packet.extend([0, 0, 0, 1, (5 + words) << 4, flags, 1, 0, 0, 0, 0, 0]);
        packet.extend(vec![1; usize::from(words) * 4]);
    }
    let headers = packet.len();
    packet.extend((0..payload_len).map(|at| at as u8 ^ port));
    let total = u16::try_from(packet.len()).expect("at most 5 kB");
    if v6 {
        packet[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&total.to_be_bytes());
    }
    let pseudo = sums::pseudo_header(&packet, protocol, packet.len() - transport);
    if aimed {
        // The checksum by the book is zero.
        packet[headers..headers + 2].fill(0);
        let missing = sums::checksum(&[pseudo.as_slice(), &packet[transport..]].concat());
        packet[headers..headers + 2].copy_from_slice(&missing);
    }
    let partial = u16::try_from(sums::sum(&pseudo)).expect("less than 0xffff");
    packet[transport + field..transport + field + 2].copy_from_slice(&partial.to_be_bytes());
    let kind = match (whole, udp, v6) {
        (true, ..) => 0,
        (_, true, _) => 5,
        (_, _, true) => 4,
        (_, _, false) => 1,
    };
    let numbers = [headers, if whole { 0 } else { size.into() }, transport, field];
    let numbers = numbers.map(|number| u16::try_from(number).expect("a small number").to_ne_bytes());
    let header = [[1, kind].as_slice(), &numbers.concat()].concat();
    (header.try_into().expect("ten bytes"), packet)
}

fn ip_header(v6: bool, protocol: u8) -> Vec<u8> {
    if v6 {
        return [[0x60, 0, 0, 0, 0, 0, protocol, 64].as_slice(), &[0xfd; 32]].concat();
    }
    vec![0x45, 0, 0, 0, 1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
}

/// Changes up to three bytes.
pub fn damage<B: AsMut<[u8]>>(input: &mut Input<'_>, bytes: &mut B) {
    let bytes = bytes.as_mut();
    for _ in 0..input.byte() % 4 {
        let at = usize::from(input.number()) % bytes.len();
        bytes[at] = input.byte();
    }
}
