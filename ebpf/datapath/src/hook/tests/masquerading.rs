//! Ports of masqueraded connections: four of them are there.

use super::*;
use crate::{Packet, Tuple};

const TICK: u64 = SECOND / 250;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;

/// The port of the node that a packet of pod A leaves from.
fn leave(memory: &Memory, number: u8, port: u16, to: (Address, u16), flags: u8) -> Result<u16, DropReason> {
    let mut frame = Frame::new(number, (A, port), to, b"");
    if number == protocol::TCP {
        frame.0[47] = flags;
    }
    assert_eq!(from_pod(memory, &mut frame, 1), Ok(Verdict::ToUnderlay));
    to_net(memory, &mut frame).map(|_| frame.ends().0.1)
}

/// Who outside answers comes to pod A.
fn comes_back(memory: &Memory, number: u8, node_port: u16, from: (Address, u16), flags: u8) {
    let mut frame = Frame::new(number, from, (NODE, node_port), b"");
    if number == protocol::TCP {
        frame.0[47] = flags;
    }
    assert_eq!(to_pod_number(from_net(memory, &mut frame)), Some(1));
}

/// A TCP connection of pod A that was answered, and its port.
fn open(memory: &Memory, port: u16) -> u16 {
    let taken = leave(memory, protocol::TCP, port, (OUTSIDE, 443), SYN).unwrap();
    comes_back(memory, protocol::TCP, taken, (OUTSIDE, 443), SYN | ACK);
    taken
}

fn wait(memory: &Memory, seconds: u64) {
    memory.now.set(memory.now.get() + seconds * SECOND);
}

#[test]
fn ports_run_out_with_a_reason_and_are_shared_between_destinations() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, to| to_net(&memory, &mut Frame::new(protocol::UDP, (A, port), (to, 53), b""));
    for port in 1..=4 {
        assert_eq!(send(port, OUTSIDE), Ok(Verdict::Pass));
    }
    assert_eq!(send(5, OUTSIDE), Err(DropReason::SnatExhausted));
    assert_eq!(send(5, v4_mapped([203, 0, 113, 10])), Ok(Verdict::Pass));
    assert_eq!(send(4, OUTSIDE), Ok(Verdict::Pass));
}

#[test]
fn a_clock_that_is_a_tick_behind_takes_no_port() {
    let memory = node(EndpointFlags::NONE);
    for port in 1..=4 {
        assert!(leave(&memory, protocol::UDP, port, (OUTSIDE, 53), 0).is_ok());
    }
    memory.now.set(memory.now.get() - TICK);
    assert_eq!(leave(&memory, protocol::UDP, 5, (OUTSIDE, 53), 0), Err(DropReason::SnatExhausted));
}

#[test]
fn a_datagrams_port_comes_back_when_nobody_uses_it() {
    for (server, answered, seconds) in [(53, false, 120), (53, true, 30), (443, false, 120), (443, true, 300)]
    {
        let memory = node(EndpointFlags::NONE);
        let send = |port| leave(&memory, protocol::UDP, port, (OUTSIDE, server), 0);
        for port in 1..=4 {
            let taken = send(port).unwrap();
            if answered {
                comes_back(&memory, protocol::UDP, taken, (OUTSIDE, server), 0);
            }
        }
        wait(&memory, seconds);
        assert_eq!(send(5), Err(DropReason::SnatExhausted), "{server} {answered}");
        wait(&memory, 1);
        assert!(send(5).is_ok(), "{server} {answered}");
    }
}

#[test]
fn an_established_connection_keeps_its_port_for_hours() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
    for port in 1..=4 {
        let taken = open(&memory, port);
        // The fourth one is never heard of again.
        if port < 4 {
            assert_eq!(send(port, ACK), Ok(taken));
        }
    }
    wait(&memory, 240);
    assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted));
    wait(&memory, 1);
    assert!(send(5, SYN).is_ok(), "a SYN-ACK alone makes no connection");
    wait(&memory, 7440 - 241);
    assert!(send(6, SYN).is_ok(), "in the place of the fifth");
    assert_eq!(send(7, SYN), Err(DropReason::SnatExhausted), "the usual keep-alive comes after two hours");
    wait(&memory, 1);
    assert!(send(7, SYN).is_ok());
}

