//! The hooks on packets in memory.

mod judged;
mod limit;
mod masquerading;
mod same_port;

use proptest::prelude::*;
use tombolo_abi::{
    Address, AddressFlags, AddressKey, AddressValue, BackendFlags, BackendKey, BackendValue, Bitmap,
    ConfigBuilder, ConfigFlags, Direction, DropReason, EndpointFlags, EndpointValue, FlowFlags, NatPorts,
    NatTimeouts, PolicyKey, PolicyValue, PrefixKey, Scope, ServiceFlags, ServiceKey, ServiceValue, SlotKey,
    SlotValue, SnatValue, identity, protocol, v4_mapped,
};

use super::{mesh_ingress, net_egress, net_ingress, pod_egress, pod_ingress};
use crate::{
    Headers, Link, Report, Translation, Verdict, classify,
    testing::{Frame, Memory},
};

const A: Address = v4_mapped([10, 1, 0, 1]);
const B: Address = v4_mapped([10, 1, 0, 2]);
const VIP: Address = v4_mapped([10, 96, 0, 10]);
const NODE: Address = v4_mapped([192, 168, 0, 1]);
const GATEWAY: Address = v4_mapped([169, 254, 1, 1]);
const OUTSIDE: Address = v4_mapped([203, 0, 113, 9]);
const REMOTE: Address = v4_mapped([10, 2, 0, 1]);
const SECOND: u64 = 1_000_000_000;

const CONFIG: ConfigBuilder = ConfigBuilder {
    node_v4: NODE,
    node_v6: [0; 16],
    gateway_v4: GATEWAY,
    gateway_v6: [0; 16],
    tunnel_ifindex: 9,
    nat_ports: NatPorts::new((61000, 61001), (61002, 61003)),
    nat_timeouts: NatTimeouts::DEFAULT,
    connection_limit: 0,
    flags: ConfigFlags::MASQUERADE.with(ConfigFlags::SERVICES),
};

type Decided<'t> = Result<Verdict<'t>, DropReason>;

/// A node with pods A (device 1) and B (device 2), both enforced as told.
fn node(flags: EndpointFlags) -> Memory {
    let mut memory = Memory::default();
    memory.now.set(1000 * SECOND);
    memory.config = CONFIG.build();
    for (address, number) in [(A, 1), (B, 2)] {
        let pod = EndpointValue::new(number, number, 300 + number, flags, [2; 6], [4; 6]);
        memory.endpoints.insert(AddressKey::new(address), pod);
        let owner = AddressValue::new(300 + number, AddressFlags::NO_MASQUERADE);
        memory.addresses.insert(AddressKey::new(address), owner);
    }
    memory.addresses.insert(AddressKey::new(NODE), AddressValue::new(identity::HOST, AddressFlags::HOST));
    memory.addresses.insert(AddressKey::new(REMOTE), AddressValue::new(400, AddressFlags::TUNNEL));
    memory
}

fn serve(memory: &mut Memory, number: u8, backends: &[(Address, u16)]) {
    let count = u32::try_from(backends.len()).unwrap();
    memory.services.insert(ServiceKey::new(VIP, 80, number), ServiceValue::new(1, count, ServiceFlags::NONE));
    for (slot, (address, port)) in (0..).zip(backends) {
        memory.slots.insert(SlotKey::new(1, slot), SlotValue::new(slot));
        memory
            .backends
            .insert(BackendKey::new(slot), BackendValue::new(*address, *port, 1, BackendFlags::NONE));
    }
}

fn headers(memory: &Memory, frame: &Frame) -> Headers {
    let mut headers = Headers::default();
    assert_eq!(classify(frame, memory, Link::Ethernet, &mut headers), Ok(true));
    headers
}

fn from_pod<'t>(memory: &'t Memory, frame: &mut Frame, ifindex: u32) -> Decided<'t> {
    let mut headers = headers(memory, frame);
    pod_egress(frame, memory, &mut headers, &mut Report::default(), &mut Translation::none(), ifindex)
}

fn to_net<'t>(memory: &'t Memory, frame: &mut Frame) -> Decided<'t> {
    let mut headers = headers(memory, frame);
    net_egress(frame, memory, &mut headers, &mut Report::default())
}

fn from_net<'t>(memory: &'t Memory, frame: &mut Frame) -> Decided<'t> {
    let mut headers = headers(memory, frame);
    net_ingress(frame, memory, &mut headers, &mut Report::default())
}

fn to_pod_number(decided: Decided<'_>) -> Option<u32> {
    if let Ok(Verdict::ToPod(pod)) = decided { Some(pod.endpoint()) } else { None }
}

