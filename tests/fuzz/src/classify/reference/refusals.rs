//! What a pod is told that asks a frontend without backends: RFC 9293, section 3.10.7.1 (TCP), RFC 792 and 1122, section
//! 3.2.2 (ICMP), RFC 4443 (ICMPv6).

use tombolo_abi::protocol;
use tombolo_datapath::testing::Memory;

use super::{
    super::drive::{Case, Refusal},
    Parsed, Part, read,
    rules::service,
};
use crate::sums::{pseudo_header, sum};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// An answer is at most so long, from its IP header on.
const MOST_V4: usize = 128;
const MOST_V6: usize = 1280;

/// Judges the answer to a packet that was dropped for want of a backend, or that there is none.
pub fn check(world: &Memory, case: &Case, packet: &Parsed, refusal: &Refusal) {
    let lonely = service(world, &packet.ends.to, packet.ends.protocol).is_some_and(|s| s.count() == 0);
    let Refusal { answered, bytes } = refusal;
    let wanted = lonely && is_answerable(packet, &case.bytes);
    assert_eq!(*answered, wanted, "whether there is an answer");
    if !answered {
        return;
    }
    assert_eq!(
        (&bytes[..6], &bytes[6..12]),
        (&case.bytes[6..12], &case.bytes[..6]),
        "back to where it came from"
    );
    let answer = read::read(bytes, false).expect("it can be read").expect("it is IP");
    check_ip(&answer, bytes);
    assert_eq!(
        (answer.sender, answer.ends.from, answer.ends.to),
        (packet.ends.to.0, packet.ends.to, packet.ends.from)
    );
    match packet.protocol {
        protocol::TCP => check_reset(packet, &case.bytes, &answer, bytes),
        _ => check_error(packet, &case.bytes, &answer, bytes),
    }
}

/// What its IP header says of its length, from that header on.
fn said(packet: &Parsed, bytes: &[u8]) -> usize {
    let ip = packet.place.ip;
    let field = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    if packet.v6 { 40 + field(ip + 4) } else { field(ip + 2) }
}

/// How much a TCP segment carries; none if it says nonsense.
fn data(packet: &Parsed, bytes: &[u8]) -> Option<usize> {
    let header = usize::from(bytes[packet.place.transport + 12] >> 4) * 4;
    (packet.place.ip + said(packet, bytes)).checked_sub(packet.place.transport + header)
}

fn is_answerable(packet: &Parsed, bytes: &[u8]) -> bool {
    let to_many = bytes[0] & 1 == 1;
    // Behind more headers than that nobody looks for an answer.
    let far = packet.place.transport >= 256;
    if to_many || far || packet.part == Part::Later {
        return false;
    }
    if packet.protocol == protocol::TCP {
        let numbered = packet.tcp_flags & ACK != 0 || data(packet, bytes).is_some();
        return packet.tcp_flags & RST == 0 && numbered;
    }
    let end = packet.place.ip + said(packet, bytes);
    packet.place.transport + 8 <= end && end <= bytes.len()
}

fn check_ip(answer: &Parsed, bytes: &[u8]) {
    let ip = &bytes[answer.place.ip..];
    let most = if answer.v6 { MOST_V6 } else { MOST_V4 };
    assert_eq!((said(answer, bytes), ip.len() <= most), (ip.len(), true), "its length");
    assert_eq!((answer.part, answer.hops), (Part::Whole, 64));
    let header = answer.place.transport - answer.place.ip;
    assert_eq!(header, if answer.v6 { 40 } else { 20 }, "no options");
    assert!(answer.v6 || sum(&ip[..20]) == 0, "the checksum of its header");
    let upper = &ip[header..];
    let pseudo = match answer.protocol {
        protocol::ICMP => Vec::new(),
        number => pseudo_header(ip, number, upper.len()),
    };
    assert_eq!(sum(&[&pseudo, upper].concat()), 0, "the checksum");
}

fn check_reset(packet: &Parsed, asked: &[u8], answer: &Parsed, bytes: &[u8]) {
    let number = |bytes: &[u8], at: usize| {
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let (from, to) = (packet.place.transport, answer.place.transport);
    assert_eq!((answer.protocol, bytes.len() - to, bytes[to + 12]), (protocol::TCP, 20, 0x50));
    let wanted = if packet.tcp_flags & ACK != 0 {
        (RST, number(asked, from + 8), 0)
    } else {
        let taken = packet.tcp_flags & SYN != 0;
        let more = packet.tcp_flags & FIN != 0;
        let data = u32::try_from(data(packet, asked).expect("a length")).expect("a short one");
        let next = number(asked, from + 4).wrapping_add(data + u32::from(taken) + u32::from(more));
        (RST | ACK, 0, next)
    };
    assert_eq!((answer.tcp_flags, number(bytes, to + 4), number(bytes, to + 8)), wanted, "the numbers");
}

fn check_error(packet: &Parsed, asked: &[u8], answer: &Parsed, bytes: &[u8]) {
    let (at, ip) = (answer.place.transport, packet.place.ip);
    let (number, kind) = if packet.v6 { (protocol::ICMPV6, [1, 4]) } else { (protocol::ICMP, [3, 3]) };
    assert_eq!(
        (answer.protocol, &bytes[at..at + 2], &bytes[at + 4..at + 8]),
        (number, &kind[..], &[0; 4][..])
    );
    let quoted = &bytes[at + 8..];
    let whole = &asked[ip..ip + said(packet, asked)];
    assert!(whole.starts_with(quoted), "what it quotes");
    assert!(
        quoted.len() == whole.len() || quoted.len() >= packet.place.transport - ip + 8,
        "it quotes enough"
    );
}
