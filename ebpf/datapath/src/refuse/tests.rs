use proptest::prelude::*;
use tombolo_abi::{Address, ServiceFlags, ServiceKey, ServiceValue, v4_mapped};

use super::*;
use crate::{
    classify,
    testing::{Frame, Memory, full_checksum},
};

const POD: [Address; 2] = [v4_mapped([10, 1, 0, 1]), [0xfd; 16]];
const VIP: [Address; 2] = [v4_mapped([10, 96, 0, 10]), [0xfc; 16]];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn memory(backends: u32) -> Memory {
    let mut memory = Memory::default();
    for vip in VIP {
        for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            let service = ServiceValue::new(1, backends, ServiceFlags::NONE);
            memory.services.insert(ServiceKey::new(vip, 80, number), service);
        }
    }
    memory
}

/// A frame of the pod to the frontend with words of options, or of extension headers, in front of the transport header.
fn asking(v6: bool, number: u8, options: usize, upper: &[u8]) -> Frame {
    let mut frame = [HOST_MAC, POD_MAC].concat();
    let len = u16::try_from(options * if v6 { 8 } else { 4 } + upper.len()).unwrap();
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        let next = |more: usize| if more == 0 { number } else { 60 };
        frame.extend([next(options), 64]);
        frame.extend([POD[1], VIP[1]].concat());
        frame.extend((0..options).rev().flat_map(|more| [next(more), 0, 1, 4, 0, 0, 0, 0]));
    } else {
        frame.extend([8, 0, 0x45 + u8::try_from(options).unwrap(), 0]);
        frame.extend((20 + len).to_be_bytes());
        frame.extend([0, 7, 0, 0, 64, number, 0, 0]);
        frame.extend([&POD[0][12..], &VIP[0][12..]].concat());
        frame.extend(vec![1; options * 4]);
    }
    frame.extend(upper);
    Frame(frame)
}

fn tcp(flags: u8, sequence: u32, acknowledged: u32, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![3, 232, 0, 80];
    segment.extend([sequence, acknowledged].map(u32::to_be_bytes).concat());
    segment.extend([0x50 + (u8::try_from(options).unwrap() << 4), flags, 1, 0, 0, 0, 0, 0]);
    segment.extend(vec![1; options * 4]);
    [&segment, payload].concat()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    [&[3, 232, 0, 80, len[0], len[1], 0x12, 0x34], payload].concat()
}

/// The answer to a frame, if there is one.
fn answer(memory: &Memory, frame: &Frame) -> Option<Vec<u8>> {
    let (mut frame, mut headers) = (frame.clone(), Headers::default());
    assert_eq!(classify(&frame, memory, Link::Ethernet, &mut headers), Ok(true));
    refuse(&mut frame, memory, &headers).then_some(frame.0)
}

/// Checks what all answers have in common and returns what is behind the IP header.
fn upper(v6: bool, number: u8, answer: &[u8]) -> Vec<u8> {
    assert_eq!(answer[..12], [POD_MAC, HOST_MAC].concat());
    let (from, to) = (VIP[usize::from(v6)], POD[usize::from(v6)]);
    let ip = &answer[14..];
    let said = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let (header, addresses) = if v6 {
        assert_eq!((&answer[12..14], ip[0], ip[6], ip[7]), (&[0x86, 0xdd][..], 0x60, number, HOPS));
        assert_eq!((said(4) + 40, ip.len() <= 1280), (ip.len(), true), "the length");
        (40, [from, to].concat())
    } else {
        assert_eq!((&answer[12..14], ip[0], ip[8], ip[9]), (&[8, 0][..], 0x45, HOPS, number));
        assert_eq!((said(2), ip.len() <= 128), (ip.len(), true), "the length");
        assert_eq!(full_checksum(&ip[..20]), [0, 0]);
        (20, [&from[12..], &to[12..]].concat())
    };
    let upper = &ip[header..];
    assert_eq!(ip[header - addresses.len()..header], addresses);
    let len = u16::try_from(upper.len()).unwrap().to_be_bytes();
    let pseudo = if number == protocol::ICMP {
        Vec::new()
    } else {
        [&addresses[..], &[0, number, len[0], len[1]]].concat()
    };
    assert!(matches!(full_checksum(&[&pseudo, upper].concat()), [0, 0] | [0xff, 0xff]), "the checksum");
    upper.to_vec()
}

