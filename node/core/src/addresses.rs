//! Who an address belongs to: the tables `ADDRESS` and `PREFIX`.
//!
//! Records may disagree about an address for a while (a pod that is gone and its successor). All claims are kept,
//! and the most trustworthy one counts: this node, then the other nodes of the own cluster, then what this node gave
//! to its pods, then records of the own cluster's pods, then what other clusters say.

use std::{collections::BTreeMap, sync::Arc};

use tombolo_abi::{AddressFlags, AddressKey, AddressValue, PrefixKey};
use tombolo_model::{Address, ClusterId, EndpointRecord, Identity, NodeRecord};

use crate::{endpoints::LocalEndpoint, table::Table, topology::Site};

/// Who says that it has an address; the smallest of several counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Claimant {
    /// This node.
    #[default]
    Host,
    /// Another node of the own cluster, by name.
    Node(String),
    /// A local endpoint, by number.
    Local(u32),
    /// A pod of the own cluster, by namespace and name.
    Pod(String, String),
    /// A node of another cluster, by cluster and name.
    ForeignNode(ClusterId, String),
    /// A pod of another cluster, by cluster, namespace and name.
    ForeignPod(ClusterId, String, String),
}

impl Claimant {
    /// A node other than this one.
    pub fn node(own: ClusterId, cluster: ClusterId, name: &str) -> Self {
        if cluster == own { Self::Node(name.to_owned()) } else { Self::ForeignNode(cluster, name.to_owned()) }
    }

    /// A pod, by what records say.
    pub fn pod(own: ClusterId, cluster: ClusterId, namespace: &str, name: &str) -> Self {
        if cluster == own {
            Self::Pod(namespace.to_owned(), name.to_owned())
        } else {
            Self::ForeignPod(cluster, namespace.to_owned(), name.to_owned())
        }
    }
}

/// What an owner of addresses claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Who.
    pub claimant: Claimant,
    /// Which addresses.
    pub addresses: Vec<Address>,
    /// What they are.
    pub value: AddressValue,
}

/// The table `ADDRESS` and the claims behind it.
#[derive(Debug, Default)]
pub struct Addresses {
    /// `ADDRESS`.
    pub table: Table<AddressKey, AddressValue>,
    /// In one map, for nearly every address has one claimant, and a map for each would cost most of the memory.
    claims: BTreeMap<(Address, Arc<Claimant>), AddressValue>,
    held: BTreeMap<Arc<Claimant>, Box<[Address]>>,
    /// The smallest claimant there is, to begin searching with.
    first: Arc<Claimant>,
}

impl Addresses {
    /// Replaces what the claimant claimed before. Touches only the addresses in either.
    pub fn claim(&mut self, claim: Claim) {
        let mut touched = self.forget(&claim.claimant);
        let claimant = Arc::new(claim.claimant);
        for address in &claim.addresses {
            self.claims.insert((*address, claimant.clone()), claim.value);
        }
        touched.extend(&claim.addresses);
        self.held.insert(claimant, claim.addresses.into());
        self.program(touched);
    }

    /// Drops what the claimant claimed.
    pub fn withdraw(&mut self, claimant: &Claimant) {
        let touched = self.forget(claimant);
        self.program(touched);
    }

    /// The pods of other clusters, by cluster, namespace and name.
    pub fn foreign_pods(&self) -> impl Iterator<Item = (ClusterId, &str, &str)> {
        self.held.keys().filter_map(|claimant| match &**claimant {
            Claimant::ForeignPod(cluster, namespace, name) => Some((*cluster, &**namespace, &**name)),
            _ => None,
        })
    }

    /// What an owner of addresses claims; the value of nobody for one that claims none.
    pub fn claimed(&self, claimant: &Claimant) -> Option<Claim> {
        let (claimant, addresses) = self.held.get_key_value(claimant)?;
        let first = addresses.first().and_then(|address| self.claims.get(&(*address, claimant.clone())));
        let value = first.copied().unwrap_or(AddressValue::new(Identity::INIT.get(), AddressFlags::NONE));
        Some(Claim { claimant: Claimant::clone(claimant), addresses: addresses.to_vec(), value })
    }

    fn forget(&mut self, claimant: &Claimant) -> Vec<Address> {
        let Some((claimant, addresses)) = self.held.remove_entry(claimant) else { return Vec::new() };
        for address in &addresses {
            self.claims.remove(&(*address, claimant.clone()));
        }
        addresses.into()
    }

    fn program(&mut self, touched: Vec<Address>) {
        for address in touched {
            let mut claims = self.claims.range((address, self.first.clone())..);
            let winner = claims.next().filter(|((of, _), _)| *of == address).map(|(_, value)| *value);
            self.table.set(AddressKey::new(address.octets()), winner);
        }
    }
}

