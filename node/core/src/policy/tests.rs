//! The compiled tables against the reference, for arbitrary policies.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tombolo_abi::{Bitmap, Direction, PolicyKey, PolicyValue};
use tombolo_model::{
    ClusterId, Identity, Labels, Peer, Peers, Policy, PolicyKind, PortRule, Protocol, Requirement, Rule,
    Selector,
};

use super::*;
use crate::problem::Problem;

const ENDPOINT: u32 = 7;

/// Looks up as an LPM trie does: the longest entry whose bits are those of the packet.
fn longest_match(
    table: &BTreeMap<PolicyKey, PolicyValue>,
    direction: Direction,
    protocol: u8,
    port: u16,
) -> Option<PolicyValue> {
    let packet = u64::from_be_bytes(PolicyKey::port(ENDPOINT, direction, protocol, port).data());
    table
        .iter()
        .filter(|(key, _)| {
            let differing = packet ^ u64::from_be_bytes(key.data());
            differing.leading_zeros() >= key.prefix_len()
        })
        .max_by_key(|(key, _)| key.prefix_len())
        .map(|(_, value)| *value)
}

fn labels() -> impl Strategy<Value = Labels> {
    let label =
        |key: &'static str| prop::option::of("[ab]").prop_map(move |v| v.map(|v| (key.to_owned(), v)));
    (label("pod:app"), label("pod:tier"), label("ns:team"))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

fn selector() -> impl Strategy<Value = Selector> {
    let key = prop::sample::select(vec!["pod:app", "pod:tier", "ns:team"]).prop_map(str::to_owned);
    let values = prop::collection::btree_set("[abc]", 1..3);
    let requirement = (0u8..4, key, values).prop_map(|(kind, key, values)| match kind {
        0 => Requirement::In(key, values),
        1 => Requirement::NotIn(key, values),
        2 => Requirement::Exists(key),
        _ => Requirement::DoesNotExist(key),
    });
    prop::collection::vec(requirement, 0..3).prop_map(|list| list.into_iter().collect())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn rule() -> impl Strategy<Value = Rule> {
    let port = prop_oneof![0u16..8, Just(80), Just(u16::MAX), any::<u16>()];
    let range = prop::option::of((port.clone(), port));
    let port_rule = (protocol(), range).prop_map(|(protocol, range)| PortRule { protocol, range });
    let prefix = Peer::Prefix { prefix: "192.0.2.0/24".parse().unwrap(), except: vec![] };
    let peer = prop_oneof![9 => selector().prop_map(Peer::Pods), 1 => Just(prefix)];
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => prop::collection::vec(peer, 0..3).prop_map(Peers::Of),
    ];
    (peers, prop::collection::vec(port_rule, 0..3)).prop_map(|(peers, ports)| Rule { peers, ports })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let rules = || prop::option::of(prop::collection::vec(rule(), 0..4));
    let policy = (selector(), rules(), rules()).prop_map(|(subject, ingress, egress)| Policy {
        key: key("p"),
        subject,
        ingress,
        egress,
    });
    prop::collection::vec(policy, 0..5)
}

fn key(name: &str) -> tombolo_model::PolicyKey {
    tombolo_model::PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: "x".into(), name: name.into() }
}

/// The datapath's verdict from the tables.
fn verdict(
    compiled: &Compiled,
    bits: &SelectorBits,
    direction: Direction,
    peer: Option<&Labels>,
    port: Option<(Protocol, u16)>,
) -> bool {
    let enforced = match direction {
        Direction::Ingress => compiled.ingress.is_some(),
        Direction::Egress => compiled.egress.is_some(),
    };
    let table: BTreeMap<_, _> = entries(ENDPOINT, compiled).collect();
    let peer = peer.map_or(Bitmap::ANY, |labels| bits.bitmap(labels));
    let (protocol, port) = port.map_or((1, 0), |(protocol, port)| (protocol.number(), port));
    !enforced || longest_match(&table, direction, protocol, port).is_some_and(|value| value.allows(&peer))
}