#[test]
fn a_closed_connection_gives_its_port_to_who_finds_no_other() {
    for reset in [false, true] {
        let memory = node(EndpointFlags::NONE);
        let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
        for port in 1..=4 {
            let taken = open(&memory, port);
            assert_eq!(send(port, if reset { RST } else { FIN }), Ok(taken));
            if !reset {
                comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), FIN);
            }
        }
        wait(&memory, 10);
        assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted), "delayed packets may still come");
        wait(&memory, 1);
        assert!(send(5, SYN).is_ok());
    }
}

#[test]
fn a_reset_that_nobody_believed_takes_no_port() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
    for port in 1..=4 {
        let taken = open(&memory, port);
        comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), RST);
        assert_eq!(send(port, ACK), Ok(taken), "its sequence number was wrong, so the pod goes on");
    }
    wait(&memory, 300);
    assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted));
}

#[test]
fn what_an_older_version_has_written_keeps_its_port() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
    let taken: Vec<_> = (1..=4).map(|port| send(port, SYN).unwrap()).collect();
    for entry in memory.snat.borrow_mut().values_mut() {
        let value = *entry;
        *entry = SnatValue::new(value.last_seen(), value.address(), value.port(), FlowFlags::NONE, 0);
    }
    wait(&memory, 7000);
    assert_eq!(send(1, ACK), Ok(taken[0]));
    comes_back(&memory, protocol::TCP, taken[1], (OUTSIDE, 443), ACK);
    wait(&memory, 7000);
    assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted));
}

#[test]
fn a_port_that_is_not_of_the_ranges_any_more_is_given_up() {
    let mut memory = node(EndpointFlags::NONE);
    let before = leave(&memory, protocol::UDP, 1, (OUTSIDE, 53), 0).unwrap();
    memory.config = ConfigBuilder { nat_ports: NatPorts::one(5000, 5003), ..CONFIG }.build();
    let after = leave(&memory, protocol::UDP, 1, (OUTSIDE, 53), 0).unwrap();
    assert!(!memory.config.nat_ports().contains(before) && memory.config.nat_ports().contains(after));
    comes_back(&memory, protocol::UDP, after, (OUTSIDE, 53), 0);
}

#[test]
fn an_answer_after_minutes_is_still_one() {
    for (answered, silent) in [(true, 200), (false, 100)] {
        let memory = node(EndpointFlags::INGRESS_ENFORCED);
        let send = || leave(&memory, protocol::UDP, 1, (OUTSIDE, 4433), 0);
        let port = send().unwrap();
        if answered {
            comes_back(&memory, protocol::UDP, port, (OUTSIDE, 4433), 0);
        }
        wait(&memory, silent);
        comes_back(&memory, protocol::UDP, port, (OUTSIDE, 4433), 0);
        assert_eq!(send(), Ok(port), "the pod is still the one who asks");
    }
}

#[test]
fn what_comes_after_the_port_was_given_up_is_no_answer() {
    let memory = node(EndpointFlags::INGRESS_ENFORCED);
    let port = leave(&memory, protocol::UDP, 1, (OUTSIDE, 4433), 0).unwrap();
    wait(&memory, 121);
    let mut late = Frame::new(protocol::UDP, (OUTSIDE, 4433), (NODE, port), b"");
    assert_eq!(from_net(&memory, &mut late), Ok(Verdict::Pass));
    assert_eq!(late.ends().1, (NODE, port), "it is for the node");
}

#[test]
fn a_connection_that_is_opened_anew_inherits_no_end() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
    for port in 1..=4 {
        send(port, SYN).unwrap();
        send(port, FIN).unwrap();
        let taken = open(&memory, port);
        send(port, ACK).unwrap();
        comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), FIN);
    }
    wait(&memory, 241);
    assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted), "only the servers have finished");
}