/// What this node itself has: its own addresses and the gateway addresses of its pods.
pub fn host_claim(addresses: Vec<Address>) -> Claim {
    let value = AddressValue::new(Identity::HOST.get(), AddressFlags::HOST.with(AddressFlags::NO_MASQUERADE));
    Claim { claimant: Claimant::Host, addresses, value }
}

/// What another node has.
pub fn node_claim(own: ClusterId, node: &NodeRecord) -> Claim {
    Claim {
        claimant: Claimant::node(own, node.cluster, &node.name),
        addresses: node.addresses.clone(),
        value: AddressValue::new(Identity::REMOTE_NODE.get(), reach(node.cluster != own)),
    }
}

/// What a local endpoint has, from the moment it is wired up.
pub fn local_claim(endpoint: &LocalEndpoint) -> Claim {
    Claim {
        claimant: Claimant::Local(endpoint.id),
        addresses: endpoint.wiring.addresses.clone(),
        value: AddressValue::new(endpoint.wiring.identity.get(), reach(false)),
    }
}

/// What a pod has according to its record. An identity of another cluster than the pod's counts as unknown: no
/// cluster speaks for another one.
pub fn pod_claim(own: ClusterId, pod: &EndpointRecord) -> Claim {
    let identity = if pod.identity.cluster() == Some(pod.cluster) { pod.identity } else { Identity::INIT };
    Claim {
        claimant: Claimant::pod(own, pod.cluster, &pod.namespace, &pod.name),
        addresses: pod.addresses.clone(),
        value: AddressValue::new(identity.get(), reach(pod.cluster != own)),
    }
}

/// The table `PREFIX`: pod prefixes, for addresses whose pod is not known (yet).
pub fn prefixes(sites: &[Site<'_>]) -> BTreeMap<PrefixKey, AddressValue> {
    let prefixes =
        sites.iter().flat_map(|site| site.pod_prefixes.iter().map(|prefix| (prefix, site.foreign)));
    prefixes
        .map(|(prefix, foreign)| {
            let key = PrefixKey::new(prefix.address().octets(), prefix.bits());
            (key, AddressValue::new(Identity::INIT.get(), reach(foreign)))
        })
        .collect()
}

const fn reach(foreign: bool) -> AddressFlags {
    if foreign { AddressFlags::TUNNEL } else { AddressFlags::NO_MASQUERADE }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(claimant: Claimant, addresses: &[u8], identity: u32) -> Claim {
        let addresses = addresses.iter().map(|n| std::net::Ipv4Addr::new(10, 0, 0, *n).into()).collect();
        Claim { claimant, addresses, value: AddressValue::new(identity, AddressFlags::NONE) }
    }

    #[test]
    fn the_most_trustworthy_claim_counts() {
        let cluster = |id| ClusterId::try_from(id).unwrap();
        let pod = |foreign| Claimant::pod(cluster(1), cluster(1 + u16::from(foreign)), "x", "a");
        let mut addresses = Addresses::default();
        let mut identity_after = |claim| {
            addresses.claim(claim);
            addresses.table.entries().values().next().unwrap().identity()
        };
        assert_eq!(identity_after(claim(pod(true), &[1], 10)), 10);
        assert_eq!(identity_after(claim(pod(false), &[1], 11)), 11);
        assert_eq!(identity_after(claim(Claimant::Local(1), &[1], 12)), 12);
        assert_eq!(identity_after(claim(Claimant::Host, &[1], 1)), 1);
        assert_eq!(identity_after(claim(Claimant::Local(1), &[], 12)), 1);
        addresses.withdraw(&Claimant::Host);
        assert_eq!(addresses.table.entries().values().next().unwrap().identity(), 11);
        addresses.withdraw(&pod(false));
        addresses.withdraw(&pod(true));
        assert!(addresses.table.entries().is_empty() && addresses.claims.is_empty());
    }

    proptest! {
        #[test]
        fn the_table_follows_the_last_claims(
            steps in prop::collection::vec((0u32..5, prop::option::of(prop::collection::vec(0u8..8, 0..4))), 1..30),
        ) {
            let mut addresses = Addresses::default();
            let mut last: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
            for (who, what) in steps {
                if let Some(what) = what {
                    addresses.claim(claim(Claimant::Local(who), &what, who));
                    last.insert(who, what);
                } else {
                    addresses.withdraw(&Claimant::Local(who));
                    last.remove(&who);
                }
            }
            let mut expected = BTreeMap::new();
            for (who, what) in last.iter().rev() {
                expected.extend(what.iter().map(|n| (*n, *who)));
            }
            let found: BTreeMap<u8, u32> =
                addresses.table.entries().iter().map(|(k, v)| (k.address()[15], v.identity())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
