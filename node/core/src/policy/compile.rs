//! From policies to the entries of `POLICY`.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{ANY_PEER, Bitmap, Direction, PolicyKey, PolicyValue};
use tombolo_model::{Labels, Peer, Peers, Policy, PortRule, Protocol, Rule, Selector};

use super::{
    bits::{BitState, SelectorBits},
    ports::{PortPrefix, prefixes},
};
use crate::problem::Problem;

/// Which traffic of an endpoint and direction an entry is about, less specific scopes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// All of it.
    Any,
    /// All ports of a protocol.
    Protocol(Protocol),
    /// Some destination ports of a protocol; the prefix has at least one bit.
    Ports(Protocol, PortPrefix),
}

/// Who is let through, by scope. Each entry holds what the less specific ones around it let through.
pub type Entries = BTreeMap<Scope, Bitmap>;

/// What the policies say about pods with the same labels. A direction without entries is open; one with an empty
/// set of entries lets nobody through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compiled {
    /// What is let in.
    pub ingress: Option<Entries>,
    /// What is let out.
    pub egress: Option<Entries>,
}

impl Compiled {
    /// Both directions closed: for a pod whose labels are not known.
    pub fn closed() -> Self {
        Self { ingress: Some(Entries::new()), egress: Some(Entries::new()) }
    }
}

/// The selectors that rules of these policies name peers with.
pub fn selectors<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> BTreeSet<Selector> {
    let rules = policies.into_iter().flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten());
    let peers = rules.flat_map(|rule| match &rule.peers {
        Peers::Any => [].iter(),
        Peers::Of(peers) => peers.iter(),
    });
    peers
        .filter_map(|peer| match peer {
            Peer::Pods(selector) => Some(selector.clone()),
            Peer::Prefix { .. } => None,
        })
        .collect()
}

/// What `policies` say about pods with these labels: the union of those that select them, per direction. What
/// cannot be expressed lets nobody through and is added to `problems`.
pub fn compile<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    labels: &Labels,
    bits: &SelectorBits,
    problems: &mut BTreeSet<Problem>,
) -> Compiled {
    let mut compiled = Compiled::default();
    for policy in policies.into_iter().filter(|policy| policy.subject.matches(labels)) {
        let directions = [(&mut compiled.ingress, &policy.ingress), (&mut compiled.egress, &policy.egress)];
        for (entries, rules) in directions {
            let Some(rules) = rules else { continue };
            let entries = entries.get_or_insert_default();
            for rule in rules {
                add_rule(entries, policy, rule, bits, problems);
            }
        }
    }
    for entries in [&mut compiled.ingress, &mut compiled.egress].into_iter().flatten() {
        widen(entries);
    }
    compiled
}

/// The entries of `POLICY` for an endpoint.
pub fn entries(endpoint: u32, compiled: &Compiled) -> impl Iterator<Item = (PolicyKey, PolicyValue)> {
    let directions = [(Direction::Ingress, &compiled.ingress), (Direction::Egress, &compiled.egress)];
    directions.into_iter().flat_map(move |(direction, entries)| {
        entries.iter().flatten().map(move |(scope, allow)| {
            let key = match scope {
                Scope::Any => PolicyKey::any(endpoint, direction),
                Scope::Protocol(protocol) => PolicyKey::protocol(endpoint, direction, protocol.number()),
                Scope::Ports(protocol, ports) => {
                    PolicyKey::ports(endpoint, direction, protocol.number(), ports.port, ports.len)
                }
            };
            (key, PolicyValue::new(*allow, Bitmap::EMPTY))
        })
    })
}

fn add_rule(
    entries: &mut Entries,
    policy: &Policy,
    rule: &Rule,
    bits: &SelectorBits,
    problems: &mut BTreeSet<Problem>,
) {
    let peers = peer_bits(policy, &rule.peers, bits, problems);
    if peers.is_empty() {
        return;
    }
    let mut add = |scope| {
        let entry = entries.entry(scope).or_default();
        *entry = entry.union(&peers);
    };
    if rule.ports.is_empty() {
        add(Scope::Any);
    }
    for PortRule { protocol, range } in &rule.ports {
        match *range {
            None | Some((0, u16::MAX)) => add(Scope::Protocol(*protocol)),
            Some((first, last)) if first > last => {
                problems.insert(Problem::EmptyPortRange { policy: policy.key.clone(), first, last });
            }
            Some((first, last)) => {
                prefixes(first, last).into_iter().for_each(|ports| add(Scope::Ports(*protocol, ports)));
            }
        }
    }
}

fn peer_bits(
    policy: &Policy,
    peers: &Peers,
    bits: &SelectorBits,
    problems: &mut BTreeSet<Problem>,
) -> Bitmap {
    let Peers::Of(peers) = peers else { return Bitmap::ANY };
    let mut bitmap = Bitmap::EMPTY;
    for peer in peers {
        let selector = match peer {
            Peer::Pods(selector) => selector,
            Peer::Prefix { prefix, .. } => {
                problems.insert(Problem::IpBlock { policy: policy.key.clone(), prefix: *prefix });
                continue;
            }
        };
        match bits.state(selector) {
            BitState::Exact(bit) => {
                bitmap.set(bit);
            }
            BitState::Narrowed(bit) => {
                bitmap.set(bit);
                problems.insert(Problem::SelectorNarrowed { policy: policy.key.clone() });
            }
            BitState::None => {
                problems.insert(Problem::SelectorsExhausted { policy: policy.key.clone() });
            }
        }
    }
    debug_assert!(!bitmap.contains(ANY_PEER));
    bitmap
}

/// Adds to each entry what the less specific ones around it let through, because only the longest match counts.
fn widen(entries: &mut Entries) {
    let own = entries.clone();
    for (scope, bitmap) in entries.iter_mut() {
        let mut add = |outer: Scope| {
            if let Some(outer) = own.get(&outer) {
                *bitmap = bitmap.union(outer);
            }
        };
        match *scope {
            Scope::Any => {}
            Scope::Protocol(_) => add(Scope::Any),
            Scope::Ports(protocol, ports) => {
                add(Scope::Any);
                add(Scope::Protocol(protocol));
                (1..ports.len).for_each(|len| add(Scope::Ports(protocol, ports.shortened(len))));
            }
        }
    }
}
