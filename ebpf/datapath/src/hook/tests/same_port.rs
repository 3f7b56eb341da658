//! One port of a client, used for several connections that come to one backend.

use super::*;

const OTHER_VIP: Address = v4_mapped([10, 96, 0, 11]);
const SYN: u8 = 0x02;

/// Both frontends have this one backend, for TCP and UDP.
fn serve_both(memory: &mut Memory, backend: (Address, u16)) {
    memory.slots.insert(SlotKey::new(1, 0), SlotValue::new(7));
    memory
        .backends
        .insert(BackendKey::new(7), BackendValue::new(backend.0, backend.1, 1, BackendFlags::NONE));
    for vip in [VIP, OTHER_VIP] {
        for number in [protocol::TCP, protocol::UDP] {
            memory
                .services
                .insert(ServiceKey::new(vip, 80, number), ServiceValue::new(1, 1, ServiceFlags::NONE));
        }
    }
}

/// A pod of the node asks, from its port 1000; what comes to the backend.
fn ask(memory: &Memory, number: u8, to: (Address, u16), tcp_flags: u8) -> Frame {
    let mut frame = Frame::new(number, (A, 1000), to, b"?");
    if number == protocol::TCP {
        frame.0[47] = tcp_flags;
    }
    let verdict = from_pod(memory, &mut frame, 1);
    assert!(verdict.is_ok(), "to {to:?}: {verdict:?}");
    assert!(tcp_flags != 0x10 || frame.is_sound());
    frame
}

/// The backend answers, and the client is told by whom.
fn answered_by(memory: &Memory, number: u8, asked: &Frame, device: u32) -> (Address, u16) {
    let mut back = answer(asked, number, b"!");
    assert_eq!(to_pod_number(from_pod(memory, &mut back, device)), Some(1));
    assert!(back.is_sound());
    let (from, to) = back.ends();
    assert_eq!(to, (A, 1000), "the client's own port");
    from
}

