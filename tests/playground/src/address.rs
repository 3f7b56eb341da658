//! The address plan: a pure function of a family and of the index of a cluster and of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family. What all clusters share has its addresses here; service addresses may be the same in every
/// cluster, as nothing of them crosses between clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, in 10.0.0.0/8.
    V4,
    /// IPv6, in fd00::/8 (unique local, RFC 4193).
    V6,
}

impl Family {
    /// Its name in options of Kubernetes.
    pub fn name(self) -> &'static str {
        self.choose("ipv4", "ipv6")
    }

    /// The option that makes `ip` work on this family.
    pub fn ip_option(self) -> &'static str {
        self.choose("-4", "-6")
    }

    /// What `ip address add` needs besides the address: these are unique by plan, and detection of duplicates would
    /// only make them wait.
    pub fn address_options(self) -> &'static str {
        self.choose("", "nodad")
    }

    /// The smallest MTU that it demands of a link, in bytes (RFC 791, RFC 8200).
    pub fn least_mtu(self) -> u32 {
        self.choose(68, 1280)
    }

    /// The prefix of all its addresses, that of a default route.
    pub fn all(self) -> &'static str {
        self.choose("0.0.0.0/0", "::/0")
    }

    /// Addresses of all services.
    pub fn service_cidr(self) -> &'static str {
        self.choose("10.96.0.0/16", "fd96::/112")
    }

    /// The service address of the API server.
    pub fn api_service(self) -> IpAddr {
        self.address([10, 96, 0, 1], [0xfd96, 0, 0, 1])
    }

    /// The service address of the cluster's DNS.
    pub fn dns_service(self) -> IpAddr {
        self.address([10, 96, 0, 10], [0xfd96, 0, 0, 10])
    }

    /// The machine's own address on the link to the underlay router.
    pub fn management_machine(self) -> IpAddr {
        self.address([10, 9, 255, 1], [0xfd09, 0, 0, 1])
    }

    /// The underlay router's address on the link to the machine.
    pub fn management_router(self) -> IpAddr {
        self.address([10, 9, 255, 2], [0xfd09, 0, 0, 2])
    }

    /// Length of the prefix of the link between machine and router, in bits.
    pub fn management_bits(self) -> u8 {
        self.choose(30, 126)
    }

    /// An address on the segment outside of the clusters, by its number from 1 to 255; the router has the first.
    /// These are for documentation (RFC 5737, RFC 3849), so that nobody takes them for a cluster's.
    pub fn outside(self, number: u8) -> IpAddr {
        self.address([203, 0, 113, number], [0x2001, 0xdb8, 0x113, number.into()])
    }

    /// Length of the prefix of a cluster's segment, in bits.
    pub fn segment_bits(self) -> u8 {
        self.choose(24, 64)
    }

    /// Length of the prefix of a node's pods, in bits.
    pub fn node_pods_bits(self) -> u8 {
        self.choose(24, 64)
    }

    /// The first three groups of an IPv6 address and its last one.
    fn address(self, v4: [u8; 4], [a, b, c, last]: [u16; 4]) -> IpAddr {
        self.choose(v4.into(), Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last).into())
    }

    fn choose<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// The addresses of one cluster in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterAddresses {
    index: u8,
    family: Family,
}

impl ClusterAddresses {
    /// The addresses of the cluster at `index`, counted from 0 and below [`crate::spec::MAX_CLUSTERS`].
    pub fn new(index: usize, family: Family) -> Self {
        Self { index: u8::try_from(index).unwrap_or(u8::MAX).min(100), family }
    }

    /// Their family.
    pub fn family(self) -> Family {
        self.family
    }

    /// The segment that all nodes of the cluster are on.
    pub fn segment(self) -> String {
        let network = self.host(0, 0);
        format!("{network}/{}", self.family.segment_bits())
    }

    /// The underlay router's address on the segment, every node's default gateway.
    pub fn router(self) -> IpAddr {
        self.host(0, 1)
    }

