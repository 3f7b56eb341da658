//! Which connections of pods hide behind which ports of the node.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::Address;

use super::read::{End, Ends, Kind, Parsed};

/// A port may be given to another connection when the one that has it was silent for longer than this. Today a port is kept
/// for eight hours, whatever the protocol and the state of its connection, so that ports run out.
const KEPT: u64 = 100_000_000_000;

/// The ports taken.
#[derive(Default)]
pub struct Nat {
    /// By the outside and the node's end of a connection: the pod's end, and when it was used last.
    behind: BTreeMap<(End, End, u8), (End, u64)>,
    /// By a pod's connection: the node's end, and when it was used last.
    taken: BTreeMap<Ends, (End, u64)>,
    /// Outside addresses about which nothing is said any more, with the protocol.
    doubtful: BTreeSet<(Address, u8)>,
}

impl Nat {
    /// A packet of `ends` left from `node`.
    pub fn masqueraded(&mut self, packet: &Parsed, node: End, now: u64) {
        let ends = &packet.ends;
        let outside = if packet.kind() == Kind::Echo { (ends.to.0, node.1) } else { ends.to };
        if let Some((pod, used)) = self.behind.get(&(outside, node, ends.protocol)) {
            let free = *pod == ends.from || now - used > KEPT;
            assert!(free, "{pod:?} and {:?} share {node:?} to {outside:?}", ends.from);
        }
        if let Some((before, used)) = self.taken.get(ends) {
            let kept = *before == node || before.0 != node.0 || now - used > KEPT;
            assert!(kept, "a connection left from {before:?} and then from {node:?}");
        }
        self.behind.insert((outside, node, ends.protocol), (ends.from, now));
        self.taken.insert(*ends, (node, now));
    }

    /// Which end of a pod a packet to the node belongs to: `Err` when nothing is said about it.
    pub fn behind(&mut self, ends: &Ends, now: u64) -> Result<Option<End>, ()> {
        if self.is_doubtful(ends.from.0, ends.protocol) {
            return Err(());
        }
        let found = self.behind.get_mut(&(ends.from, ends.to, ends.protocol));
        Ok(found.map(|(pod, used)| {
            *used = now;
            *pod
        }))
    }

    /// The port that a pod's connection has.
    pub fn port(&self, ends: &Ends) -> Option<u16> {
        self.taken.get(ends).map(|(node, _)| node.1)
    }

    /// How many connections to an outside address have been given a port.
    pub fn used(&self, outside: Address, protocol: u8) -> usize {
        self.behind.keys().filter(|(to, _, number)| (to.0, *number) == (outside, protocol)).count()
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
