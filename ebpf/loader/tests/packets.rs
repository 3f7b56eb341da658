//! Each program under BPF_PROG_TEST_RUN: verdict, bytes, counters, and what the verifier thought.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{ip, on_a_node};
use tombolo_abi::{
    Address, AddressKey, Bitmap, Direction, DropReason, EndpointFlags, EndpointValue, Metric, NatPorts,
    PolicyKey, PolicyValue,
};
use tombolo_fixture::{
    A, B, HOST_MAC, LOOPBACK, NODE, OUTSIDE, POD_MAC, REMOTE, VIP, checksum, ipv4, set_service, sum, udp, v4,
};
use tombolo_loader::{Datapath, Table, drops, metrics};

const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// Whether the IPv4 header and the UDP datagram of a frame check out.
fn is_sound(frame: &[u8]) -> bool {
    let (header, datagram) = (&frame[14..34], &frame[34..]);
    let pseudo = sum(&header[12..20]) + 17 + u32::try_from(datagram.len()).unwrap();
    checksum(sum(header)) == 0 && checksum(pseudo + sum(datagram)) == 0
}

fn addresses(frame: &[u8]) -> (Address, u16, Address, u16) {
    let at = |i: usize| ip(frame[i], frame[i + 1], frame[i + 2], frame[i + 3]);
    let port = |i: usize| u16::from_be_bytes([frame[i], frame[i + 1]]);
    (at(26), port(34), at(30), port(36))
}

fn test_run(datapath: &Datapath, program: &str, frame: &[u8]) -> (i32, Vec<u8>) {
    let run = datapath.test_run(program, frame, 1).expect(program);
    (run.verdict, run.packet)
}

/// A node with the pods A and B, and a tunnel device that does not exist.
fn node(pin_dir: &Path, flags_a: EndpointFlags, flags_b: EndpointFlags) -> Datapath {
    let datapath = Datapath::load(pin_dir).unwrap();
    tombolo_fixture::node(&datapath, 77, flags_a, flags_b).unwrap();
    datapath
}

fn dropped(datapath: &Datapath, reason: DropReason, direction: Direction) -> u64 {
    drops(&datapath.maps()).unwrap()[&reason].get(direction).packets()
}

fn counted(datapath: &Datapath, metric: Metric) -> u64 {
    metrics(&datapath.maps()).unwrap()[&metric].packets()
}

