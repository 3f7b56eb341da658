//! A pass over the connections: how many each pod is charged with, and how full the map is.

use std::collections::BTreeMap;

use tombolo_abi::{FlowFlags, FlowKey, FlowValue, Scope, map, protocol};

/// From this part on of the connections that a pod may have, or of the entries, running short is a problem.
pub const SHORT: f64 = 0.8;

/// An answered exchange of datagrams with a server on one of the ports below 1024 is over after so many nanoseconds: it asked
/// for a name or a time.
const QUERY: u64 = 30 * 1_000_000_000;

/// Connections that still count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// By the number of the pod that is charged with them.
    pub by_pod: BTreeMap<u32, u32>,
    /// All of them, those of no pod too.
    pub all: u32,
}

impl Count {
    /// The pod that has the most, and how many.
    pub fn busiest(&self) -> Option<(u32, u32)> {
        let most = self.by_pod.iter().max_by_key(|(_, count)| **count);
        most.map(|(pod, count)| (*pod, *count))
    }

    /// The part of the entries of `FLOW` in use.
    pub fn part_of_entries(&self) -> f64 {
        f64::from(self.all) / f64::from(map::FLOW.entries)
    }
}

/// Counts the connections that still count at `now` (nanoseconds since boot). A pod is charged with those that it has opened,
/// and with those that were opened to it by who is no pod of this node.
pub fn count(entries: &[(FlowKey, FlowValue)], now: u64) -> Count {
    let mut count = Count::default();
    let connections = entries.iter().filter(|(key, _)| key.scope() == Some(Scope::Connection));
    for (_, flow) in connections.filter(|(key, flow)| now.saturating_sub(flow.last_seen()) < kept(key, flow))
    {
        count.all += 1;
        let pod = if flow.opener() != 0 { flow.opener() } else { flow.answerer() };
        if pod != 0 {
            *count.by_pod.entry(pod).or_default() += 1;
        }
    }
    count
}

fn kept(key: &FlowKey, flow: &FlowValue) -> u64 {
    let to_source = !flow.flags().contains(FlowFlags::FROM_SOURCE);
    let server = if to_source { key.source_port() } else { key.destination_port() };
    let lifetime = flow.lifetime(key.protocol());
    if key.protocol() == protocol::UDP && server < 1024 { lifetime.min(QUERY) } else { lifetime }
}

#[cfg(test)]
mod tests {
    use tombolo_abi::v4_mapped;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 100_000 * SECOND;

    /// Silent for some seconds; from a port above 1024 to `port`.
    fn entry(number: u8, port: u16, pods: (u32, u32), silent: u64) -> (FlowKey, FlowValue) {
        let (a, b) = (v4_mapped([10, 1, 0, 1]), v4_mapped([10, 1, 0, 2]));
        let flags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED);
        let value = FlowValue::new(NOW - silent * SECOND, flags).judged(pods.0, pods.1, 1);
        (FlowKey::new(Scope::Connection, a, 40_000, b, port, number), value)
    }

    #[test]
    fn who_opened_is_charged_or_else_who_was_asked() {
        let service = FlowKey::new(Scope::Service, [1; 16], 1, [2; 16], 2, protocol::TCP);
        let entries = [
            entry(protocol::TCP, 80, (1, 2), 0),
            entry(protocol::TCP, 81, (1, 0), 0),
            entry(protocol::TCP, 82, (0, 2), 0),
            entry(protocol::TCP, 83, (0, 0), 0),
            (service, FlowValue::new(NOW, FlowFlags::NONE)),
        ];
        let count = count(&entries, NOW);
        assert_eq!((count.all, count.busiest()), (4, Some((1, 2))));
        assert_eq!(count.by_pod, BTreeMap::from([(1, 2), (2, 1)]));
    }

    #[test]
    fn what_is_over_does_not_count() {
        for (number, port, kept) in
            [(protocol::UDP, 53, 30), (protocol::UDP, 5353, 180), (protocol::TCP, 53, 28_800)]
        {
            let alive = |silent| count(&[entry(number, port, (1, 0), silent)], NOW).all;
            assert_eq!((alive(kept - 1), alive(kept)), (1, 0), "{number} {port}");
        }
        let (key, value) = entry(protocol::UDP, 40_001, (1, 0), 60);
        // The other end stands as source: port 53 asked, and 40001 answers.
        let asked_back =
            FlowKey::new(Scope::Connection, key.source(), 53, key.destination(), 40_001, protocol::UDP);
        assert_eq!(count(&[(asked_back, value)], NOW).all, 1);
    }
}
