//! Running connections when policies change, and when their pod goes: UDP, since nothing tells when it ends.

use super::*;

const ALL_ENFORCED: EndpointFlags = EndpointFlags::INGRESS_ENFORCED.with(EndpointFlags::EGRESS_ENFORCED);

fn udp(from: (Address, u16), to: (Address, u16)) -> Frame {
    Frame::new(protocol::UDP, from, to, b"")
}

/// Both pods enforced, and the first epoch of policies.
fn enforced() -> Memory {
    let mut memory = node(ALL_ENFORCED);
    memory.policy_epoch = 1;
    memory
}

fn allow(memory: &mut Memory, key: PolicyKey) {
    memory.rules.insert(key, PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY));
}

/// The rule is gone, as the agent tells the programs.
fn close(memory: &mut Memory, key: &PolicyKey) {
    memory.rules.remove(key).unwrap();
    memory.policy_epoch += 1;
}

fn into_pod(memory: &Memory, frame: &mut Frame, ifindex: u32) -> bool {
    let mut headers = headers(memory, frame);
    pod_ingress(frame, memory, &mut headers, &mut Report::default(), ifindex).is_ok()
}

#[test]
fn replies_end_with_the_rule_that_let_the_pod_ask() {
    let mut memory = enforced();
    let egress = PolicyKey::port(1, Direction::Egress, protocol::UDP, 53);
    allow(&mut memory, egress);
    assert_eq!(from_pod(&memory, &mut udp((A, 1000), (OUTSIDE, 53)), 1), Ok(Verdict::ToUnderlay));
    // From here on only the other side sends.
    let answered = |memory: &Memory| into_pod(memory, &mut udp((OUTSIDE, 53), (A, 1000)), 1);
    assert!(answered(&memory));
    memory.policy_epoch += 1;
    assert!(answered(&memory), "the rule is still there");
    assert!(answered(&memory));
    close(&mut memory, &egress);
    assert!(!answered(&memory));
    allow(&mut memory, egress);
    assert!(answered(&memory), "what was denied was not noted");
}

#[test]
fn replies_end_with_the_rule_that_let_the_client_in() {
    let mut memory = enforced();
    let ingress = PolicyKey::port(2, Direction::Ingress, protocol::UDP, 53);
    allow(&mut memory, ingress);
    assert!(into_pod(&memory, &mut udp((OUTSIDE, 1000), (B, 53)), 2));
    let answer = |memory: &Memory| from_pod(memory, &mut udp((B, 53), (OUTSIDE, 1000)), 2).is_ok();
    assert!(answer(&memory));
    close(&mut memory, &ingress);
    assert!(!answer(&memory));
}

#[test]
fn between_two_pods_the_rules_of_both_are_asked_again() {
    for (pod, direction) in [(1, Direction::Egress), (2, Direction::Ingress)] {
        let mut memory = enforced();
        let (egress, ingress) = (PolicyKey::any(1, Direction::Egress), PolicyKey::any(2, Direction::Ingress));
        allow(&mut memory, egress);
        allow(&mut memory, ingress);
        let ask = |memory: &Memory| to_pod_number(from_pod(memory, &mut udp((A, 1000), (B, 53)), 1));
        let back = |memory: &Memory| to_pod_number(from_pod(memory, &mut udp((B, 53), (A, 1000)), 2));
        assert_eq!((ask(&memory), back(&memory)), (Some(2), Some(1)));
        memory.policy_epoch += 1;
        assert_eq!((back(&memory), ask(&memory)), (Some(1), Some(2)));
        close(&mut memory, &PolicyKey::any(pod, direction));
        assert_eq!((back(&memory), ask(&memory)), (None, None), "{pod}");
    }
}

#[test]
fn replies_of_a_service_are_judged_by_its_backend() {
    let mut memory = enforced();
    serve(&mut memory, protocol::UDP, &[(REMOTE, 5353)]);
    let egress = PolicyKey::port(1, Direction::Egress, protocol::UDP, 5353);
    allow(&mut memory, egress);
    assert_eq!(from_pod(&memory, &mut udp((A, 1000), (VIP, 80)), 1), Ok(Verdict::ToTunnel(9)));
    let answered = |memory: &Memory| into_pod(memory, &mut udp((REMOTE, 5353), (A, 1000)), 1);
    memory.policy_epoch += 1;
    assert!(answered(&memory));
    close(&mut memory, &egress);
    assert!(!answered(&memory));
}