/// Ports at and next to the ends of every range, and some more.
fn probes(policies: &[Policy], extra: &[u16]) -> BTreeSet<u16> {
    let rules = policies.iter().flat_map(|p| p.ingress.iter().chain(&p.egress).flatten());
    let ranges = rules.flat_map(|rule| rule.ports.iter().filter_map(|port| port.range));
    let ends = ranges.flat_map(|(a, b)| [a, b, a.wrapping_sub(1), b.wrapping_add(1)]);
    ends.chain(extra.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tables_agree_with_the_meaning(
        policies in policies(),
        population in prop::collection::vec(labels(), 1..6),
        extra: [u16; 3],
    ) {
        let mut bits = SelectorBits::default();
        bits.assign(&selectors(&policies), &BTreeMap::new());
        for subject in &population {
            let compiled = compile(&policies, subject, &bits, &mut BTreeSet::new());
            let ports: Vec<_> = probes(&policies, &extra)
                .into_iter()
                .flat_map(|n| [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|p| Some((p, n))))
                .chain([None])
                .collect();
            for direction in [Direction::Ingress, Direction::Egress] {
                for peer in population.iter().map(Some).chain([None]) {
                    for &port in &ports {
                        let traffic = Traffic { subject, direction, peer, port };
                        prop_assert_eq!(
                            verdict(&compiled, &bits, direction, peer, port),
                            allows(&policies, &traffic),
                            "{:?}", traffic
                        );
                    }
                }
            }
        }
    }

    /// With too few bits the tables let through no more than the policies do, at every step of a change.
    #[test]
    fn running_out_of_bits_never_opens(
        steps in prop::collection::vec(policies(), 1..4),
        population in prop::collection::vec(labels(), 1..6),
        capacity in 1u16..6,
        port: u16,
    ) {
        walk(&steps, &population, SelectorBits::with_capacity(capacity), port, |passes, allowed| !passes || allowed)?;
    }

    /// With enough bits the old rules mean the same until they are replaced: a change interrupts nobody.
    #[test]
    fn a_change_of_policies_interrupts_nobody(
        steps in prop::collection::vec(policies(), 1..4),
        population in prop::collection::vec(labels(), 1..6),
        port: u16,
    ) {
        walk(&steps, &population, SelectorBits::default(), port, |passes, allowed| passes == allowed)?;
    }
}

/// Goes from one set of policies to the next and compares the verdicts with the meaning, also between the writes of
/// IDENTITY and POLICY.
fn walk(
    steps: &[Vec<Policy>],
    population: &[Labels],
    mut bits: SelectorBits,
    port: u16,
    is_right: fn(bool, bool) -> bool,
) -> Result<(), TestCaseError> {
    let cluster = ClusterId::try_from(1).unwrap();
    let number = |i: usize| Identity::new(cluster, 256 + u32::try_from(i).unwrap()).unwrap();
    let identities = population.iter().enumerate().map(|(i, labels)| (number(i), labels.clone())).collect();
    let mut old: (&[Policy], Vec<Compiled>) = (&[], vec![Compiled::default(); population.len()]);
    for policies in steps {
        bits.assign(&selectors(policies), &identities);
        let compiled = population.iter().map(|s| compile(policies, s, &bits, &mut BTreeSet::new())).collect();
        let new = (policies.as_slice(), compiled);
        // IDENTITY is new in both, POLICY still old in the first.
        for (policies, compiled) in [&old, &new] {
            for (subject, compiled) in population.iter().zip(compiled) {
                for direction in [Direction::Ingress, Direction::Egress] {
                    for peer in population.iter().map(Some).chain([None]) {
                        let traffic = Traffic { subject, direction, peer, port: Some((Protocol::Tcp, port)) };
                        let passes = verdict(compiled, &bits, direction, peer, traffic.port);
                        prop_assert!(is_right(passes, allows(*policies, &traffic)), "{:?}", traffic);
                    }
                }
            }
        }
        old = new;
        bits.settle();
    }
    Ok(())
}

#[test]
fn what_is_not_supported_is_closed_and_reported() {
    let prefix = "192.0.2.0/24".parse().unwrap();
    let rules = vec![
        Rule { peers: Peers::Of(vec![Peer::Prefix { prefix, except: vec![] }]), ports: vec![] },
        Rule { peers: Peers::Any, ports: vec![PortRule { protocol: Protocol::Tcp, range: Some((9, 8)) }] },
    ];
    let policy =
        Policy { key: key("block"), subject: Selector::default(), ingress: None, egress: Some(rules) };
    let mut problems = BTreeSet::new();
    let compiled = compile([&policy], &Labels::default(), &SelectorBits::default(), &mut problems);
    assert_eq!(compiled, Compiled { ingress: None, egress: Some(Entries::new()) });
    let expected = [
        Problem::IpBlock { policy: key("block"), prefix },
        Problem::EmptyPortRange { policy: key("block"), first: 9, last: 8 },
    ];
    assert_eq!(problems, expected.into());
}
