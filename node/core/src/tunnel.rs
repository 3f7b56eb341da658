//! The WireGuard peers of a node: the nodes of other clusters.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::{Address, Prefix};

use crate::{problem::Problem, topology::Site};

/// A WireGuard public key (Curve25519).
pub type PublicKey = [u8; 32];

/// A peer of the tunnel device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunnelPeer {
    /// Where it is reached: address and UDP port.
    pub endpoint: (Address, u16),
    /// The sources it may use, which are also the destinations it is sent: its node's addresses and pod prefixes.
    pub allowed_ips: BTreeSet<Prefix>,
}

/// One peer for each node of another cluster that has made a key. `own_node` tells which address families this node
/// can send to.
pub fn peers(
    own_node: &str,
    sites: &[Site<'_>],
    problems: &mut BTreeSet<Problem>,
) -> BTreeMap<PublicKey, TunnelPeer> {
    let own = sites.iter().find(|site| !site.foreign && site.node.name == own_node);
    let reachable = |address: &&Address| {
        own.is_none_or(|own| own.addresses.iter().any(|mine| mine.is_ipv4() == address.is_ipv4()))
    };
    let mut peers = BTreeMap::new();
    for site in sites.iter().filter(|site| site.foreign) {
        let Some(key) = site.node.tunnel else { continue };
        let mut refuse = |reason| {
            let (cluster, node) = (site.node.cluster, site.node.name.clone());
            problems.insert(Problem::NoTunnel { cluster, node, reason });
        };
        let Some(address) = site.addresses.iter().find(reachable) else {
            refuse("it has no address of a family that this node has, or all belong to others");
            continue;
        };
        if peers.contains_key(&key.public_key) {
            refuse("its public key is that of another node; remove the key file of one of them");
            continue;
        }
        let hosts = site.addresses.iter().copied().map(Prefix::host);
        let allowed_ips = site.pod_prefixes.iter().copied().chain(hosts).collect();
        peers.insert(key.public_key, TunnelPeer { endpoint: (*address, key.port), allowed_ips });
    }
    peers
}