#[test]
fn an_error_about_a_connection_is_judged_as_the_connection() {
    let mut memory = enforced();
    let egress = PolicyKey::port(1, Direction::Egress, protocol::UDP, 53);
    allow(&mut memory, egress);
    let mut asked = udp((A, 1000), (OUTSIDE, 53));
    assert_eq!(from_pod(&memory, &mut asked.clone(), 1), Ok(Verdict::ToUnderlay));
    asked.0.drain(..14);
    let error = |memory: &Memory| {
        let mut frame = Frame::new(protocol::ICMP, (OUTSIDE, 0), (A, 0), &asked.0);
        frame.0[34] = 3;
        into_pod(memory, &mut frame, 1)
    };
    assert!(error(&memory));
    memory.policy_epoch += 1;
    assert!(error(&memory));
    close(&mut memory, &egress);
    assert!(!error(&memory));
}

#[test]
fn an_error_of_a_router_follows_the_connection_it_is_about() {
    const ROUTER: Address = v4_mapped([198, 51, 100, 1]);
    let mut memory = enforced();
    let mut selected = Bitmap::EMPTY;
    selected.set(9);
    memory.addresses.insert(AddressKey::new(OUTSIDE), AddressValue::new(500, AddressFlags::NO_MASQUERADE));
    memory.identities.insert(500, selected);
    let egress = PolicyKey::port(1, Direction::Egress, protocol::UDP, 53);
    memory.rules.insert(egress, PolicyValue::new(selected, Bitmap::EMPTY));
    let mut asked = udp((A, 1000), (OUTSIDE, 53));
    assert!(from_pod(&memory, &mut asked.clone(), 1).is_ok());
    asked.0.drain(..14);
    let error = |memory: &Memory| {
        let mut frame = Frame::new(protocol::ICMP, (ROUTER, 0), (A, 0), &asked.0);
        frame.0[34] = 3;
        to_pod_number(from_net(memory, &mut frame))
    };
    memory.policy_epoch += 1;
    assert_eq!(error(&memory), Some(1));
    close(&mut memory, &egress);
    assert_eq!(error(&memory), None);
}

#[test]
fn the_rules_of_a_pod_are_asked_again_where_others_were_not() {
    let mut memory = enforced();
    let egress = PolicyKey::any(1, Direction::Egress);
    allow(&mut memory, egress);
    allow(&mut memory, PolicyKey::any(2, Direction::Ingress));
    let ask = |memory: &Memory| to_pod_number(from_pod(memory, &mut udp((A, 1000), (B, 53)), 1));
    assert_eq!(ask(&memory), Some(2));
    close(&mut memory, &egress);
    // A packet of the connection by the stack, where only the rules of B are asked.
    assert!(into_pod(&memory, &mut udp((A, 1000), (B, 53)), 2));
    assert_eq!(ask(&memory), None);
}

#[test]
fn a_port_used_through_a_service_is_used_again_without_it_in_the_same_epoch() {
    let mut memory = node(EndpointFlags::NONE);
    memory.policy_epoch = 1;
    serve(&mut memory, protocol::TCP, &[(B, 8080)]);
    let tcp = |from, to, flags| {
        let mut frame = Frame::new(protocol::TCP, from, to, b"");
        frame.0[47] = flags;
        frame
    };
    assert_eq!(to_pod_number(from_pod(&memory, &mut tcp((A, 1000), (VIP, 80), 0x02), 1)), Some(2));
    assert_eq!(to_pod_number(from_pod(&memory, &mut tcp((B, 8080), (A, 1000), 0x14), 2)), Some(1));
    assert_eq!(to_pod_number(from_pod(&memory, &mut tcp((A, 1000), (B, 8080), 0x02), 1)), Some(2));
    let mut answer = tcp((B, 8080), (A, 1000), 0x12);
    assert_eq!(to_pod_number(from_pod(&memory, &mut answer, 2)), Some(1));
    assert_eq!(answer.ends().0, (B, 8080));
}

#[test]
fn the_own_node_is_answered_whatever_the_policies_are() {
    let mut memory = enforced();
    assert!(into_pod(&memory, &mut udp((NODE, 1000), (B, 53)), 2));
    assert_eq!(from_pod(&memory, &mut udp((A, 1000), (NODE, 53)), 1), Ok(Verdict::Pass));
    memory.policy_epoch += 1;
    assert_eq!(from_pod(&memory, &mut udp((B, 53), (NODE, 1000)), 2), Ok(Verdict::Pass));
    assert!(into_pod(&memory, &mut udp((NODE, 53), (A, 1000)), 1));
}

