//! No pod takes the entries of connections from others.

use super::*;
use tombolo_abi::{PodConnections, PodKey};

fn count(memory: &Memory, endpoint: u32) -> u32 {
    let connections = memory.pod_connections.borrow();
    connections
        .get(&PodKey::new(endpoint))
        .copied()
        .map_or(0, |connections: PodConnections| connections.count())
}

fn limited(limit: u32) -> Memory {
    let mut memory = node(EndpointFlags::NONE);
    memory.config = ConfigBuilder { connection_limit: limit, ..CONFIG }.build();
    memory
}

fn opens(memory: &Memory, from: Address, port: u16, ifindex: u32) -> Result<(), DropReason> {
    let mut frame = Frame::new(protocol::UDP, (from, port), (OUTSIDE, 53), b"");
    from_pod(memory, &mut frame, ifindex).map(drop)
}

#[test]
fn a_pod_at_its_limit_keeps_what_it_has_and_gets_nothing_new() {
    let memory = limited(2);
    let a = [1, 2, 3, 1, 2].map(|port| opens(&memory, A, port, 1));
    assert_eq!(a, [Ok(()), Ok(()), Err(DropReason::ConnectionLimit), Ok(()), Ok(())]);
    assert_eq!(opens(&memory, B, 3, 2), Ok(()));
    assert_eq!((count(&memory, 1), count(&memory, 2)), (2, 1));
    // The agent has counted anew.
    memory.pod_connections.borrow_mut().insert(PodKey::new(1), PodConnections::new(1));
    assert_eq!(opens(&memory, A, 3, 1), Ok(()));
}

#[test]
fn without_a_limit_connections_are_only_counted() {
    let memory = limited(0);
    assert!((1..=5).all(|port| opens(&memory, A, port, 1).is_ok()));
    assert_eq!(count(&memory, 1), 5);
}

#[test]
fn who_opens_a_connection_is_charged_with_it() {
    let memory = limited(1);
    let mut between = Frame::new(protocol::UDP, (A, 1), (B, 53), b"");
    assert!(from_pod(&memory, &mut between, 1).is_ok());
    assert_eq!((count(&memory, 1), count(&memory, 2)), (1, 0));
    let from_outside =
        |port| from_net(&memory, &mut Frame::new(protocol::UDP, (OUTSIDE, port), (B, 53), b""));
    assert!(from_outside(1).is_ok());
    assert_eq!(from_outside(2).map(drop), Err(DropReason::ConnectionLimit));
    assert_eq!((count(&memory, 1), count(&memory, 2)), (1, 1));
}

#[test]
fn what_a_policy_refuses_is_not_charged() {
    let mut memory = node(EndpointFlags::EGRESS_ENFORCED);
    memory.config = ConfigBuilder { connection_limit: 1, ..CONFIG }.build();
    assert_eq!(opens(&memory, A, 1, 1), Err(DropReason::PolicyDenied));
    assert_eq!(count(&memory, 1), 0);
}
