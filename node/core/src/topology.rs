//! Which addresses of which nodes are used: the own cluster's first, and none that someone else has already, so that
//! no cluster can draw another one's traffic to itself by claiming its addresses.

use std::collections::BTreeSet;

use tombolo_model::{Address, ClusterId, NodeRecord, Prefix};

use crate::problem::Problem;

/// A node with what it may use of what its record says.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// The record.
    pub node: &'a NodeRecord,
    /// Whether it is in another cluster.
    pub foreign: bool,
    /// Its pod prefixes, disjoint from all others.
    pub pod_prefixes: Vec<Prefix>,
    /// Its addresses, different from all others and outside of all pod prefixes accepted before.
    pub addresses: Vec<Address>,
}

/// The usable parts of all nodes: the own cluster before others, then by cluster and name.
pub fn sites<'a>(
    own: ClusterId,
    nodes: impl IntoIterator<Item = &'a NodeRecord>,
    problems: &mut BTreeSet<Problem>,
) -> Vec<Site<'a>> {
    let mut nodes: Vec<&NodeRecord> = nodes.into_iter().collect();
    nodes.sort_by_key(|node| (node.cluster != own, node.cluster, &node.name));
    let mut taken = BTreeSet::new();
    let mut sites: Vec<Site<'a>> = nodes
        .into_iter()
        .map(|node| Site {
            node,
            foreign: node.cluster != own,
            pod_prefixes: Vec::new(),
            addresses: Vec::new(),
        })
        .collect();
    // Whole clusters at a time: a cluster's pod prefixes must not hide behind another one's node addresses.
    for foreign in [false, true] {
        for site in sites.iter_mut().filter(|site| site.foreign == foreign) {
            site.pod_prefixes = accept_prefixes(site.node, &mut taken, problems);
        }
        for site in sites.iter_mut().filter(|site| site.foreign == foreign) {
            site.addresses = accept_addresses(site.node, &mut taken, problems);
        }
    }
    sites
}

fn accept_prefixes(
    node: &NodeRecord,
    taken: &mut BTreeSet<Prefix>,
    problems: &mut BTreeSet<Problem>,
) -> Vec<Prefix> {
    let mut accepted = Vec::new();
    for &prefix in &node.pod_prefixes {
        if let Some(taken) = overlapping(taken, prefix) {
            let (cluster, node) = (node.cluster, node.name.clone());
            problems.insert(Problem::PrefixTaken { cluster, node, prefix, taken });
        } else {
            taken.insert(prefix);
            accepted.push(prefix);
        }
    }
    accepted
}

fn accept_addresses(
    node: &NodeRecord,
    taken: &mut BTreeSet<Prefix>,
    problems: &mut BTreeSet<Problem>,
) -> Vec<Address> {
    let mut accepted = Vec::new();
    for &address in &node.addresses {
        if let Some(taken) = overlapping(taken, Prefix::host(address)) {
            let (cluster, node) = (node.cluster, node.name.clone());
            problems.insert(Problem::AddressTaken { cluster, node, address, taken });
        } else {
            taken.insert(Prefix::host(address));
            accepted.push(address);
        }
    }
    accepted
}

/// A member of a set of disjoint prefixes that overlaps `prefix`. Ordered by first address, it can only be the last
/// one before or the first one after.
fn overlapping(disjoint: &BTreeSet<Prefix>, prefix: Prefix) -> Option<Prefix> {
    let before = disjoint.range(..=prefix).next_back();
    let after = disjoint.range(prefix..).next();
    before.into_iter().chain(after).find(|other| other.overlaps(prefix)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(cluster: u16, name: &str, prefixes: &[&str], addresses: &[&str]) -> NodeRecord {
        NodeRecord {
            cluster: ClusterId::try_from(cluster).unwrap(),
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            pod_prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
            zone: String::new(),
            tunnel: None,
        }
    }

    #[test]
    fn the_own_cluster_comes_first_and_keeps_its_addresses() {
        let thief =
            node(1, "thief", &["10.2.1.0/25", "10.9.0.0/24"], &["192.0.2.1", "10.2.1.7", "192.0.2.9"]);
        let own = node(2, "own", &["10.2.1.0/24"], &["192.0.2.1"]);
        let mut problems = BTreeSet::new();
        let sites = sites(ClusterId::try_from(2).unwrap(), [&thief, &own], &mut problems);
        assert_eq!(sites[0].node.name, "own");
        assert_eq!(sites[0].addresses, own.addresses);
        assert_eq!(sites[1].pod_prefixes, [thief.pod_prefixes[1]]);
        assert_eq!(sites[1].addresses, [thief.addresses[2]]);
        assert_eq!(problems.len(), 3);
    }

    proptest! {
        #[test]
        fn overlaps_are_found(list in prop::collection::vec((any::<[u8; 2]>(), 96u8..=114), 0..20)) {
            let mut accepted = BTreeSet::new();
            for ([a, b], len) in list {
                let prefix = Prefix::new(std::net::Ipv4Addr::new(10, a & 3, b, 0).into(), len);
                let slow = accepted.iter().any(|other: &Prefix| other.overlaps(prefix));
                prop_assert_eq!(overlapping(&accepted, prefix).is_some(), slow);
                if !slow {
                    accepted.insert(prefix);
                }
            }
        }
    }
}
