//! A pass over the ports of masqueraded connections: which entries of `SNAT` have expired, and where ports run short.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{
    Address, FlowFlags, FlowKey, NatPorts, NatTimeouts, Scope, SnatValue, forward_of, map, protocol,
};

/// From this part on of the ports, or of the entries, running short is a problem.
pub const SHORT: f64 = 0.8;

/// The state in which a connection keeps its port longest.
const ESTABLISHED: FlowFlags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED).with(FlowFlags::ESTABLISHED);

/// The destination that needs the most ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Its address.
    pub address: Address,
    /// Its port; 0 where there is none.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Ports in use towards it.
    pub used: u32,
}

/// The use that connections make of the ports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Connections that have a port.
    pub connections: u32,
    /// The destination that needs the most ports.
    pub busiest: Option<Destination>,
}

impl Usage {
    /// The part of the ports that the busiest destination needs, from 0 on; 1 when there are no ports.
    pub fn part_of_ports(&self, ports: &NatPorts) -> f64 {
        let used = self.busiest.map_or(0, |busiest| busiest.used);
        if ports.count() == 0 { 1.0 } else { f64::from(used) / f64::from(ports.count()) }
    }

    /// The part of the entries of `SNAT` in use, two for each connection.
    pub fn part_of_entries(&self) -> f64 {
        f64::from(self.connections) * 2.0 / f64::from(map::SNAT.entries)
    }
}

/// An entry of `SNAT`.
pub type Entry = (FlowKey, SnatValue);

/// The entries that nobody needs any more, and the use that the others make of the ports. `now` is in nanoseconds since
/// boot.
pub fn sweep(entries: &[Entry], now: u64, timeouts: &NatTimeouts) -> (Vec<Entry>, Usage) {
    let (mut expired, mut over, mut in_use) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut used: BTreeMap<(Address, u16, u8), u32> = BTreeMap::new();
    for (key, value) in entries.iter().filter(|(key, _)| key.scope() == Some(Scope::Reverse)) {
        let kept = timeouts.lifetime(value.flags(), key.protocol(), key.source_port());
        let forward = forward_of(key, value);
        if now.saturating_sub(value.last_seen()) > kept {
            expired.push((*key, *value));
            over.insert(forward);
        } else {
            in_use.insert(forward);
            *used.entry((key.source(), outside_port(key), key.protocol())).or_default() += 1;
        }
    }
    // One whose entry for answers the kernel has evicted leads its connection back to its port.
    let lost = |(key, value): &&Entry| {
        let kept = timeouts.lifetime(ESTABLISHED, key.protocol(), key.destination_port());
        let old = now.saturating_sub(value.last_seen()) > kept || over.contains(key);
        key.scope() == Some(Scope::Forward) && old && !in_use.contains(key)
    };
    expired.extend(entries.iter().filter(lost).copied());
    let busiest = used.into_iter().max_by_key(|(_, used)| *used);
    let busiest =
        busiest.map(|((address, port, protocol), used)| Destination { address, port, protocol, used });
    (expired, Usage { connections: u32::try_from(in_use.len()).unwrap_or(u32::MAX), busiest })
}

/// The port outside; 0 for an echo, which has the node's identifier on both sides.
const fn outside_port(reverse: &FlowKey) -> u16 {
    match reverse.protocol() {
        protocol::ICMP | protocol::ICMPV6 => 0,
        _ => reverse.source_port(),
    }
}

#[cfg(test)]
mod tests {
    use tombolo_abi::v4_mapped;

    use super::*;

    const POD: Address = v4_mapped([10, 1, 0, 1]);
    const NODE: Address = v4_mapped([192, 168, 0, 1]);
    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 100_000 * SECOND;

    fn outside(last: u8) -> Address {
        v4_mapped([203, 0, 113, last])
    }

    /// Both entries of a connection from `port` of the pod, silent for some seconds.
    fn connection(number: u8, port: u16, to: (Address, u16), silent: u64) -> [Entry; 2] {
        let (echo, seen) = (number == protocol::ICMP, NOW - silent * SECOND);
        let (asked, answering) = if echo { (port, 1024 + port) } else { (to.1, to.1) };
        let flags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED);
        [
            (
                FlowKey::new(Scope::Forward, POD, port, to.0, asked, number),
                SnatValue::new(seen, NODE, 1024 + port, FlowFlags::FROM_SOURCE, 1),
            ),
            (
                FlowKey::new(Scope::Reverse, to.0, answering, NODE, 1024 + port, number),
                SnatValue::new(seen, POD, port, flags, 1),
            ),
        ]
    }

    #[test]
    fn both_entries_of_an_expired_connection_go() {
        for (number, kept) in [(protocol::UDP, 30), (protocol::TCP, 240), (protocol::ICMP, 60)] {
            let old = connection(number, 1, (outside(1), 53), kept + 1);
            let young = connection(number, 2, (outside(1), 53), kept);
            let (mut expired, usage) = sweep(&[old, young].concat(), NOW, &NatTimeouts::DEFAULT);
            expired.sort_unstable();
            let mut wanted = old;
            wanted.sort_unstable();
            assert_eq!(expired, wanted, "{number}");
            assert_eq!(usage.connections, 1);
        }
    }

    #[test]
    fn an_entry_without_the_other_stays_as_long_as_the_connection_may_live() {
        for (number, kept) in [(protocol::UDP, 30), (protocol::TCP, 7440)] {
            let [young, _] = connection(number, 1, (outside(1), 53), kept);
            assert_eq!(sweep(&[young], NOW, &NatTimeouts::DEFAULT).0, []);
            let [old, _] = connection(number, 1, (outside(1), 53), kept + 1);
            assert_eq!(sweep(&[old], NOW, &NatTimeouts::DEFAULT).0, [old]);
        }
    }

    #[test]
    fn ports_are_counted_by_destination() {
        let to_one = (1..=81).flat_map(|port| connection(protocol::UDP, port, (outside(1), 53), 0));
        let to_other = (1..=40).flat_map(|port| connection(protocol::UDP, port, (outside(2), 53), 0));
        let echoes = (1..=50).flat_map(|port| connection(protocol::ICMP, port, (outside(3), 0), 0));
        let entries: Vec<_> = to_one.chain(to_other).chain(echoes).collect();
        let (expired, usage) = sweep(&entries, NOW, &NatTimeouts::DEFAULT);
        assert_eq!(expired, []);
        let busiest = Destination { address: outside(1), port: 53, protocol: protocol::UDP, used: 81 };
        assert_eq!(usage, Usage { connections: 171, busiest: Some(busiest) });
        assert!((usage.part_of_ports(&NatPorts::one(1, 100)) - 0.81).abs() < 1e-9);
        assert!((usage.part_of_ports(&NatPorts::one(2, 1)) - 1.0).abs() < 1e-9);
    }
}