#[test]
#[ignore = "needs root; 10 s"]
fn programs_load_within_the_budget() {
    on_a_node(|pins| {
        let datapath = Datapath::load(pins).unwrap();
        for program in datapath.stats() {
            println!(
                "{:>15}: {:>7} verified instructions, {:>6} B jited",
                program.name, program.verified_instructions, program.jited_bytes
            );
            assert!(program.verified_instructions < 300_000, "{program:?}");
        }
        assert_eq!(datapath.stats().len(), 15);
        tombolo_loader::unload(pins).unwrap();
        assert!(!pins.exists());
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_pod_reaches_another_on_its_node() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let (verdict, out) = test_run(&datapath, "pod_egress", &udp((A, 1000), (B, 2000)));
        assert_eq!(verdict, REDIRECT);
        assert_eq!((&out[0..6], &out[6..12]), (&POD_MAC[..], &HOST_MAC[..]));
        assert_eq!(out[22], 63);
        assert!(is_sound(&out));
        assert_eq!(counted(&datapath, Metric::ToPod), 1);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_false_source_is_dropped_and_reported() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let mut events = datapath.maps().events().unwrap();
        let (verdict, _) = test_run(&datapath, "pod_egress", &udp((B, 1000), (A, 2000)));
        assert_eq!(verdict, DROP);
        assert_eq!(dropped(&datapath, DropReason::SourceSpoofed, Direction::Egress), 1);
        let event = events.next_event().unwrap();
        assert_eq!(
            (event.reason, event.source, event.destination_port),
            (DropReason::SourceSpoofed, B, 2000)
        );
        assert!(events.next_event().is_none());
        for source in [NODE, REMOTE, B] {
            assert_eq!(test_run(&datapath, "net_ingress", &udp((source, 1), (A, 2))).0, DROP);
        }
        assert_eq!(dropped(&datapath, DropReason::SourceSpoofed, Direction::Ingress), 3);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn policy_decides_and_applies_to_running_connections() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::EGRESS_ENFORCED, EndpointFlags::INGRESS_ENFORCED);
        let (to_b, back) = (udp((A, 1000), (B, 2000)), udp((B, 2000), (A, 1000)));
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, DROP);
        let mut policy = datapath.maps().policy().unwrap();
        let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
        policy.upsert(&PolicyKey::any(1, Direction::Egress), &any).unwrap();
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::PolicyDenied, Direction::Egress), 1);
        assert_eq!(dropped(&datapath, DropReason::PolicyDenied, Direction::Ingress), 1);
        // Selector 9 matches A's identity; port 2000 is in the range 1984..=2047.
        let mut nine = Bitmap::EMPTY;
        nine.set(9);
        datapath.maps().identity().unwrap().upsert(&(1 << 20 | 301), &nine).unwrap();
        let rule = PolicyKey::ports(2, Direction::Ingress, 17, 1984, 10);
        policy.upsert(&rule, &PolicyValue::new(nine, Bitmap::EMPTY)).unwrap();
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, REDIRECT);
        // The answer passes A's veth (not tested here) and, from elsewhere, its ingress without any rule.
        assert_eq!(test_run(&datapath, "pod_ingress", &back).0, NEXT);
        // A denial wins.
        policy.upsert(&rule, &PolicyValue::new(nine, nine)).unwrap();
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::PolicyDenied, Direction::Ingress), 2);
        policy.upsert(&rule, &PolicyValue::new(nine, Bitmap::EMPTY)).unwrap();
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, REDIRECT);
        assert!(policy.delete(&rule).unwrap());
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::PolicyDenied, Direction::Ingress), 3);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_policy_that_closes_ends_the_replies_of_running_connections() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::EGRESS_ENFORCED, EndpointFlags::NONE);
        let (to_b, back) = (udp((A, 1000), (B, 2000)), udp((B, 2000), (A, 1000)));
        let mut policy = datapath.maps().policy().unwrap();
        let open = PolicyKey::any(1, Direction::Egress);
        policy.upsert(&open, &PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY)).unwrap();
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, REDIRECT);
        assert_eq!(test_run(&datapath, "pod_ingress", &back).0, NEXT);
        let maps = datapath.maps();
        maps.advance_policy_epoch().unwrap();
        assert_eq!(test_run(&datapath, "pod_ingress", &back).0, NEXT);
        assert!(policy.delete(&open).unwrap());
        maps.advance_policy_epoch().unwrap();
        assert_eq!(test_run(&datapath, "pod_ingress", &back).0, DROP);
        assert_eq!(test_run(&datapath, "pod_egress", &to_b).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::PolicyDenied, Direction::Egress), 2);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_service_is_translated_and_its_answer_back() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        set_service(&datapath, 1, (VIP, 53, 17), &[(REMOTE, 5353)]).unwrap();
        let (verdict, out) = test_run(&datapath, "pod_egress", &udp((A, 1000), (VIP, 53)));
        assert_eq!(addresses(&out), (A, 1000, REMOTE, 5353));
        assert!(is_sound(&out));
        // The tunnel does not exist here, so the size of its packets is not known and the stack gets it.
        assert_eq!(verdict, NEXT);
        let (verdict, out) = test_run(&datapath, "pod_ingress", &udp((REMOTE, 5353), (A, 1000)));
        assert_eq!((verdict, addresses(&out)), (NEXT, (VIP, 53, A, 1000)));
        assert!(is_sound(&out));
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_pod_reaches_itself_through_a_service() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::INGRESS_ENFORCED, EndpointFlags::NONE);
        set_service(&datapath, 1, (VIP, 53, 17), &[(A, 5353)]).unwrap();
        let gateway = ip(169, 254, 1, 1);
        let (verdict, out) = test_run(&datapath, "pod_egress", &udp((A, 1000), (VIP, 53)));
        assert_eq!((verdict, addresses(&out)), (REDIRECT, (gateway, 1000, A, 5353)));
        assert!(is_sound(&out));
        let (verdict, out) = test_run(&datapath, "pod_egress", &udp((A, 5353), (gateway, 1000)));
        assert_eq!((verdict, addresses(&out)), (REDIRECT, (VIP, 53, A, 1000)));
        assert!(is_sound(&out));
    });
}

/// An SCTP packet of some bytes.
fn sctp(from: (Address, u16), to: (Address, u16), len: usize) -> Vec<u8> {
    let mut packet = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    packet.extend([1, 2, 3, 4, 0, 0, 0, 0]);
    packet.extend((0..len).map(|i| u8::try_from(i % 251).unwrap()));
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    ipv4(from.0, to.0, 132, &packet)
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |r: u32| if r & 1 == 1 { r >> 1 ^ 0x82f6_3b78 } else { r >> 1 };
    !bytes.iter().fold(!0, |r, byte| (0..8).fold(r ^ u32::from(*byte), |r, _| step(r)))
}

