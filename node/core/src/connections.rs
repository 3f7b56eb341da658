//! A pass over the connections: how many each pod is charged with, how full the map is, and which entries have expired.

use std::collections::BTreeMap;

use tombolo_abi::{Account, FlowFlags, FlowKey, FlowValue, Scope, map, protocol};

/// From this part on of the connections that a pod may have, or of the entries, running short is a problem.
pub const SHORT: f64 = 0.8;

/// A UDP connection to a port below 1024 is not charged any more after so many nanoseconds without a packet: most only asked
/// for a name or a time. Its entry stays for [`FlowValue::lifetime`].
const QUERY: u64 = 30 * 1_000_000_000;

/// An entry of `FLOW`.
pub type Entry = (FlowKey, FlowValue);

/// What a pod is charged with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Charged {
    /// Entries of connections that it has opened.
    pub opened: u32,
    /// Entries of those that others than pods of this node have opened to it.
    pub accepted: u32,
}

impl Charged {
    /// The account that is nearest to the limit, and how many entries it has.
    pub fn most(&self) -> (Account, u32) {
        if self.accepted > self.opened {
            (Account::Accepted, self.accepted)
        } else {
            (Account::Opened, self.opened)
        }
    }

    /// Of each account the greater.
    #[must_use]
    pub fn greater(self, other: Self) -> Self {
        Self { opened: self.opened.max(other.opened), accepted: self.accepted.max(other.accepted) }
    }
}

/// Entries that have not expired.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// By the number of the pod that is charged with them.
    pub by_pod: BTreeMap<u32, Charged>,
    /// All of them, those of no pod too. A connection that a service translates packet by packet has two.
    pub entries: u32,
}

impl Count {
    /// The pod that has the most on one account, which that is, and how many.
    pub fn busiest(&self) -> Option<(u32, Account, u32)> {
        let most = self.by_pod.iter().max_by_key(|(_, charged)| charged.most().1);
        most.map(|(pod, charged)| (*pod, charged.most().0, charged.most().1))
    }

    /// The part of the entries of `FLOW` in use.
    pub fn part_of_entries(&self) -> f64 {
        f64::from(self.entries) / f64::from(map::FLOW.entries)
    }
}

/// Counts the entries that have not expired at `now` (nanoseconds since boot), and returns those that have.
pub fn count(entries: &[Entry], now: u64) -> (Count, Vec<Entry>) {
    let (mut count, mut expired) = (Count::default(), Vec::new());
    for entry @ (key, flow) in entries {
        let silent = now.saturating_sub(flow.last_seen());
        let mut kept = *flow;
        if key.scope() == Some(Scope::Service) {
            // Those of before the flag do not have it.
            kept.touch(0, FlowFlags::CHOSEN);
        }
        if silent >= kept.lifetime(key.protocol()) {
            expired.push(*entry);
            continue;
        }
        count.entries += 1;
        if silent >= charged_for(key, flow) {
            continue;
        }
        if flow.opener() != 0 {
            count.by_pod.entry(flow.opener()).or_default().opened += 1;
        } else if flow.answerer() != 0 {
            count.by_pod.entry(flow.answerer()).or_default().accepted += 1;
        }
    }
    (count, expired)
}

fn charged_for(key: &FlowKey, flow: &FlowValue) -> u64 {
    let to_source = key.scope() == Some(Scope::Connection) && !flow.flags().contains(FlowFlags::FROM_SOURCE);
    let server = if to_source { key.source_port() } else { key.destination_port() };
    if key.protocol() == protocol::UDP && server < 1024 { QUERY } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use tombolo_abi::v4_mapped;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 100_000 * SECOND;

    /// Silent for some seconds; from a port above 1024 to `port`.
    fn entry(number: u8, port: u16, pods: (u32, u32), silent: u64) -> Entry {
        let (a, b) = (v4_mapped([10, 1, 0, 1]), v4_mapped([10, 1, 0, 2]));
        let flags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED);
        let value = FlowValue::new(NOW - silent * SECOND, flags).judged(pods.0, pods.1, 1);
        (FlowKey::new(Scope::Connection, a, 40_000, b, port, number), value)
    }

    #[test]
    fn who_opened_is_charged_or_else_who_was_asked() {
        let chosen = FlowValue::new(NOW, FlowFlags::CHOSEN).judged(1, 0, 0);
        let entries = [
            entry(protocol::TCP, 80, (1, 2), 0),
            entry(protocol::TCP, 81, (1, 0), 0),
            entry(protocol::TCP, 82, (0, 2), 0),
            entry(protocol::TCP, 83, (0, 0), 0),
            (FlowKey::new(Scope::Service, [1; 16], 1, [2; 16], 2, protocol::TCP), chosen),
        ];
        let (count, expired) = count(&entries, NOW);
        assert_eq!((count.entries, count.busiest(), expired), (5, Some((1, Account::Opened, 3)), vec![]));
        let (one, two) = (Charged { opened: 3, accepted: 0 }, Charged { opened: 0, accepted: 1 });
        assert_eq!(count.by_pod, BTreeMap::from([(1, one), (2, two)]));
    }

    #[test]
    fn what_was_silent_for_long_is_not_charged_and_then_expires() {
        let service = FlowKey::new(Scope::Service, [1; 16], 1, [2; 16], 2, protocol::TCP);
        let at = |silent: u64| {
            count(&[(service, FlowValue::new(NOW - silent * SECOND, FlowFlags::NONE))], NOW).1.len()
        };
        assert_eq!((at(28_799), at(28_800)), (0, 1));
        for (number, port, charged, kept) in [
            (protocol::UDP, 53, 30, 180),
            (protocol::UDP, 5353, 180, 180),
            (protocol::TCP, 53, 28_800, 28_800),
        ] {
            let at = |silent| {
                let (count, expired) = count(&[entry(number, port, (1, 0), silent)], NOW);
                (count.busiest().is_some(), expired.len())
            };
            assert_eq!((at(charged - 1).0, at(charged).0), (true, false), "{number} {port}");
            assert_eq!((at(kept - 1).1, at(kept).1), (0, 1), "{number} {port}");
        }
        let (key, value) = entry(protocol::UDP, 40_001, (1, 0), 60);
        // The other end stands as source: port 53 asked, and 40001 answers.
        let asked_back =
            FlowKey::new(Scope::Connection, key.source(), 53, key.destination(), 40_001, protocol::UDP);
        assert_eq!(count(&[(asked_back, value)], NOW).0.busiest(), Some((1, Account::Opened, 1)));
    }
}