fn answer(frame: &Frame, number: u8, payload: &[u8]) -> Frame {
    let (from, to) = frame.ends();
    Frame::new(number, to, from, payload)
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), raw in any::<bool>(), v6 in any::<bool>()) {
        let memory = node(EndpointFlags::NONE);
        let mut bytes = bytes;
        let version = if raw { 0 } else { 14 };
        if !raw && bytes.len() > 14 {
            bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        }
        if let Some(byte) = bytes.get_mut(version) {
            *byte = if v6 { 0x60 } else { 0x45 + (*byte & 1) };
        }
        every_hook(&memory, &Frame(bytes), if raw { Link::Raw } else { Link::Ethernet });
    }

    #[test]
    fn no_damage_panics(number in prop::sample::select(&[protocol::TCP, protocol::UDP, protocol::ICMP][..]),
                        at in 14usize..54, value in any::<u8>(), len in 14usize..80) {
        let mut memory = node(EndpointFlags::NONE);
        serve(&mut memory, number, &[(B, 8080)]);
        let mut frame = Frame::new(number, (A, 1000), (VIP, 80), b"payload of some bytes");
        if let Some(byte) = frame.0.get_mut(at) {
            *byte = value;
        }
        frame.0.truncate(len);
        every_hook(&memory, &frame, Link::Ethernet);
    }

    #[test]
    fn translation_and_back_is_nothing(number in prop::sample::select(&[protocol::TCP, protocol::UDP][..]),
                                       port in 1u16.., backend_port in 1u16.., payload in prop::collection::vec(any::<u8>(), 0..40),
                                       to_itself in any::<bool>()) {
        there_and_back(number, port, backend_port, &payload, to_itself);
    }

    #[test]
    fn masquerading_and_back_is_nothing(number in prop::sample::select(&[protocol::TCP, protocol::UDP, protocol::ICMP][..]),
                                        port in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..40)) {
        let memory = node(EndpointFlags::INGRESS_ENFORCED);
        let mut frame = Frame::new(number, (A, port), (OUTSIDE, 443), &payload);
        prop_assert_eq!(from_pod(&memory, &mut frame, 1), Ok(Verdict::ToUnderlay));
        prop_assert_eq!(to_net(&memory, &mut frame), Ok(Verdict::Pass));
        let ((source, snat_port), _) = frame.ends();
        prop_assert_eq!(source, NODE);
        prop_assert!((61000..=61003).contains(&snat_port) && frame.is_sound());
        let mut back = answer(&frame, number, &payload);
        prop_assert_eq!(to_pod_number(from_net(&memory, &mut back)), Some(1));
        prop_assert_eq!(back.ends().1, (A, port));
        prop_assert!(back.is_sound());
    }
}

fn there_and_back(number: u8, port: u16, backend_port: u16, payload: &[u8], to_itself: bool) {
    let mut memory = node(EndpointFlags::NONE);
    let (backend, device) = if to_itself { (A, 1) } else { (B, 2) };
    serve(&mut memory, number, &[(backend, backend_port)]);
    let mut frame = Frame::new(number, (A, port), (VIP, 80), payload);
    assert_eq!(to_pod_number(from_pod(&memory, &mut frame, 1)), Some(device));
    let client = if to_itself { GATEWAY } else { A };
    assert_eq!(frame.ends(), ((client, port), (backend, backend_port)));
    assert!(frame.is_sound());
    let mut back = answer(&frame, number, payload);
    assert_eq!(to_pod_number(from_pod(&memory, &mut back, device)), Some(1));
    assert_eq!(back.ends(), ((VIP, 80), (A, port)));
    assert!(back.is_sound());
}

#[test]
fn an_answer_whose_checksum_comes_to_zero_is_translated() {
    let payload =
        [32, 86, 32, 167, 209, 62, 107, 116, 7, 152, 214, 124, 186, 38, 172, 247, 204, 149, 125, 240];
    there_and_back(protocol::UDP, 13402, 2289, &payload, true);
}

fn every_hook(memory: &Memory, frame: &Frame, link: Link) {
    for hook in 0..5 {
        let (mut frame, mut headers, mut report) = (frame.clone(), Headers::default(), Report::default());
        if classify(&frame, memory, link, &mut headers) != Ok(true) {
            continue;
        }
        let _ = match hook {
            0 => pod_egress(&mut frame, memory, &mut headers, &mut report, &mut Translation::none(), 1),
            1 => pod_ingress(&mut frame, memory, &mut headers, &mut report, 1),
            2 => net_ingress(&mut frame, memory, &mut headers, &mut report),
            3 => net_egress(&mut frame, memory, &mut headers, &mut report),
            _ => mesh_ingress(&mut frame, memory, &mut headers, &mut report),
        };
    }
}