    /// Where the API server of the control plane at `index`, counted from 0, listens.
    pub fn control_plane(self, index: usize) -> IpAddr {
        self.host(0, number(2, index))
    }

    /// The address of the node at `node`, counted from 0.
    pub fn node(self, node: usize) -> IpAddr {
        self.host(0, number(11, node))
    }

    /// An address of the same segment that this node may have in addition.
    pub fn floating(self, node: usize) -> IpAddr {
        self.host(0, number(101, node))
    }

    /// The router's address on the cluster's second segment, whose prefix is as long as that of the first.
    pub fn second_router(self) -> IpAddr {
        self.host(1, 1)
    }

    /// The address of a node on the second segment.
    pub fn second(self, node: usize) -> IpAddr {
        self.host(1, number(11, node))
    }

    /// The router's end of all nodes' TUN devices.
    pub fn tun_router(self) -> IpAddr {
        self.host(2, 1)
    }

    /// The address of a node's TUN device.
    pub fn tun(self, node: usize) -> IpAddr {
        self.host(2, number(11, node))
    }

    /// The addresses of the cluster's pods, of which each node gets a prefix of [`Family::node_pods_bits`].
    pub fn pods(self) -> String {
        let v6 = Ipv6Addr::new(0xfd64, self.index.into(), 0, 0, 0, 0, 0, 0);
        self.family.choose(format!("10.{}.0.0/16", 100 + self.index), format!("{v6}/48"))
    }

    fn host(self, segment: u8, number: u8) -> IpAddr {
        let v4 = Ipv4Addr::new(10, 10 + self.index, segment, number).octets();
        self.family.address(v4, [0xfd10, self.index.into(), segment.into(), number.into()])
    }
}

fn number(first: u8, index: usize) -> u8 {
    u8::try_from(index).map_or(u8::MAX, |index| first.saturating_add(index))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{MAX_CLUSTERS, MAX_CONTROL_PLANES, MAX_NODES};

    #[test]
    fn no_address_is_given_twice() {
        for family in [Family::V4, Family::V6] {
            let mut seen = BTreeSet::from([
                family.management_machine(),
                family.management_router(),
                family.api_service(),
                family.dns_service(),
            ]);
            assert_eq!(seen.len(), 4);
            let mut prefixes = BTreeSet::from([family.service_cidr().to_owned()]);
            for cluster in (0..MAX_CLUSTERS).map(|index| ClusterAddresses::new(index, family)) {
                assert!(prefixes.insert(cluster.segment()));
                assert!(prefixes.insert(cluster.pods()));
                assert!(seen.insert(cluster.router()));
                assert!(seen.insert(cluster.second_router()));
                assert!(seen.insert(cluster.tun_router()));
                for plane in 0..MAX_CONTROL_PLANES {
                    assert!(seen.insert(cluster.control_plane(plane)));
                }
                for node in 0..MAX_NODES {
                    for address in
                        [cluster.node(node), cluster.floating(node), cluster.second(node), cluster.tun(node)]
                    {
                        assert!(seen.insert(address), "{address}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_plan_of_the_second_cluster() {
        let west = ClusterAddresses::new(1, Family::V4);
        assert_eq!(west.segment(), "10.11.0.0/24");
        assert_eq!(west.pods(), "10.101.0.0/16");
        assert_eq!(west.control_plane(0).to_string(), "10.11.0.2");
        assert_eq!(west.node(1).to_string(), "10.11.0.12");
        let west = ClusterAddresses::new(1, Family::V6);
        assert_eq!(west.segment(), "fd10:1::/64");
        assert_eq!(west.pods(), "fd64:1::/48");
        assert_eq!(west.control_plane(0).to_string(), "fd10:1::2");
        assert_eq!(west.node(1).to_string(), "fd10:1::c");
        assert_eq!(west.second(1).to_string(), "fd10:1:1::c");
        assert_eq!(Family::V6.outside(11).to_string(), "2001:db8:113::b");
    }
}