proptest! {
    #[test]
    fn a_segment_is_reset(v6: bool, ip_options in 0usize..5, flags: u8, sequence: u32, acknowledged: u32, tcp_options in 0usize..11,
                          payload in prop::collection::vec(any::<u8>(), 0..1400), padding in 0usize..9) {
        let mut asked = asking(v6, protocol::TCP, ip_options, &tcp(flags, sequence, acknowledged, tcp_options, &payload));
        asked.0.extend(vec![0xaa; padding]);
        let answer = answer(&memory(0), &asked);
        if flags & 4 != 0 {
            prop_assert_eq!(answer, None, "a reset");
            return Ok(());
        }
        let taken = u32::try_from(payload.len()).unwrap() + u32::from(flags >> 1 & 1) + u32::from(flags & 1);
        let (flags, sequence, acknowledged) = if flags & 16 == 0 {
            (0x14, 0, sequence.wrapping_add(taken))
        } else {
            (4, acknowledged, 0)
        };
        let mut wanted = tcp(flags, sequence, acknowledged, 0, b"");
        wanted[..4].copy_from_slice(&[0, 80, 3, 232]);
        let mut reset = upper(v6, protocol::TCP, &answer.unwrap());
        reset[16..18].fill(0);
        wanted[14..16].fill(0);
        prop_assert_eq!(reset, wanted);
    }

    #[test]
    fn a_datagram_is_unreachable(v6: bool, options in 0usize..5, payload in prop::collection::vec(any::<u8>(), 0..1400), padding in 0usize..9) {
        let mut asked = asking(v6, protocol::UDP, options, &udp(&payload));
        let sent = asked.0[14..].to_vec();
        asked.0.extend(vec![0xaa; padding]);
        let (number, kind, most) = if v6 { (protocol::ICMPV6, [1, 4], 1232) } else { (protocol::ICMP, [3, 3], 96) };
        let error = upper(v6, number, &answer(&memory(0), &asked).unwrap());
        prop_assert_eq!((&error[..2], &error[4..8]), (&kind[..], &[0; 4][..]));
        prop_assert_eq!(&error[8..], &sent[..sent.len().min(most)]);
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 54..200), v6: bool, cut in 0usize..200) {
        let start = asking(v6, bytes[53] % 20, 0, b"").0;
        bytes[..start.len()].copy_from_slice(&start);
        bytes.truncate(cut);
        let (mut frame, mut headers) = (Frame(bytes), Headers::default());
        if classify(&frame, &memory(0), Link::Ethernet, &mut headers) == Ok(true) {
            refuse(&mut frame, &memory(0), &headers);
        }
    }
}

#[test]
fn a_service_with_backends_is_not_refused() {
    for v6 in [false, true] {
        assert_eq!(answer(&memory(1), &asking(v6, protocol::UDP, 0, &udp(b"?"))), None);
    }
}

#[test]
fn what_went_to_many_or_is_cut_has_no_answer() {
    let memory = memory(0);
    let mut framed_to_many = asking(false, protocol::UDP, 0, &udp(b"?"));
    framed_to_many.0[0] = 1;
    assert_eq!(answer(&memory, &framed_to_many), None);
    let mut longer = asking(false, protocol::UDP, 0, &udp(b"?"));
    longer.0[17] += 1;
    assert_eq!(answer(&memory, &longer), None, "its IP header promises more");
    let mut shorter = asking(false, protocol::UDP, 0, &udp(b"?"));
    shorter.0[17] = 27;
    assert_eq!(answer(&memory, &shorter), None, "less than the header of a datagram");
}