#[test]
fn a_connection_stays_with_its_backend_while_there_is_one() {
    let mut memory = node(EndpointFlags::NONE);
    serve(&mut memory, protocol::UDP, &[(B, 1), (REMOTE, 2)]);
    let chosen = |memory: &Memory| {
        let mut frame = Frame::new(protocol::UDP, (A, 1000), (VIP, 80), b"");
        assert!(from_pod(memory, &mut frame, 1).is_ok());
        frame.ends().1
    };
    let first = chosen(&memory);
    for _ in 0..10 {
        assert_eq!(chosen(&memory), first);
    }
    let other = if first == (B, 1) { (REMOTE, 2) } else { (B, 1) };
    serve(&mut memory, protocol::UDP, &[other]);
    memory.backends.remove(&BackendKey::new(1));
    for _ in 0..10 {
        assert_eq!(chosen(&memory), other);
    }
}

#[test]
fn answers_pass_until_the_connection_is_forgotten() {
    let mut memory = node(EndpointFlags::INGRESS_ENFORCED);
    let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
    memory.rules.insert(PolicyKey::port(2, Direction::Ingress, protocol::UDP, 53), any);
    let ask = || Frame::new(protocol::UDP, (A, 1000), (B, 53), b"");
    let back = || Frame::new(protocol::UDP, (B, 53), (A, 1000), b"");
    assert_eq!(from_pod(&memory, &mut back(), 2), Err(DropReason::PolicyDenied));
    assert_eq!(to_pod_number(from_pod(&memory, &mut ask(), 1)), Some(2));
    // Longer than the lifetime of one that nobody has answered, twice: each answer begins it anew.
    for wait in [0, 170, 170] {
        memory.now.set(memory.now.get() + wait * SECOND);
        assert_eq!(to_pod_number(from_pod(&memory, &mut back(), 2)), Some(1), "after {wait} s");
    }
    memory.now.set(memory.now.get() + 190 * SECOND);
    assert_eq!(from_pod(&memory, &mut back(), 2), Err(DropReason::PolicyDenied));
}

#[test]
fn a_tcp_connection_is_known_for_hours_and_a_closed_one_for_seconds() {
    let mut memory = node(EndpointFlags::INGRESS_ENFORCED);
    let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
    memory.rules.insert(PolicyKey::port(2, Direction::Ingress, protocol::TCP, 80), any);
    let with_flags = |from, to, flags| {
        let mut frame = Frame::new(protocol::TCP, from, to, b"");
        frame.0[47] = flags;
        frame
    };
    let (ack, fin, rst) = (0x10, 0x11, 0x04);
    let ask = |flags| from_pod(&memory, &mut with_flags((A, 1000), (B, 80), flags), 1);
    let back = |flags| from_pod(&memory, &mut with_flags((B, 80), (A, 1000), flags), 2);
    let wait = |seconds| memory.now.set(memory.now.get() + seconds * SECOND);
    assert_eq!(to_pod_number(ask(0x02)), Some(2));
    assert_eq!(to_pod_number(back(0x12)), Some(1));
    // The usual keep-alive comes after two hours.
    wait(7300);
    assert_eq!(to_pod_number(back(ack)), Some(1));
    // With one side closed the other one may still have much to say.
    assert_eq!(to_pod_number(ask(fin)), Some(2));
    wait(7300);
    assert_eq!(to_pod_number(back(ack)), Some(1));
    assert_eq!(to_pod_number(back(fin)), Some(1));
    wait(5);
    assert_eq!(to_pod_number(back(ack)), Some(1));
    wait(11);
    assert_eq!(back(ack), Err(DropReason::PolicyDenied));
    // Opened once more, and reset.
    assert_eq!(to_pod_number(ask(0x02)), Some(2));
    assert_eq!(to_pod_number(back(rst)), Some(1));
    wait(11);
    assert_eq!(back(ack), Err(DropReason::PolicyDenied));
}

