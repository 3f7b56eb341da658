//! The kernel routes that a node needs: to pods on other nodes and in other clusters.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::{Address, Prefix};

use crate::{problem::Problem, topology::Site};

/// Where packets to a prefix go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NextHop {
    /// To a node on the same segment.
    Gateway(Address),
    /// Into the tunnel device. Without a peer for the prefix the packet ends there, and never leaves in clear.
    Tunnel,
}

/// The routes of the node named `own_node` of the own cluster: pod prefixes of the cluster's other nodes by their
/// addresses, those of other clusters by the tunnel device.
pub fn routes(
    own_node: &str,
    sites: &[Site<'_>],
    problems: &mut BTreeSet<Problem>,
) -> BTreeMap<Prefix, NextHop> {
    let mut routes = BTreeMap::new();
    for site in sites.iter().filter(|site| site.foreign || site.node.name != own_node) {
        for &prefix in &site.pod_prefixes {
            let next_hop = if site.foreign {
                Some(NextHop::Tunnel)
            } else {
                let same_family = |address: &&Address| address.is_ipv4() == prefix.is_ipv4();
                site.addresses.iter().find(same_family).copied().map(NextHop::Gateway)
            };
            if let Some(next_hop) = next_hop {
                routes.insert(prefix, next_hop);
            } else {
                problems.insert(Problem::NoNextHop { node: site.node.name.clone(), prefix });
            }
        }
    }
    routes
}
