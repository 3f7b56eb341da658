use proptest::prelude::*;

use super::coalesce::Coalescer;
use super::segment::segment;
use super::*;
use crate::batch::RxBatch;

/// A TCP super-packet as the kernel hands it to a device, with the pseudo header's sum in its checksum field.
fn super_packet(v6: bool, payload: &[u8], flags: u8, size: u16) -> (VnetHeader, Vec<u8>) {
    let transport = if v6 { 40 } else { 20 };
    let mut packet = vec![0u8; transport + 32];
    packet.extend_from_slice(payload);
    let total = packet.len();
    if v6 {
        packet[0] = 0x60;
        put16(&mut packet, 4, (total - 40) as u16).unwrap();
        packet[6..8].copy_from_slice(&[6, 64]);
        packet[8..40].copy_from_slice(&[0xfd; 32]);
    } else {
        packet[0] = 0x45;
        put16(&mut packet, 2, total as u16).unwrap();
        packet[4..10].copy_from_slice(&[1, 2, 0x40, 0, 64, 6]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    }
    packet[transport..transport + 4].copy_from_slice(&[0x14, 0x51, 0x9c, 0x40]);
    put32(&mut packet, transport + 4, u32::MAX - 1000).unwrap();
    packet[transport + 12] = 0x80;
    packet[transport + 13] = flags;
    let pseudo = checksum::pseudo_header(&packet, 6, total - transport).unwrap();
    put16(&mut packet, transport + 16, checksum::fold(pseudo)).unwrap();
    let gso_type = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
    let (csum_start, header_len) = (transport as u16, transport as u16 + 32);
    (VnetHeader { flags: 1, gso_type, header_len, gso_size: size, csum_start, csum_offset: 16 }, packet)
}

fn cut(header: VnetHeader, packet: &[u8]) -> RxBatch {
    let mut batch = RxBatch::new(1 << 18);
    segment(header, &mut packet.to_vec(), &mut [0; 65_535], |wire| assert!(batch.push(wire))).unwrap();
    batch
}

proptest! {
    #[test]
    fn joining_what_was_cut_gives_the_original(
        v6 in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 1..9000),
        size in 200u16..1400,
        push in any::<bool>(),
    ) {
        let (header, packet) = super_packet(v6, &payload, if push { 0x18 } else { 0x10 }, size);
        let batch = cut(header, &packet);
        prop_assert_eq!(batch.len(), payload.len().div_ceil(size.into()));
        let mut coalescer = Coalescer::default();
        let groups = coalescer.join(&batch);
        prop_assert_eq!(groups.len(), 1);
        let joined: Vec<u8> = groups[0].parts(&batch).fold(groups[0].head().to_vec(), |mut all, part| {
            all.extend_from_slice(part);
            all
        });
        if batch.len() > 1 {
            prop_assert_eq!(groups[0].vnet, header);
            // The IPv4 header checksum is the kernel's business in the super-packet; compare all else.
            let mut want = packet;
            if !v6 { want[10..12].copy_from_slice(&joined[10..12]); }
            prop_assert_eq!(joined, want);
        }
    }

    #[test]
    fn hostile_headers_and_packets_never_panic(
        head in any::<[u8; 10]>(), mut packet in prop::collection::vec(any::<u8>(), 0..300), first in 0x44u8..0x62,
    ) {
        if let Some(byte) = packet.first_mut() { *byte = first; }
        let (header, _) = VnetHeader::split(&head).unwrap();
        let mut batch = RxBatch::new(1 << 16);
        for _ in 0..2 {
            batch.push(&packet);
        }
        Coalescer::default().join(&batch);
        let _ = segment(header, &mut packet, &mut [0; 65_535], |_| {});
    }
}

#[test]
fn a_damaged_segment_is_passed_on_alone() {
    let (header, packet) = super_packet(false, &[7; 4000], 0x10, 1000);
    let good = cut(header, &packet);
    let mut batch = RxBatch::new(1 << 16);
    for index in 0..good.len() {
        let mut wire = good.packet(index).to_vec();
        wire[100] ^= u8::from(index == 2);
        batch.push(&wire);
    }
    let mut coalescer = Coalescer::default();
    let sizes: Vec<usize> = coalescer.join(&batch).iter().map(|g| g.parts(&batch).count()).collect();
    assert_eq!(sizes, [2, 1, 1]);
}

#[test]
fn flags_stay_with_the_segment_they_belong_to() {
    let (header, packet) = super_packet(false, &[7; 3000], 0x99, 1000);
    let batch = cut(header, &packet);
    let flags: Vec<u8> = (0..3).map(|i| batch.packet(i)[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
}

#[test]
fn headers_that_overlap_what_is_cut_are_refused() {
    let refused = |change: fn(&mut Vec<u8>)| {
        let (header, mut packet) = super_packet(false, &[7; 3000], 0x10, 1000);
        change(&mut packet);
        segment(header, &mut packet, &mut [0; 65_535], |_| {}).is_none()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|packet| packet[32] = 0x40), "a TCP header of 16 bytes");
    assert!(refused(|packet| packet[0] = 0x46), "an IPv4 header that ends inside of the TCP header");
    assert!(refused(|packet| packet[0] = 0x44), "an IPv4 header of 16 bytes");
}