#[test]
fn the_longest_prefix_decides_where_no_entry_for_the_address_does() {
    let mut memory = node(EndpointFlags::NONE);
    let prefix = |third, len| PrefixKey::new(v4_mapped([10, 2, third, 0]), len);
    memory.prefixes.insert(prefix(0, 112), AddressValue::new(identity::INIT, AddressFlags::TUNNEL));
    memory.prefixes.insert(prefix(7, 120), AddressValue::new(310, AddressFlags::NO_MASQUERADE));
    let send = |to| from_pod(&memory, &mut Frame::new(protocol::UDP, (A, 1000), (to, 53), b""), 1);
    assert_eq!(send(v4_mapped([10, 2, 6, 9])), Ok(Verdict::ToTunnel(9)));
    assert_eq!(send(v4_mapped([10, 2, 7, 9])), Ok(Verdict::ToUnderlay));
    assert_eq!(send(v4_mapped([10, 3, 0, 1])), Ok(Verdict::ToUnderlay));
    assert_eq!(send(REMOTE), Ok(Verdict::ToTunnel(9)));
}

#[test]
fn without_a_hop_left_the_stack_answers() {
    let memory = node(EndpointFlags::NONE);
    let mut frame = Frame::new(protocol::UDP, (A, 1000), (B, 53), b"");
    frame.0[22] = 1;
    assert_eq!(from_pod(&memory, &mut frame, 1), Ok(Verdict::Pass));
    assert_eq!(frame.0[22], 1);
}

#[test]
fn a_port_used_for_a_service_can_be_used_again_without_it() {
    let mut memory = node(EndpointFlags::NONE);
    serve(&mut memory, protocol::TCP, &[(B, 8080)]);
    let tcp = |from, to, flags| {
        let mut frame = Frame::new(protocol::TCP, from, to, b"");
        frame.0[47] = flags;
        frame
    };
    let (syn, rst) = (0x02, 0x04);
    assert_eq!(to_pod_number(from_pod(&memory, &mut tcp((A, 1000), (VIP, 80), syn), 1)), Some(2));
    assert_eq!(to_pod_number(from_pod(&memory, &mut tcp((B, 8080), (A, 1000), rst), 2)), Some(1));
    let mut direct = tcp((A, 1000), (B, 8080), syn);
    assert_eq!(to_pod_number(from_pod(&memory, &mut direct, 1)), Some(2));
    assert_eq!(direct.ends().0, (A, 1000), "nobody is in its way any more");
    let mut back = tcp((B, 8080), (A, 1000), 0x12);
    assert_eq!(to_pod_number(from_pod(&memory, &mut back, 2)), Some(1));
    assert_eq!(back.ends().0, (B, 8080));
}

#[test]
fn a_clock_that_is_a_tick_behind_decides_nothing() {
    let mut memory = node(EndpointFlags::INGRESS_ENFORCED);
    let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
    memory.rules.insert(PolicyKey::port(2, Direction::Ingress, protocol::UDP, 53), any);
    let tick = SECOND / 250;
    let ask = || from_pod(&memory, &mut Frame::new(protocol::UDP, (A, 1000), (B, 53), b""), 1);
    let back = || from_pod(&memory, &mut Frame::new(protocol::UDP, (B, 53), (A, 1000), b""), 2);
    assert_eq!(to_pod_number(ask()), Some(2));
    // Another CPU has read the clock before, and gets here after.
    memory.now.set(memory.now.get() - tick);
    assert_eq!(to_pod_number(back()), Some(1));
    let seen = |memory: &Memory| memory.flows.borrow().values().next().unwrap().last_seen();
    assert_eq!(seen(&memory), memory.now.get() + tick, "the later time stays");
}

#[test]
fn a_pod_may_always_send_to_its_own_node() {
    let memory = node(EndpointFlags::EGRESS_ENFORCED);
    let send = |to| from_pod(&memory, &mut Frame::new(protocol::UDP, (A, 1000), (to, 53), b""), 1);
    assert_eq!(send(NODE), Ok(Verdict::Pass));
    assert_eq!(send(OUTSIDE), Err(DropReason::PolicyDenied));
    assert_eq!(send(B), Err(DropReason::PolicyDenied));
}

#[test]
fn a_pod_reaches_itself_beside_a_connection_to_itself_with_the_same_ports() {
    let mut memory = node(EndpointFlags::NONE);
    serve(&mut memory, protocol::UDP, &[(A, 8080)]);
    // Through the service it is seen as the gateway, so this one is not in the way.
    let mut direct = Frame::new(protocol::UDP, (A, 1000), (A, 8080), b"");
    assert_eq!(to_pod_number(from_pod(&memory, &mut direct, 1)), Some(1));
    let mut frame = Frame::new(protocol::UDP, (A, 1000), (VIP, 80), b"");
    assert_eq!(to_pod_number(from_pod(&memory, &mut frame, 1)), Some(1));
}
