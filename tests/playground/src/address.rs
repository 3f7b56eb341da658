//! The address plan: a pure function of the index of a cluster and of a node.

use std::net::Ipv4Addr;

/// Addresses of all services, the same in every cluster as nothing of them crosses between clusters.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The service address of the API server.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The service address of the cluster's DNS.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The machine's own address on the link to the underlay router, a /30.
pub const MANAGEMENT_MACHINE: Ipv4Addr = Ipv4Addr::new(10, 9, 255, 1);
/// The underlay router's address on the link to the machine.
pub const MANAGEMENT_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 255, 2);

/// The addresses of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterAddresses {
    index: u8,
}

impl ClusterAddresses {
    /// The addresses of the cluster at `index`, counted from 0 and below [`crate::spec::MAX_CLUSTERS`].
    pub fn new(index: usize) -> Self {
        Self { index: u8::try_from(index).unwrap_or(u8::MAX).min(100) }
    }

    /// The segment that all nodes of the cluster are on, a /24.
    pub fn segment(self) -> String {
        format!("10.{}.0.0/24", 10 + self.index)
    }

    /// The underlay router's address on the segment, every node's default gateway.
    pub fn router(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10 + self.index, 0, 1)
    }

    /// Where the control plane listens.
    pub fn control_plane(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10 + self.index, 0, 2)
    }

    /// The address of the node at `node`, counted from 0.
    pub fn node(self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 10 + self.index, 0, 11 + u8::try_from(node).unwrap_or(u8::MAX - 11))
    }

    /// The addresses of the cluster's pods, a /16 of which each node gets a /24.
    pub fn pods(self) -> String {
        format!("10.{}.0.0/16", 100 + self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{MAX_CLUSTERS, MAX_NODES};

    #[test]
    fn no_address_is_given_twice() {
        let mut seen = BTreeSet::from([MANAGEMENT_MACHINE, MANAGEMENT_ROUTER, API_SERVICE, DNS_SERVICE]);
        let mut prefixes = BTreeSet::from([SERVICE_CIDR.to_owned()]);
        for cluster in (0..MAX_CLUSTERS).map(ClusterAddresses::new) {
            assert!(prefixes.insert(cluster.segment()));
            assert!(prefixes.insert(cluster.pods()));
            assert!(seen.insert(cluster.router()));
            assert!(seen.insert(cluster.control_plane()));
            for node in 0..MAX_NODES {
                assert!(seen.insert(cluster.node(node)));
            }
        }
    }

    #[test]
    fn the_plan_of_the_second_cluster() {
        let west = ClusterAddresses::new(1);
        assert_eq!(west.segment(), "10.11.0.0/24");
        assert_eq!(west.pods(), "10.101.0.0/16");
        assert_eq!(west.control_plane().to_string(), "10.11.0.2");
        assert_eq!(west.node(1).to_string(), "10.11.0.12");
    }
}
