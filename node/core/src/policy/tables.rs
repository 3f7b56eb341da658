//! The tables `IDENTITY`, `POLICY` and `ENDPOINT`, kept up to date.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{AddressKey, Bitmap, EndpointFlags, EndpointValue, PolicyKey, PolicyValue};
use tombolo_model::{Identity, Labels, Policy};

use super::{
    bits::SelectorBits,
    compile::{Compiled, compile, entries, selectors},
};
use crate::{
    endpoints::{Endpoints, LocalEndpoint},
    problem::Problem,
    table::Table,
};

/// The policy tables and the selector bits that they share.
#[derive(Debug, Default)]
pub struct PolicyTables {
    /// `IDENTITY`: identity → selectors that match it.
    pub identity: Table<u32, Bitmap>,
    /// `POLICY`.
    pub policy: Table<PolicyKey, PolicyValue>,
    /// `ENDPOINT`: addresses of local pods.
    pub endpoint: Table<AddressKey, EndpointValue>,
    /// What the policies ask for and do not get.
    pub problems: BTreeSet<Problem>,
    bits: SelectorBits,
}

impl PolicyTables {
    /// With the assignment of bits that pinned maps have.
    pub fn new(bits: SelectorBits) -> Self {
        Self { bits, ..Self::default() }
    }

    /// The assignment of bits, to be stored before the tables are written.
    pub const fn bits(&self) -> &SelectorBits {
        &self.bits
    }

    /// An identity has these labels, or is gone: one entry. Whether [`PolicyTables::compute`] should run too,
    /// because selectors that share a bit disagree about it.
    pub fn set_identity(&mut self, id: Identity, labels: Option<&Labels>) -> bool {
        self.identity.set(id.get(), labels.map(|labels| self.bits.bitmap(labels)));
        labels.is_some_and(|labels| self.bits.disagree(labels))
    }

    /// Everything anew from policies, identities and local endpoints.
    pub fn compute(
        &mut self,
        policies: &BTreeMap<tombolo_model::PolicyKey, Policy>,
        identities: &BTreeMap<Identity, Labels>,
        endpoints: &Endpoints,
    ) {
        self.problems.clear();
        let local: BTreeSet<Identity> = endpoints.iter().map(|endpoint| endpoint.wiring.identity).collect();
        let labels: BTreeMap<Identity, &Labels> =
            local.iter().filter_map(|id| Some((*id, identities.get(id)?))).collect();
        // Policies that protect nobody here need no bits.
        let relevant: Vec<&Policy> = policies
            .values()
            .filter(|policy| labels.values().any(|labels| policy.subject.matches(labels)))
            .collect();
        let changed = self.bits.assign(&selectors(relevant.iter().copied()), identities);
        self.refresh_identities(&changed, identities);

        let mut compiled = BTreeMap::new();
        for (id, labels) in labels {
            let policies = relevant.iter().copied();
            compiled.insert(id, compile(policies, labels, &self.bits, &mut self.problems));
        }
        self.program(endpoints, &compiled);
    }

    /// Notes that `IDENTITY` and `POLICY` have been written as desired. Whether [`PolicyTables::compute`] should
    /// run, because bits may have become free for selectors without one.
    pub fn settle(&mut self, identities: &BTreeMap<Identity, Labels>) -> bool {
        let changed = self.bits.settle();
        self.refresh_identities(&changed, identities);
        self.problems.iter().any(|problem| {
            matches!(problem, Problem::SelectorsExhausted { .. } | Problem::SelectorNarrowed { .. })
        })
    }

    /// Rewrites the identities that gained or lost one of the bits.
    fn refresh_identities(&mut self, bits: &BTreeSet<u16>, identities: &BTreeMap<Identity, Labels>) {
        for (id, labels) in identities {
            let is_stale =
                |held: &Bitmap| bits.iter().any(|bit| held.contains(*bit) != self.bits.has(*bit, labels));
            if self.identity.entries().get(&id.get()).is_none_or(is_stale) {
                self.identity.set(id.get(), Some(self.bits.bitmap(labels)));
            }
        }
    }

    fn program(&mut self, endpoints: &Endpoints, compiled: &BTreeMap<Identity, Compiled>) {
        let closed = Compiled::closed();
        let (mut rules, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for endpoint in endpoints.iter() {
            let (id, identity) = (endpoint.id, endpoint.wiring.identity);
            let compiled = compiled.get(&identity).unwrap_or_else(|| {
                self.problems.insert(Problem::UnknownIdentity { endpoint: id, identity });
                &closed
            });
            rules.extend(entries(id, compiled));
            for address in &endpoint.wiring.addresses {
                addresses.insert(AddressKey::new(address.octets()), endpoint_value(endpoint, compiled));
            }
        }
        self.policy.replace(rules);
        self.endpoint.replace(addresses);
    }
}

fn endpoint_value(endpoint: &LocalEndpoint, compiled: &Compiled) -> EndpointValue {
    let flag = |entries: &Option<_>, flag| if entries.is_some() { flag } else { EndpointFlags::NONE };
    let flags = flag(&compiled.ingress, EndpointFlags::INGRESS_ENFORCED)
        .with(flag(&compiled.egress, EndpointFlags::EGRESS_ENFORCED));
    let wiring = &endpoint.wiring;
    EndpointValue::new(
        wiring.ifindex,
        endpoint.id,
        wiring.identity.get(),
        flags,
        wiring.pod_mac,
        wiring.host_mac,
    )
}