#[test]
fn a_reset_from_outside_takes_no_port_early() {
    let memory = node(EndpointFlags::NONE);
    let send = |port, flags| leave(&memory, protocol::TCP, port, (OUTSIDE, 443), flags);
    for port in 1..=4 {
        let taken = open(&memory, port);
        send(port, ACK).unwrap();
        comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), RST);
    }
    wait(&memory, 240);
    assert_eq!(send(5, SYN), Err(DropReason::SnatExhausted), "anybody can send one");
    wait(&memory, 1);
    assert!(send(5, SYN).is_ok());
}

#[test]
fn one_entry_of_a_connection_that_is_evicted_is_made_again() {
    for evicted in [Scope::Forward, Scope::Reverse] {
        let memory = node(EndpointFlags::NONE);
        let send = |flags| leave(&memory, protocol::TCP, 61000, (OUTSIDE, 443), flags);
        let taken = send(SYN).unwrap();
        comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), SYN | ACK);
        assert_eq!(send(ACK), Ok(taken));
        wait(&memory, 1000);
        memory.snat.borrow_mut().retain(|key, _| key.scope() != Some(evicted));
        assert_eq!(send(ACK), Ok(taken), "without {evicted:?}");
        comes_back(&memory, protocol::TCP, taken, (OUTSIDE, 443), ACK);
    }
}

/// A packet on a node with a socket at one of its ports.
struct Beside(Frame, u16);

impl Packet for Beside {
    fn len(&self) -> u32 {
        self.0.len()
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.0.store(offset, bytes)
    }

    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.0.store_summed(offset, bytes)
    }

    fn add_checksum(&mut self, offset: usize, difference: u32, pseudo: bool, zero: bool) -> Option<()> {
        self.0.add_checksum(offset, difference, pseudo, zero)
    }

    fn route(&mut self, _: &Tuple, _: bool) -> bool {
        true
    }

    fn has_socket(&mut self, tuple: &Tuple, _: bool) -> bool {
        assert_eq!((tuple.source, tuple.source_port, tuple.destination), (OUTSIDE, 53, NODE));
        tuple.destination_port == self.1
    }

    fn set_len(&mut self, len: usize) -> Option<()> {
        self.0.set_len(len)
    }

    fn take_out(&mut self, count: usize) -> Option<()> {
        self.0.take_out(count)
    }

    fn fits(&mut self, _: u32) -> bool {
        true
    }
}

#[test]
fn the_port_of_a_socket_of_the_host_is_never_taken() {
    let memory = node(EndpointFlags::NONE);
    let send = |port| {
        let mut packet = Beside(Frame::new(protocol::UDP, (A, port), (OUTSIDE, 53), b""), 61002);
        let mut headers = headers(&memory, &packet.0);
        net_egress(&mut packet, &memory, &mut headers, &mut Report::default()).map(|_| packet.0.ends().0.1)
    };
    let mut taken: Vec<_> = [61002, 2, 3].into_iter().map(|port| send(port).unwrap()).collect();
    taken.sort_unstable();
    assert_eq!(taken, [61000, 61001, 61003]);
    assert_eq!(send(4), Err(DropReason::SnatExhausted));
}

#[test]
fn other_icmp_does_not_take_the_port_of_an_echo() {
    let memory = node(EndpointFlags::NONE);
    let send = |kind: u8| {
        let mut frame = Frame::new(protocol::ICMP, (A, 0), (OUTSIDE, 0), b"");
        frame.0[34] = kind;
        assert_eq!(from_pod(&memory, &mut frame, 1), Ok(Verdict::ToUnderlay));
        to_net(&memory, &mut frame)
    };
    const ECHO: u8 = 8;
    const TIMESTAMP: u8 = 13;
    for kind in [ECHO, TIMESTAMP, ECHO, TIMESTAMP] {
        assert_eq!(send(kind), Ok(Verdict::Pass), "type {kind}");
    }
}