#[test]
#[ignore = "needs root; 10 s"]
fn ports_of_sctp_are_changed_with_the_checksum() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        set_service(&datapath, 1, (VIP, 80, 132), &[(B, 8080)]).unwrap();
        for len in [20, 1000] {
            let (verdict, out) = test_run(&datapath, "pod_egress", &sctp((A, 1000), (VIP, 80), len));
            assert_eq!((verdict, &out[34..]), (REDIRECT, &sctp((A, 1000), (B, 8080), len)[34..]), "{len}");
            let (verdict, out) = test_run(&datapath, "pod_ingress", &sctp((B, 8080), (A, 1000), len));
            assert_eq!((verdict, &out[34..]), (NEXT, &sctp((VIP, 80), (A, 1000), len)[34..]), "{len}");
        }
        test_run(&datapath, "pod_egress", &sctp((A, 1000), (OUTSIDE, 80), 20));
        let (_, out) = test_run(&datapath, "net_egress", &sctp((A, 1000), (OUTSIDE, 80), 20));
        let (source, port, ..) = addresses(&out);
        assert_eq!((source, &out[34..]), (NODE, &sctp((NODE, port), (OUTSIDE, 80), 20)[34..]));
        let (_, back) = test_run(&datapath, "net_ingress", &sctp((OUTSIDE, 80), (NODE, port), 20));
        assert_eq!(&back[34..], &sctp((OUTSIDE, 80), (A, 1000), 20)[34..]);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn masquerading_is_undone_for_answers_and_errors() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::INGRESS_ENFORCED);
        let mut taken = Vec::new();
        for port in [1000, 1001] {
            // The pod's own program records the connection before.
            test_run(&datapath, "pod_egress", &udp((A, port), (OUTSIDE, 53)));
            let (verdict, out) = test_run(&datapath, "net_egress", &udp((A, port), (OUTSIDE, 53)));
            let (source, snat_port, ..) = addresses(&out);
            assert_eq!((verdict, source), (NEXT, NODE));
            assert!(NatPorts::DEFAULT.contains(snat_port) && !taken.contains(&snat_port) && is_sound(&out));
            taken.push(snat_port);
            let (verdict, back) = test_run(&datapath, "net_ingress", &udp((OUTSIDE, 53), (NODE, snat_port)));
            assert_eq!((verdict, addresses(&back)), (REDIRECT, (OUTSIDE, 53, A, port)));
            assert!(is_sound(&back));
        }
        // A router on the way says that the port cannot be reached.
        let sent = udp((NODE, taken[0]), (OUTSIDE, 53));
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
        error.extend(&sent[14..42]);
        let field = checksum(sum(&error));
        error[2..4].copy_from_slice(&field.to_be_bytes());
        let (verdict, out) = test_run(&datapath, "net_ingress", &ipv4(ip(198, 51, 100, 1), NODE, 1, &error));
        assert_eq!(verdict, REDIRECT);
        assert_eq!(&out[30..34], &v4(A));
        assert_eq!(&out[54..58], &v4(A));
        assert_eq!(u16::from_be_bytes([out[62], out[63]]), 1000);
        assert_eq!(
            (checksum(sum(&out[14..34])), checksum(sum(&out[34..])), checksum(sum(&out[42..62]))),
            (0, 0, 0)
        );
        // Within the mesh nothing is hidden, and nothing for another cluster leaves in clear.
        let (verdict, out) = test_run(&datapath, "net_egress", &udp((A, 1), (B, 2)));
        assert_eq!((verdict, addresses(&out).0), (NEXT, A));
        assert_eq!(test_run(&datapath, "net_egress", &udp((A, 1), (REMOTE, 2))).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::Unencrypted, Direction::Egress), 1);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn the_tunnel_brings_only_what_belongs_into_it() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let raw = |from, to| udp(from, to)[14..].to_vec();
        let refused = |reason, from, to| {
            let before = dropped(&datapath, reason, Direction::Ingress);
            let verdict = test_run(&datapath, "mesh_ingress", &raw((from, 1), (to, 2))).0;
            assert_eq!((verdict, dropped(&datapath, reason, Direction::Ingress) - before), (DROP, 1));
        };
        for stranger in [OUTSIDE, NODE, B] {
            refused(DropReason::SourceSpoofed, stranger, A);
        }
        refused(DropReason::NoRoute, REMOTE, OUTSIDE);
        assert_eq!(test_run(&datapath, "mesh_ingress", &raw((REMOTE, 1), (NODE, 2))).0, NEXT);
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn parts_of_a_datagram_follow_its_first() {
    on_a_node(|pins| {
        let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let mut later = ipv4(A, B, 17, &[0; 16]);
        later[20..22].copy_from_slice(&[0x00, 0x02]);
        assert_eq!(test_run(&datapath, "pod_egress", &later).0, DROP);
        assert_eq!(dropped(&datapath, DropReason::Fragment, Direction::Egress), 1);
        let mut first = udp((A, 1000), (B, 2000));
        first[20..22].copy_from_slice(&[0x20, 0x00]);
        assert_eq!(test_run(&datapath, "pod_egress", &first).0, REDIRECT);
        assert_eq!(test_run(&datapath, "pod_egress", &later).0, REDIRECT);
    });
}

