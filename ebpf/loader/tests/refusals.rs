//! Frontends without backends: what a pod that asks one is told, byte by byte and at its sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use common::{
    node::{Node, VIP as VIP_OF_NODE},
    on_a_node,
    talk::{PATIENCE, connect},
};
use tombolo_abi::{
    Address, AddressKey, Direction, DropReason, EndpointFlags, EndpointValue, is_v4_mapped, protocol,
    v4_mapped,
};
use tombolo_fixture::{A, HOST_MAC, LOOPBACK, POD_MAC, VIP, checksum, ipv4, set_service, sum};
use tombolo_loader::{Datapath, Table, drops};

const DROP: i32 = 2;
const REDIRECT: i32 = 7;
const A_V6: Address = v6(1);
const VIP_V6: Address = v6(3);

const fn v6(last: u8) -> Address {
    [0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// A frame of the pod with this behind its IP header, of the family of the addresses, the checksum at `field` set right.
fn frame(number: u8, from: Address, to: Address, upper: &[u8], field: usize) -> Vec<u8> {
    let mut upper = upper.to_vec();
    let len = u32::try_from(upper.len()).unwrap();
    let pseudo = if number == protocol::ICMP { 0 } else { sum(&from) + sum(&to) + u32::from(number) + len };
    let value = checksum(pseudo + sum(&upper));
    upper[field..field + 2].copy_from_slice(&value.to_be_bytes());
    let mut frame = if is_v4_mapped(&from) {
        ipv4(from, to, number, &upper)
    } else {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        frame.extend([number, 64]);
        frame.extend([from, to].concat());
        frame.extend(upper);
        frame
    };
    frame[..12].copy_from_slice(&[HOST_MAC, POD_MAC].concat());
    frame
}

fn udp(from: (Address, u16), to: (Address, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let ports = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
    frame(protocol::UDP, from.0, to.0, &[&ports, payload].concat(), 6)
}

/// A TCP segment: flags, sequence and acknowledgement number.
fn tcp(from: (Address, u16), to: (Address, u16), segment: (u8, u32, u32), payload: &[u8]) -> Vec<u8> {
    let (flags, sequence, acknowledged) = segment;
    let mut header = [from.1, to.1].map(u16::to_be_bytes).concat();
    header.extend([sequence, acknowledged].map(u32::to_be_bytes).concat());
    header.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    frame(protocol::TCP, from.0, to.0, &[&header, payload].concat(), 16)
}

/// What comes from the frontend: as if it had been sent the other way.
fn reversed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..12].copy_from_slice(&[POD_MAC, HOST_MAC].concat());
    if frame[12..14] == [8, 0] {
        // An atomic datagram (RFC 6864).
        frame[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
        frame[24..26].fill(0);
        let field = checksum(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&field.to_be_bytes());
    }
    frame
}

/// The ICMP error with so many bytes of the packet.
fn unreachable(about: &[u8], (from, to): (Address, Address), quoted: usize) -> Vec<u8> {
    let (number, kind) =
        if is_v4_mapped(&from) { (protocol::ICMP, [3, 3]) } else { (protocol::ICMPV6, [1, 4]) };
    let message = [&kind, &[0; 6][..], &about[14..14 + quoted]].concat();
    reversed(frame(number, from, to, &message, 2))
}

/// A node whose pod A has a frontend without backends for all protocols, and lets nothing in.
fn lonely(pins: &Path) -> Datapath {
    let datapath = Datapath::load(pins).unwrap();
    tombolo_fixture::node(&datapath, 77, EndpointFlags::INGRESS_ENFORCED, EndpointFlags::NONE).unwrap();
    let value = EndpointValue::new(LOOPBACK, 11, 300, EndpointFlags::NONE, POD_MAC, HOST_MAC);
    datapath.maps().endpoint().unwrap().upsert(&AddressKey::new(A_V6), &value).unwrap();
    for (id, vip) in [(1, VIP), (2, VIP_V6)] {
        for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            set_service(&datapath, id * 10 + u32::from(number), (vip, 80, number), &[]).unwrap();
        }
    }
    datapath
}

fn asked(datapath: &Datapath, frame: &[u8]) -> (i32, Vec<u8>) {
    let before = refused(datapath);
    let run = datapath.test_run("pod_egress", frame, 1).expect("it runs");
    assert_eq!(refused(datapath) - before, 1, "each packet is counted");
    (run.verdict, run.packet)
}

fn refused(datapath: &Datapath) -> u64 {
    drops(&datapath.maps()).unwrap()[&DropReason::NoBackend].get(Direction::Egress).packets()
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_segment_to_nobody_is_answered_by_a_reset() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    on_a_node(|pins| {
        let datapath = lonely(pins);
        for (pod, vip) in [((A, 1000), (VIP, 80)), ((A_V6, 1000), (VIP_V6, 80))] {
            let answers = |flags, payload: &[u8], (sequence, acknowledged)| {
                let segment = tcp(pod, vip, (flags, 0xffff_fffe, 77), payload);
                let reset = RST | if acknowledged == 0 { 0 } else { ACK };
                let wanted = reversed(tcp(vip, pod, (reset, sequence, acknowledged), &[]));
                assert_eq!(asked(&datapath, &segment), (REDIRECT, wanted), "flags {flags}");
            };
            answers(SYN, b"", (0, 0xffff_ffff));
            answers(SYN, b"early", (0, 4));
            answers(FIN, b"abc", (0, 2));
            answers(ACK, b"data", (77, 0));
            answers(SYN | ACK, b"", (77, 0));
            answers(FIN | ACK, &[7; 1400], (77, 0));
            for flags in [RST, RST | ACK] {
                assert_eq!(asked(&datapath, &tcp(pod, vip, (flags, 1, 2), b"")).0, DROP, "a reset");
            }
        }
        let event = datapath.maps().events().unwrap().next_event().unwrap();
        assert_eq!((event.reason, event.destination, event.len), (DropReason::NoBackend, VIP, 54));
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_datagram_to_nobody_is_answered_by_an_error() {
    on_a_node(|pins| {
        let datapath = lonely(pins);
        for (len, quoted) in [(0, 28), (3, 31), (68, 96), (69, 96), (1400, 96)] {
            let datagram = udp((A, 1000), (VIP, 80), &vec![7; len]);
            let wanted = unreachable(&datagram, (VIP, A), quoted);
            assert!(wanted.len() <= 14 + 128);
            assert_eq!(asked(&datapath, &datagram), (REDIRECT, wanted), "{len} bytes");
        }
        for (len, quoted) in [(0, 48), (3, 51), (1183, 1231), (1184, 1232), (1185, 1232), (1400, 1232)] {
            let datagram = udp((A_V6, 1000), (VIP_V6, 80), &vec![7; len]);
            let wanted = unreachable(&datagram, (VIP_V6, A_V6), quoted);
            assert!(wanted.len() <= 14 + 1280);
            assert_eq!(asked(&datapath, &datagram), (REDIRECT, wanted), "{len} bytes");
        }
        let sctp = frame(protocol::SCTP, A, VIP, &[3, 232, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0], 10);
        assert_eq!(asked(&datapath, &sctp), (REDIRECT, unreachable(&sctp, (VIP, A), 32)));
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn what_nobody_may_answer_is_dropped() {
    on_a_node(|pins| {
        let datapath = lonely(pins);
        let datagram = udp((A, 1000), (VIP, 80), &[7; 32]);
        let mut to_all = datagram.clone();
        to_all[..6].fill(0xff);
        assert_eq!(asked(&datapath, &to_all).0, DROP, "a broadcast of the link");
        let (mut first, mut later) = (datagram.clone(), datagram);
        first[20..22].copy_from_slice(&[0x20, 0]);
        assert_eq!(asked(&datapath, &first).0, REDIRECT, "a first fragment");
        later[20..22].copy_from_slice(&[0, 4]);
        assert_eq!(asked(&datapath, &later).0, DROP, "a later fragment");
    });
}

/// A pod whose sockets nobody redirects, and who lets nothing in.
#[test]
#[ignore = "needs root; 20 s"]
fn sockets_of_a_pod_are_refused_at_once() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::INGRESS_ENFORCED, EndpointFlags::NONE);
        let (pod, vip) = (Ipv6Addr::from(A_V6), Ipv6Addr::from(VIP_V6));
        node.a.namespace.run(&format!("ip addr add {pod}/128 dev eth0 nodad"));
        let host_mac = node.a.value.host_mac().map(|b| format!("{b:02x}")).join(":");
        node.a.namespace.run(&format!("ip neigh replace fe80::1 lladdr {host_mac} dev eth0 nud permanent"));
        node.a.namespace.run("ip route add default via fe80::1 dev eth0");
        node.datapath.maps().endpoint().unwrap().upsert(&AddressKey::new(A_V6), &node.a.value).unwrap();
        for (id, address) in [(1, v4_mapped(VIP_OF_NODE.octets())), (2, VIP_V6)] {
            set_service(&node.datapath, id, (address, 80, protocol::TCP), &[]).unwrap();
            set_service(&node.datapath, 10 + id, (address, 80, protocol::UDP), &[]).unwrap();
        }
        for vip in [IpAddr::from(VIP_OF_NODE), IpAddr::from(vip)] {
            let (tcp, took) = node.a.namespace.within(move || {
                let began = Instant::now();
                (connect(vip, 80).map(drop).map_err(|error| error.kind()), began.elapsed())
            });
            assert_eq!(tcp, Err(io::ErrorKind::ConnectionRefused), "TCP to {vip}");
            assert!(took < Duration::from_millis(500), "{took:?}");
            for len in [1, 1400] {
                let (udp, took) = node.a.namespace.within(move || refusal_of_a_datagram(vip, len));
                assert_eq!(udp, Err(io::ErrorKind::ConnectionRefused), "{len} bytes by UDP to {vip}");
                assert!(took < Duration::from_millis(500), "{took:?}");
            }
        }
        assert_eq!(refused(&node.datapath), 6, "one packet each");
    });
}

fn refusal_of_a_datagram(vip: IpAddr, len: usize) -> (Result<usize, io::ErrorKind>, Duration) {
    let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((vip, 80)).unwrap();
    let began = Instant::now();
    socket.send(&vec![7; len]).unwrap();
    (socket.recv(&mut [0; 9]).map_err(|error| error.kind()), began.elapsed())
}