#[test]
fn nothing_stays_judged_without_an_epoch() {
    let mut memory = enforced();
    memory.policy_epoch = 0;
    let ingress = PolicyKey::any(2, Direction::Ingress);
    allow(&mut memory, ingress);
    assert!(into_pod(&memory, &mut udp((OUTSIDE, 1000), (B, 53)), 2));
    memory.rules.clear();
    assert!(!into_pod(&memory, &mut udp((OUTSIDE, 1000), (B, 53)), 2));
}

/// Another pod has the address of A.
fn replace_pod(memory: &mut Memory) {
    let pod = EndpointValue::new(1, 7, 307, ALL_ENFORCED, [2; 6], [4; 6]);
    memory.endpoints.insert(AddressKey::new(A), pod);
}

#[test]
fn a_pod_inherits_no_connection_of_one_that_had_its_address() {
    let mut memory = enforced();
    allow(&mut memory, PolicyKey::any(1, Direction::Egress));
    assert_eq!(from_pod(&memory, &mut udp((A, 1000), (OUTSIDE, 53)), 1), Ok(Verdict::ToUnderlay));
    assert!(into_pod(&memory, &mut udp((OUTSIDE, 53), (A, 1000)), 1));
    replace_pod(&mut memory);
    assert!(!into_pod(&memory, &mut udp((OUTSIDE, 53), (A, 1000)), 1));
    // It may send there itself, and is answered then.
    allow(&mut memory, PolicyKey::any(7, Direction::Egress));
    assert!(!into_pod(&memory, &mut udp((OUTSIDE, 53), (A, 1000)), 1));
    assert_eq!(from_pod(&memory, &mut udp((A, 1000), (OUTSIDE, 53)), 1), Ok(Verdict::ToUnderlay));
    assert!(into_pod(&memory, &mut udp((OUTSIDE, 53), (A, 1000)), 1));
}

#[test]
fn a_pod_inherits_no_port_of_one_that_had_its_address() {
    let mut memory = enforced();
    for pod in [1, 7] {
        allow(&mut memory, PolicyKey::any(pod, Direction::Egress));
    }
    let leave = |memory: &Memory| {
        let mut frame = udp((A, 1000), (OUTSIDE, 53));
        assert_eq!(from_pod(memory, &mut frame, 1), Ok(Verdict::ToUnderlay));
        to_net(memory, &mut frame).map(|_| frame.ends().0.1)
    };
    let port = leave(&memory).unwrap();
    // A version before has not noted whose it is.
    for value in memory.snat.borrow_mut().values_mut() {
        *value = SnatValue::new(value.last_seen(), value.address(), value.port(), value.flags(), 0);
    }
    assert_eq!(leave(&memory), Ok(port));
    replace_pod(&mut memory);
    let answer = |port| udp((OUTSIDE, 53), (NODE, port));
    assert_eq!(
        from_net(&memory, &mut answer(port)),
        Ok(Verdict::Pass),
        "the stack says that nobody is there"
    );
    assert!(memory.snat.borrow().values().all(|entry| entry.endpoint() == 1));
    // What the pod itself sends takes a port of its own, and does not wait for the old one's end.
    let mut ports: Vec<u16> = (0..4).map(|_| leave(&memory).unwrap()).collect();
    ports.dedup();
    assert_eq!(ports.len(), 1);
    assert_eq!(to_pod_number(from_net(&memory, &mut answer(ports[0]))), Some(7));
}

#[test]
fn the_rules_of_a_pod_that_was_not_known_are_asked_once_it_is() {
    let mut memory = enforced();
    allow(&mut memory, PolicyKey::any(2, Direction::Ingress));
    // By the stack, where the sender is only an address.
    assert!(into_pod(&memory, &mut udp((A, 1000), (B, 53)), 2));
    let back = |memory: &Memory| to_pod_number(from_pod(memory, &mut udp((B, 53), (A, 1000)), 2));
    assert_eq!(back(&memory), None, "A may not send to B");
    allow(&mut memory, PolicyKey::any(1, Direction::Egress));
    assert_eq!(back(&memory), Some(1));
    let opener = |memory: &Memory| memory.flows.borrow().values().next().unwrap().opener();
    assert_eq!(opener(&memory), 1);
}
