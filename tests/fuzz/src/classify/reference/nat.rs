//! Which connections of pods hide behind which ports of the node.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{Address, protocol};

use super::read::{End, Ends, Kind, Parsed};

const SECOND: u64 = 1_000_000_000;
/// A port of a TCP connection that both sides have finished, or the pod has reset, may be given to another one after this.
const CLOSED: u64 = 10 * SECOND;

/// A connection behind a port.
#[derive(Clone, Copy, Debug)]
struct Behind {
    pod: End,
    /// The pod's number.
    number: u32,
    /// When it was used last.
    used: u64,
    answered: bool,
    /// The pod has gone on after an answer.
    established: bool,
    fin_of_pod: bool,
    fin_of_outside: bool,
    /// By the pod, and by the outside, which anybody may have been.
    reset_by_pod: bool,
    reset_by_outside: bool,
}

impl Behind {
    const fn is_finished(&self) -> bool {
        self.reset_by_pod || (self.fin_of_pod && self.fin_of_outside)
    }

    /// How long it keeps its port without packets: between both numbers it may or may not.
    fn kept(&self, protocol: u8, remote_port: u16) -> (u64, u64) {
        match protocol {
            protocol::TCP if self.is_finished() => (CLOSED, 240 * SECOND),
            protocol::TCP if self.reset_by_outside => (240 * SECOND, 7440 * SECOND),
            protocol::TCP if self.established => (7440 * SECOND, 7440 * SECOND),
            protocol::TCP => (240 * SECOND, 7440 * SECOND),
            protocol::UDP if self.answered && remote_port == 53 => (30 * SECOND, 30 * SECOND),
            protocol::UDP if self.answered => (300 * SECOND, 300 * SECOND),
            protocol::UDP => (120 * SECOND, 120 * SECOND),
            protocol::ICMP | protocol::ICMPV6 => (60 * SECOND, 60 * SECOND),
            _ => (300 * SECOND, 300 * SECOND),
        }
    }
}

/// The ports taken.
#[derive(Default)]
pub struct Nat {
    /// By the outside and the node's end of a connection.
    behind: BTreeMap<(End, End, u8), Behind>,
    /// By a pod's connection: the node's end.
    taken: BTreeMap<Ends, End>,
    /// Outside addresses about which nothing is said any more, with the protocol.
    doubtful: BTreeSet<(Address, u8)>,
}

impl Nat {
    /// A packet of the pod with this number left from `node`.
    pub fn masqueraded(
        &mut self,
        packet: &Parsed,
        number: u32,
        node: End,
        in_ranges: impl Fn(u16) -> bool,
        now: u64,
    ) {
        let ends = &packet.ends;
        if matches!(ends.protocol, protocol::ICMP | protocol::ICMPV6) && ends.from.1 == 0 {
            // An echo with identifier 0 and ICMP without one are one connection, and only the echo has a port.
            return self.doubt(ends.to.0, ends.protocol);
        }
        let outside = if packet.kind() == Kind::Echo { (ends.to.0, node.1) } else { ends.to };
        let key = (outside, node, ends.protocol);
        let before = self.behind.get(&key).copied();
        if let Some(before) = before.filter(|before| before.pod != ends.from) {
            let free = now.saturating_sub(before.used) > before.kept(ends.protocol, outside.1).0;
            assert!(free, "{:?} and {:?} share {node:?} to {outside:?}", before.pod, ends.from);
        }
        if let Some(other) = self.taken.get(ends).filter(|other| **other != node) {
            let old_outside = if packet.kind() == Kind::Echo { (ends.to.0, other.1) } else { ends.to };
            let kept = self.behind.get(&(old_outside, *other, ends.protocol)).is_some_and(|old| {
                let least = old.kept(ends.protocol, outside.1).0;
                (old.pod, old.number) == (ends.from, number) && now.saturating_sub(old.used) <= least
            });
            let usable = other.0 == node.0 && in_ranges(other.1);
            assert!(!kept || !usable, "a connection left from {other:?} and then from {node:?}");
        }
        let fresh = Behind {
            pod: ends.from,
            number,
            used: now,
            answered: false,
            established: false,
            fin_of_pod: false,
            fin_of_outside: false,
            reset_by_pod: false,
            reset_by_outside: false,
        };
        let mut behind =
            before.filter(|before| (before.pod, before.number) == (ends.from, number)).unwrap_or(fresh);
        if !packet.is_error() {
            behind.used = behind.used.max(now);
            if packet.opens() {
                behind = fresh;
            }
            behind.reset_by_pod |= packet.tcp_flags & 0x04 != 0;
            behind.reset_by_outside &= packet.tcp_flags & 0x04 != 0;
            behind.fin_of_pod |= packet.tcp_flags & 0x05 == 0x01 && !packet.opens();
            behind.established |= behind.answered && !packet.opens() && packet.tcp_flags & 0x04 == 0;
        }
        self.behind.insert(key, behind);
        self.taken.insert(*ends, node);
    }

    /// Which end of a pod a packet to the node belongs to, with the pod's number: `Err` when nothing is said about it.
    pub fn behind(&mut self, packet: &Parsed, now: u64) -> Result<Option<(End, u32)>, ()> {
        let ends = &packet.ends;
        if self.is_doubtful(ends.from.0, ends.protocol) {
            return Err(());
        }
        let Some(behind) = self.behind.get_mut(&(ends.from, ends.to, ends.protocol)) else { return Ok(None) };
        let (least, most) = behind.kept(ends.protocol, ends.from.1);
        match now.saturating_sub(behind.used) {
            silent if silent > most => return Ok(None),
            silent if silent > least => {
                self.doubt(ends.from.0, ends.protocol);
                return Err(());
            }
            _ => {}
        }
        if !packet.is_error() {
            behind.used = behind.used.max(now);
            behind.answered = true;
            behind.reset_by_outside |= packet.tcp_flags & 0x04 != 0;
            behind.fin_of_outside |= packet.tcp_flags & 0x05 == 0x01;
        }
        Ok(Some((behind.pod, behind.number)))
    }

    /// How many ports towards an outside address may be in use.
    pub fn used(&self, outside: Address, protocol: u8, now: u64) -> usize {
        let of = |(to, _, number): &(End, End, u8)| (to.0, *number) == (outside, protocol);
        let in_use = |((to, ..), behind): &(&(End, End, u8), &Behind)| {
            now.saturating_sub(behind.used) <= behind.kept(protocol, to.1).1
        };
        self.behind.iter().filter(|(key, _)| of(key)).filter(in_use).count()
    }

    /// Whether nothing is said about connections to an outside address.
    pub fn is_doubtful(&self, outside: Address, protocol: u8) -> bool {
        self.doubtful.contains(&(outside, protocol))
    }

    /// From here on nothing is said about connections to an outside address.
    pub fn doubt(&mut self, outside: Address, protocol: u8) {
        self.doubtful.insert((outside, protocol));
    }
}