/// An Ethernet frame with a UDP datagram of four bytes over IPv6.
fn udp_v6(from: (Address, u16), to: (Address, u16)) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.1.to_be_bytes());
    datagram.extend(to.1.to_be_bytes());
    datagram.extend([0, 12, 0, 0]);
    datagram.extend(*b"ping");
    let field = match checksum(sum(&from.0) + sum(&to.0) + 17 + 12 + sum(&datagram)) {
        0 => 0xffff,
        field => field,
    };
    datagram[6..8].copy_from_slice(&field.to_be_bytes());
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 12, 17, 64]);
    frame.extend(from.0);
    frame.extend(to.0);
    frame.extend(datagram);
    frame
}

const fn address_v6(last: u8) -> Address {
    [0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// A node with two pods of IPv6, and a service in front of the second.
fn node_v6(pins: &Path) -> (Datapath, [Address; 3]) {
    let [a, b, vip] = [1, 2, 3].map(address_v6);
    let datapath = node(pins, EndpointFlags::NONE, EndpointFlags::NONE);
    for (address, ifindex, number) in [(a, LOOPBACK, 11), (b, 55, 12)] {
        let value = EndpointValue::new(ifindex, number, 300, EndpointFlags::NONE, POD_MAC, HOST_MAC);
        datapath.maps().endpoint().unwrap().upsert(&AddressKey::new(address), &value).unwrap();
    }
    set_service(&datapath, 1, (vip, 53, 17), &[(b, 5353)]).unwrap();
    (datapath, [a, b, vip])
}

/// The field says "none" by zero, which IPv6 receivers drop (RFC 8200, 8.1).
#[test]
#[ignore = "needs root; 10 s"]
fn a_changed_datagram_of_version_6_keeps_a_checksum() {
    on_a_node(|pins| {
        let (datapath, [a, b, vip]) = node_v6(pins);
        let field = |frame: &[u8]| [frame[60], frame[61]];
        let ports = 1..u16::MAX;
        let summed = |frame: &dyn Fn(u16) -> Vec<u8>| {
            ports.clone().find(|&port| field(&frame(port)) == [0xff; 2]).unwrap()
        };
        let port = summed(&|port| udp_v6((a, port), (b, 5353)));
        let (_, out) = test_run(&datapath, "pod_egress", &udp_v6((a, port), (vip, 53)));
        assert_eq!(field(&out), [0xff; 2], "to the backend");
        let port = summed(&|port| udp_v6((vip, 53), (a, port)));
        test_run(&datapath, "pod_egress", &udp_v6((a, port), (vip, 53)));
        let (_, out) = test_run(&datapath, "pod_ingress", &udp_v6((b, 5353), (a, port)));
        assert_eq!(field(&out), [0xff; 2], "back from the frontend");
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn version_6_is_no_second_copy() {
    on_a_node(|pins| {
        let (datapath, [a, b, vip]) = node_v6(pins);
        let (verdict, out) = test_run(&datapath, "pod_egress", &udp_v6((a, 1000), (vip, 53)));
        let mut expected = udp_v6((a, 1000), (b, 5353));
        expected[..12].copy_from_slice(&out[..12]);
        expected[21] = 63;
        assert_eq!((verdict, out), (REDIRECT, expected));
        let (verdict, out) = test_run(&datapath, "pod_ingress", &udp_v6((b, 5353), (a, 1000)));
        let mut expected = udp_v6((vip, 53), (a, 1000));
        expected[..12].copy_from_slice(&out[..12]);
        assert_eq!((verdict, out), (NEXT, expected));
        // An address of IPv4 in its header is not the one of IPv4.
        for (from, to) in [(A, b), (a, B), (A, B)] {
            assert_eq!(test_run(&datapath, "pod_egress", &udp_v6((from, 1000), (to, 2000))).0, DROP);
        }
        assert_eq!(dropped(&datapath, DropReason::UnknownProtocol, Direction::Egress), 3);
        // Neighbour discovery belongs to the stack, whoever speaks.
        let mut solicitation = udp_v6((a, 1), (b, 2));
        solicitation[20] = 58;
        solicitation[22..24].copy_from_slice(&[0xfe, 0x80]);
        assert_eq!(test_run(&datapath, "pod_egress", &solicitation).0, NEXT);
    });
}