#[test]
fn a_backend_is_reached_through_two_frontends_at_once() {
    for number in [protocol::TCP, protocol::UDP] {
        let mut memory = node(EndpointFlags::NONE);
        serve_both(&mut memory, (B, 8080));
        let ends = [VIP, OTHER_VIP].map(|vip| {
            let asked = ask(&memory, number, (vip, 80), SYN);
            assert_eq!(asked.ends().1, (B, 8080));
            assert_eq!(asked.ends().0.0, A);
            asked.ends().0.1
        });
        assert_eq!(ends[0], 1000, "nobody is in its way");
        assert_ne!(ends[1], 1000);
        for _ in 0..3 {
            for (vip, port) in [VIP, OTHER_VIP].into_iter().zip(ends) {
                let asked = ask(&memory, number, (vip, 80), 0x10);
                assert_eq!(asked.ends(), ((A, port), (B, 8080)), "it stays with its port");
                assert_eq!(answered_by(&memory, number, &asked, 2), (vip, 80));
            }
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_two_frontends_at_once() {
    let mut memory = node(EndpointFlags::NONE);
    serve_both(&mut memory, (A, 8080));
    let asked = [VIP, OTHER_VIP].map(|vip| ask(&memory, protocol::UDP, (vip, 80), 0));
    assert_eq!(asked[0].ends(), ((GATEWAY, 1000), (A, 8080)));
    assert_eq!((asked[1].ends().0.0, asked[1].ends().1), (GATEWAY, (A, 8080)));
    for (asked, vip) in asked.iter().zip([VIP, OTHER_VIP]) {
        assert_eq!(answered_by(&memory, protocol::UDP, asked, 1), (vip, 80));
    }
    let again = ask(&memory, protocol::UDP, (OTHER_VIP, 80), 0);
    assert_eq!(again.ends(), asked[1].ends());
}

#[test]
fn a_backend_is_reached_directly_and_through_a_frontend_at_once() {
    for number in [protocol::TCP, protocol::UDP] {
        for order in [[VIP, B], [B, VIP]] {
            let mut memory = node(EndpointFlags::NONE);
            serve_both(&mut memory, (B, 8080));
            let to = |address| (address, if address == B { 8080 } else { 80 });
            let asked = order.map(|address| ask(&memory, number, to(address), SYN));
            assert_eq!(asked[0].ends().0, (A, 1000));
            for (first, address) in asked.iter().zip(order) {
                let again = ask(&memory, number, to(address), 0x10);
                assert_eq!(again.ends(), first.ends(), "it stays with its port");
                assert_eq!(answered_by(&memory, number, &again, 2), to(address));
            }
        }
    }
}

#[test]
fn the_connection_with_the_other_port_keeps_it_when_its_own_becomes_free() {
    let mut memory = node(EndpointFlags::NONE);
    serve_both(&mut memory, (B, 8080));
    ask(&memory, protocol::UDP, (VIP, 80), 0);
    let direct = ask(&memory, protocol::UDP, (B, 8080), 0);
    let translated = ask(&memory, protocol::UDP, (OTHER_VIP, 80), 0);
    for _ in 0..5 {
        // The one that has the port is silent, and forgotten in the end.
        memory.now.set(memory.now.get() + 50 * SECOND);
        let again = ask(&memory, protocol::UDP, (B, 8080), 0);
        assert_eq!(again.ends(), direct.ends());
        assert_eq!(answered_by(&memory, protocol::UDP, &again, 2), (B, 8080));
        let again = ask(&memory, protocol::UDP, (OTHER_VIP, 80), 0);
        assert_eq!(again.ends(), translated.ends());
    }
}

#[test]
fn who_has_the_given_port_already_is_another_client() {
    let mut memory = node(EndpointFlags::NONE);
    serve_both(&mut memory, (B, 8080));
    ask(&memory, protocol::UDP, (VIP, 80), 0);
    let given = ask(&memory, protocol::UDP, (OTHER_VIP, 80), 0).ends().0.1;
    for (vip, port) in [(VIP, 80), (OTHER_VIP, 80), (B, 8080)] {
        let mut frame = Frame::new(protocol::UDP, (A, given), (vip, port), b"?");
        assert_eq!(to_pod_number(from_pod(&memory, &mut frame, 1)), Some(2));
        assert_eq!(frame.ends().1, (B, 8080));
        assert_ne!(frame.ends().0.1, given);
        let mut back = answer(&frame, protocol::UDP, b"!");
        assert_eq!(to_pod_number(from_pod(&memory, &mut back, 2)), Some(1));
        assert_eq!(back.ends(), ((vip, port), (A, given)));
    }
}

#[test]
fn a_given_port_is_masqueraded_like_any_other() {
    let mut memory = node(EndpointFlags::INGRESS_ENFORCED);
    serve_both(&mut memory, (OUTSIDE, 443));
    let reached = [VIP, OTHER_VIP].map(|vip| {
        let mut frame = ask(&memory, protocol::UDP, (vip, 80), 0);
        assert_eq!(to_net(&memory, &mut frame), Ok(Verdict::Pass));
        assert_eq!((frame.ends().0.0, frame.ends().1), (NODE, (OUTSIDE, 443)));
        frame
    });
    assert_ne!(reached[0].ends(), reached[1].ends());
    for (frame, vip) in reached.iter().zip([VIP, OTHER_VIP]) {
        let mut back = answer(frame, protocol::UDP, b"!");
        assert_eq!(to_pod_number(from_net(&memory, &mut back)), Some(1));
        assert_eq!(back.ends(), ((vip, 80), (A, 1000)));
        assert!(back.is_sound());
    }
}

/// An ICMP error of `from` to the sender of what came to it.
fn refuse(from: Address, asked: &Frame) -> Frame {
    let mut error = Frame::new(protocol::ICMP, (from, 0), (asked.ends().0.0, 0), &asked.0[14..]);
    error.0[34..38].copy_from_slice(&[3, 3, 0, 0]);
    let sum = crate::testing::full_checksum(&error.0[34..]);
    error.0[36..38].copy_from_slice(&sum);
    error
}

/// Whom the packet is about that an ICMP error holds.
fn subject(error: &Frame) -> ((Address, u16), (Address, u16)) {
    assert!(error.is_sound());
    let mut inner = vec![0; 14];
    inner.extend(&error.0[42..]);
    Frame(inner).ends()
}

#[test]
fn errors_find_their_client_and_its_backend() {
    for (vip, port) in [(OTHER_VIP, 80), (B, 8080)] {
        let mut memory = node(EndpointFlags::NONE);
        serve_both(&mut memory, (B, 8080));
        ask(&memory, protocol::UDP, (VIP, 80), 0);
        let asked = ask(&memory, protocol::UDP, (vip, port), 0);
        assert_ne!(asked.ends().0.1, 1000);
        let mut refused = refuse(B, &asked);
        assert_eq!(to_pod_number(from_pod(&memory, &mut refused, 2)), Some(1));
        assert_eq!(subject(&refused), ((A, 1000), (vip, port)));
        // And back: the client does not listen any more.
        let mut back = answer(&asked, protocol::UDP, b"!");
        assert_eq!(to_pod_number(from_pod(&memory, &mut back, 2)), Some(1));
        let mut refused = refuse(A, &back);
        assert_eq!(to_pod_number(from_pod(&memory, &mut refused, 1)), Some(2));
        assert_eq!(subject(&refused), ((B, 8080), asked.ends().0));
    }
}

#[test]
fn parts_of_a_datagram_follow_its_first_through_a_given_port() {
    for (vip, port) in [(OTHER_VIP, 80), (B, 8080)] {
        let mut memory = node(EndpointFlags::NONE);
        serve_both(&mut memory, (B, 8080));
        ask(&memory, protocol::UDP, (VIP, 80), 0);
        let mut first = Frame::new(protocol::UDP, (A, 1000), (vip, port), b"12345678");
        let mut later = first.clone();
        (first.0[20], later.0[21]) = (0x20, 2);
        assert_eq!(to_pod_number(from_pod(&memory, &mut first, 1)), Some(2));
        assert_ne!(first.ends().0.1, 1000);
        let before = later.0[34..].to_vec();
        assert_eq!(to_pod_number(from_pod(&memory, &mut later, 1)), Some(2));
        assert_eq!((&later.0[30..34], &later.0[34..]), (&B[12..], &before[..]), "no ports in this one");
    }
}

#[test]
fn both_connections_end_with_the_rule_that_let_them_in() {
    let mut memory = node(EndpointFlags::INGRESS_ENFORCED);
    memory.policy_epoch = 1;
    serve_both(&mut memory, (B, 8080));
    let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
    let rule = PolicyKey::port(2, Direction::Ingress, protocol::UDP, 8080);
    memory.rules.insert(rule, any);
    let asked = [VIP, OTHER_VIP, B].map(|to| {
        let port = if to == B { 8080 } else { 80 };
        ask(&memory, protocol::UDP, (to, port), 0)
    });
    let answers = |memory: &Memory| {
        asked.each_ref().map(|frame| {
            let mut back = answer(frame, protocol::UDP, b"!");
            to_pod_number(from_pod(memory, &mut back, 2)).is_some()
        })
    };
    assert_eq!(answers(&memory), [true; 3]);
    memory.policy_epoch += 1;
    assert_eq!(answers(&memory), [true; 3]);
    memory.rules.remove(&rule);
    memory.policy_epoch += 1;
    assert_eq!(answers(&memory), [false; 3]);
    for (to, port) in [(VIP, 80), (OTHER_VIP, 80), (B, 8080)] {
        let mut frame = Frame::new(protocol::UDP, (A, 1000), (to, port), b"?");
        assert_eq!(from_pod(&memory, &mut frame, 1), Err(DropReason::PolicyDenied));
    }
}

#[test]
fn connections_of_a_pod_that_is_gone_are_in_nobodys_way() {
    let mut memory = node(EndpointFlags::NONE);
    serve_both(&mut memory, (B, 8080));
    for number in [1, 21, 22] {
        let pod = EndpointValue::new(1, number, 301, EndpointFlags::NONE, [2; 6], [4; 6]);
        memory.endpoints.insert(AddressKey::new(A), pod);
        let (vip, port) = if number == 21 { (OTHER_VIP, 80) } else { (VIP, 80) };
        let asked = ask(&memory, protocol::UDP, (vip, port), 0);
        assert_eq!(asked.ends(), ((A, 1000), (B, 8080)), "pod {number}");
        let mut back = answer(&asked, protocol::UDP, b"!");
        assert_eq!(to_pod_number(from_pod(&memory, &mut back, 2)), Some(number));
        assert_eq!(back.ends().0, (vip, port));
    }
}

#[test]
fn without_a_port_there_is_nothing_to_give_back() {
    let mut memory = node(EndpointFlags::NONE);
    serve_both(&mut memory, (B, 8080));
    let send = |to| from_pod(&memory, &mut Frame::new(protocol::UDP, (A, 0), (to, 80), b"?"), 1);
    assert_eq!(to_pod_number(send(VIP)), Some(2));
    assert_eq!(send(OTHER_VIP), Err(DropReason::TranslationConflict));
}
