//! No pod takes the entries of connections from others.

use tombolo_abi::{Account, PodConnections, PodKey};

use super::*;

/// What a pod has opened, and what was opened to it.
fn charged(memory: &Memory, endpoint: u32) -> (u32, u32) {
    let connections =
        memory.pod_connections.borrow().get(&PodKey::new(endpoint)).copied().unwrap_or_default();
    (connections.count(Account::Opened), connections.count(Account::Accepted))
}

fn limited(limit: u32, flags: EndpointFlags) -> Memory {
    let mut memory = node(flags);
    memory.config = ConfigBuilder { connection_limit: limit, ..CONFIG }.build();
    memory
}

fn opens(memory: &Memory, from: Address, port: u16, ifindex: u32) -> Result<(), DropReason> {
    let mut frame = Frame::new(protocol::UDP, (from, port), (OUTSIDE, 53), b"");
    from_pod(memory, &mut frame, ifindex).map(drop)
}

fn comes_to_b(memory: &Memory, port: u16) -> Result<(), DropReason> {
    from_net(memory, &mut Frame::new(protocol::UDP, (OUTSIDE, port), (B, 53), b"")).map(drop)
}

#[test]
fn a_pod_at_its_limit_keeps_what_it_has_and_gets_nothing_new() {
    let memory = limited(2, EndpointFlags::NONE);
    let a = [1, 2, 3, 1, 2].map(|port| opens(&memory, A, port, 1));
    assert_eq!(a, [Ok(()), Ok(()), Err(DropReason::ConnectionLimit), Ok(()), Ok(())]);
    assert_eq!(opens(&memory, B, 3, 2), Ok(()));
    assert_eq!((charged(&memory, 1), charged(&memory, 2)), ((2, 0), (1, 0)));
    // The agent has counted anew.
    let counted = PodConnections::new(1, 0, memory.now.get());
    memory.pod_connections.borrow_mut().insert(PodKey::new(1), counted);
    assert_eq!(opens(&memory, A, 3, 1), Ok(()));
}

#[test]
fn without_a_limit_or_an_agent_connections_are_only_counted() {
    let memory = limited(0, EndpointFlags::NONE);
    assert!((1..=5).all(|port| opens(&memory, A, port, 1).is_ok()));
    assert_eq!(charged(&memory, 1), (5, 0));
    let memory = limited(1, EndpointFlags::NONE);
    assert_eq!([1, 2].map(|port| opens(&memory, A, port, 1).is_ok()), [true, false]);
    memory.now.set(memory.now.get() + 60 * SECOND);
    assert_eq!(opens(&memory, A, 2, 1), Ok(()), "nobody has counted for a minute");
}

#[test]
fn who_opens_a_connection_is_charged_with_it() {
    let memory = limited(1, EndpointFlags::NONE);
    let mut between = Frame::new(protocol::UDP, (A, 1), (B, 53), b"");
    assert!(from_pod(&memory, &mut between, 1).is_ok());
    assert_eq!((charged(&memory, 1), charged(&memory, 2)), ((1, 0), (0, 0)));
}

#[test]
fn others_use_up_neither_what_a_pod_may_open_nor_the_way_of_its_node() {
    let memory = limited(2, EndpointFlags::NONE);
    let outside = [1, 2, 3].map(|port| comes_to_b(&memory, port));
    assert_eq!(outside, [Ok(()), Ok(()), Err(DropReason::ConnectionLimit)]);
    assert_eq!(opens(&memory, B, 9, 2), Ok(()));
    assert_eq!(charged(&memory, 2), (1, 2));
    let mut probe = Frame::new(protocol::TCP, (NODE, 40_000), (B, 8080), b"");
    let mut headers = headers(&memory, &probe);
    assert!(pod_ingress(&mut probe, &memory, &mut headers, &mut Report::default(), 2).is_ok());
}

#[test]
fn what_is_refused_takes_no_entry_even_through_a_service() {
    let mut memory = limited(4, EndpointFlags::NONE);
    serve(&mut memory, protocol::UDP, &[(B, 8080)]);
    let mut ask =
        |port| from_pod(&memory, &mut Frame::new(protocol::UDP, (A, port), (VIP, 80), b""), 1).is_ok();
    assert_eq!([1, 2, 3].map(&mut ask), [true, true, false]);
    assert_eq!((memory.flows.borrow().len(), charged(&memory, 1)), (4, (4, 0)));

    let mut memory = limited(1, EndpointFlags::EGRESS_ENFORCED);
    serve(&mut memory, protocol::UDP, &[(B, 8080)]);
    assert_eq!(opens(&memory, A, 1, 1), Err(DropReason::PolicyDenied));
    assert!(from_pod(&memory, &mut Frame::new(protocol::UDP, (A, 1), (VIP, 80), b""), 1).is_err());
    assert_eq!((memory.flows.borrow().len(), charged(&memory, 1)), (0, (0, 0)));
}
