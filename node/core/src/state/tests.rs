use proptest::prelude::*;
use tombolo_abi::{AddressFlags, AddressKey};
use tombolo_model::{Affinity, Backend, BackendState, Protocol};
use tombolo_model::{
    Identity, IdentityRecord, Labels, Peer, Peers, Policy, PolicyKind, Requirement, Rule, Selector,
    ServicePort, ServiceRecord, TunnelKey, label,
};

use super::*;

fn cluster(id: u16) -> ClusterId {
    ClusterId::try_from(id).unwrap()
}

fn identity(c: u16, n: u32) -> Identity {
    Identity::new(cluster(c), 256 + n).unwrap()
}

fn own() -> OwnNode {
    OwnNode { cluster: cluster(1), name: "n0".into(), addresses: vec!["169.254.1.1".parse().unwrap()] }
}

fn identity_record(c: u16, n: u32, app: &str) -> Record {
    let labels: Labels = [(label::CLUSTER.to_owned(), c.to_string()), (label::pod("app"), app.to_owned())]
        .into_iter()
        .collect();
    Record::Identity(IdentityRecord { id: identity(c, n), labels })
}

fn pod_record(c: u16, n: u32, node: &str, address: Address, id: Identity) -> Record {
    Record::Endpoint(EndpointRecord {
        cluster: cluster(c),
        namespace: "x".into(),
        name: format!("p{n}"),
        uid: format!("u{n}"),
        node: node.into(),
        addresses: vec![address],
        identity: id,
    })
}

fn wiring(n: u32) -> Wiring {
    Wiring {
        attachment: AttachmentId { container: format!("c{n}"), interface: "eth0".into() },
        pod: PodRef { namespace: "x".into(), name: format!("p{n}"), uid: format!("u{n}") },
        netns: String::new(),
        host_interface: String::new(),
        ifindex: n,
        host_mac: [0; 6],
        pod_mac: [0; 6],
        addresses: vec![std::net::Ipv4Addr::new(10, 1, 0, 2 + u8::try_from(n).unwrap()).into()],
        identity: identity(1, n % 3),
    }
}

fn record() -> impl Strategy<Value = Record> {
    let app = "[abc]";
    let ids = (1u16..4, 0u32..4);
    let node = (1u16..4, 0u8..3, any::<bool>(), 0u8..6).prop_map(|(c, n, key, net)| {
        Record::Node(NodeRecord {
            cluster: cluster(c),
            name: format!("n{n}"),
            addresses: vec![std::net::Ipv4Addr::new(192, 0, 2, n + net).into()],
            pod_prefixes: vec![format!("10.{c}.{net}.0/24").parse().unwrap()],
            zone: String::new(),
            tunnel: key.then_some(TunnelKey { public_key: [n; 32], port: 51871 }),
        })
    });
    let pod = (ids.clone(), 0u32..4, 0u8..3, 0u8..6).prop_map(|((c, i), n, node, address)| {
        let address = std::net::Ipv4Addr::new(10, 1, 0, 2 + address).into();
        pod_record(c, n, &format!("n{node}"), address, identity(c, i))
    });
    let backend = (2u8..6, 1u16..3).prop_map(|(n, c)| Backend {
        address: format!("10.{c}.0.{n}").parse().unwrap(),
        port: 80,
        cluster: cluster(c),
        node: String::new(),
        zone: String::new(),
        state: BackendState::Ready,
    });
    let service = (0u8..3, 10u8..12, prop::collection::vec(backend, 0..4)).prop_map(|(n, ip, backends)| {
        Record::Service(ServiceRecord {
            cluster: cluster(1),
            namespace: "x".into(),
            name: format!("s{n}"),
            frontends: vec![format!("10.96.0.{ip}").parse().unwrap()],
            global: false,
            shared: false,
            affinity: Affinity::Local,
            on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
            ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, backends }],
        })
    });
    let policy = (0u8..4, app, app).prop_map(|(n, subject, peer)| {
        let select = |app| Selector::from_iter([Requirement::equals(label::pod("app"), app)]);
        let rule = Rule { peers: Peers::Of(vec![Peer::Pods(select(peer))]), ports: vec![] };
        Record::Policy(Policy {
            key: tombolo_model::PolicyKey {
                kind: PolicyKind::NetworkPolicy,
                namespace: "x".into(),
                name: format!("y{n}"),
            },
            subject: select(subject),
            ingress: Some(vec![rule]),
            egress: None,
        })
    });
    let identities = (ids, app).prop_map(|((c, n), app)| identity_record(c, n, &app));
    prop_oneof![identities, node, pod, service, policy]
}

#[derive(Clone, Debug)]
enum Op {
    Upsert(Record),
    Delete(Record),
    Attach(u32),
    Detach(u32),
    Refresh,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => record().prop_map(Op::Upsert),
        3 => record().prop_map(Op::Delete),
        2 => (0u32..4).prop_map(Op::Attach),
        1 => (0u32..4).prop_map(Op::Detach),
        2 => Just(Op::Refresh),
        1 => Just(Op::Settle),
    ]
}

/// All tables as text, to compare and to show.
fn tables(state: &mut State) -> Vec<String> {
    vec![
        format!("{:?}", state.peers().entries()),
        format!("{:?}", state.routes().entries()),
        format!("{:?}", state.identity().entries()),
        format!("{:?}", state.prefix().entries()),
        format!("{:?}", state.address().entries()),
        format!("{:?}", state.policy().entries()),
        format!("{:?}", state.endpoint().entries()),
        format!("{:?}", state.backend().entries()),
        format!("{:?}", state.slot().entries()),
        format!("{:?}", state.service().entries()),
        format!("{:?}", state.problems().collect::<Vec<_>>()),
    ]
}

fn all_records(state: &State) -> Vec<Record> {
    let records = &state.records;
    let identities = records
        .identities
        .iter()
        .map(|(id, l)| Record::Identity(IdentityRecord { id: *id, labels: l.clone() }));
    identities
        .chain(records.nodes.values().cloned().map(Record::Node))
        .chain(records.endpoints.values().cloned().map(Record::Endpoint))
        .chain(state.foreign_endpoints().map(Record::Endpoint))
        .chain(records.services.values().cloned().map(Record::Service))
        .chain(records.policies.values().cloned().map(Record::Policy))
        .collect()
}

proptest! {
    /// However the state came about, its tables are those of one that is told the same at once.
    #[test]
    fn incremental_is_full(ops in prop::collection::vec(op(), 1..60)) {
        let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
        state.complete_sync();
        for op in ops {
            match op {
                Op::Upsert(record) => state.apply(Change::Upsert(record)),
                Op::Delete(record) => state.apply(Change::Delete(record.key())),
                Op::Attach(n) => { let _ = state.add_endpoint(wiring(n)); }
                Op::Detach(n) => { let _ = state.remove_endpoint(&wiring(n).attachment); }
                Op::Refresh => { state.refresh(); }
                Op::Settle => {
                    state.identity().take_changed();
                    state.policy().take_changed();
                    state.settle_policies();
                }
            }
        }
        state.refresh();
        let mut full = State::new(own(), state.endpoints.clone(), state.selector_bits().clone());
        let (services, slots, backends) = (
            state.service().entries().clone(), state.slot().entries().clone(), state.backend().entries().clone(),
        );
        full.adopt_services(&services, &slots, &backends, 0);
        for record in all_records(&state) {
            full.apply(Change::Upsert(record));
        }
        full.complete_sync();
        full.refresh();
        for (found, expected) in tables(&mut state).iter().zip(tables(&mut full)) {
            prop_assert_eq!(found, &expected);
        }
    }

    /// A new session that tells the same changes nothing, in the middle or at the end; what it leaves out is gone
    /// at its end and not before.
    #[test]
    fn a_session_prunes_at_its_end(records in prop::collection::vec(record(), 1..30), keep: u64) {
        let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
        state.complete_sync();
        records.iter().for_each(|record| state.apply(Change::Upsert(record.clone())));
        state.refresh();
        let before = tables(&mut state);
        let kept: Vec<Record> =
            all_records(&state).into_iter().enumerate().filter(|(i, _)| keep >> (i % 64) & 1 == 1).map(|(_, r)| r).collect();
        state.begin_sync();
        kept.iter().for_each(|record| state.apply(Change::Upsert(record.clone())));
        state.refresh();
        prop_assert_eq!(tables(&mut state), before);
        state.complete_sync();
        prop_assert_eq!(all_records(&state), kept);
    }
}

#[test]
fn before_the_first_sync_policy_is_left_alone() {
    let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
    state.begin_sync();
    state.apply(Change::Upsert(identity_record(1, 0, "a")));
    state.add_endpoint(wiring(0)).unwrap();
    assert_eq!(state.refresh(), [TableId::Address]);
    state.complete_sync();
    // The policy tables are still empty: pruning now would open what is closed.
    assert!(!state.may_prune());
    assert_eq!(state.refresh(), [TableId::Identity, TableId::Address, TableId::Endpoint]);
    assert!(state.may_prune());
}

#[test]
fn reserved_identities_have_no_labels() {
    let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
    state.complete_sync();
    state.refresh();
    state.address().take_changed();
    let labels = Labels::default();
    state.apply(Change::Upsert(Record::Identity(IdentityRecord { id: Identity::HOST, labels })));
    assert!(state.records().identities().is_empty() && state.refresh().is_empty());
}

#[test]
fn one_of_many_endpoints_touches_its_own_keys() {
    let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
    let address = |n: u32| std::net::Ipv4Addr::from(0x0a02_0000 + n).into();
    for n in 0..50_000 {
        state.apply(Change::Upsert(identity_record(2, n, "a")));
        state.apply(Change::Upsert(pod_record(2, n, "m", address(n), identity(2, n))));
    }
    state.complete_sync();
    state.refresh();
    assert_eq!(
        (state.identity().take_changed().len(), state.address().take_changed().len()),
        (50_000, 50_001)
    );
    state.apply(Change::Upsert(identity_record(2, 60_000, "a")));
    state.apply(Change::Upsert(pod_record(2, 7, "m", address(60_000), identity(2, 60_000))));
    assert_eq!(state.refresh(), [TableId::Identity, TableId::Address]);
    assert_eq!((state.identity().take_changed().len(), state.address().take_changed().len()), (1, 2));
}

#[test]
fn bits_settle_only_when_the_changes_were_taken() {
    let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
    state.apply(Change::Upsert(identity_record(1, 0, "a")));
    state.add_endpoint(wiring(0)).unwrap();
    state.complete_sync();
    let policy = Policy {
        key: tombolo_model::PolicyKey {
            kind: PolicyKind::NetworkPolicy,
            namespace: "x".into(),
            name: "y".into(),
        },
        subject: Selector::default(),
        ingress: Some(vec![Rule { peers: Peers::Of(vec![Peer::Pods(Selector::default())]), ports: vec![] }]),
        egress: None,
    };
    state.apply(Change::Upsert(Record::Policy(policy.clone())));
    state.refresh();
    state.apply(Change::Delete(RecordKey::Policy(policy.key)));
    state.refresh();
    state.settle_policies();
    assert!(state.identity().entries()[&identity(1, 0).get()].contains(1));
    state.identity().take_changed();
    state.policy().take_changed();
    state.settle_policies();
    assert!(!state.identity().entries()[&identity(1, 0).get()].contains(1));
}

#[test]
fn addresses_of_the_host_come_and_go() {
    let ip = |last| Address::from(std::net::Ipv4Addr::new(192, 0, 2, last));
    let mut state = State::new(own(), Endpoints::default(), SelectorBits::default());
    let record = NodeRecord {
        cluster: cluster(1),
        name: "n0".into(),
        addresses: vec![ip(1)],
        pod_prefixes: vec![],
        zone: String::new(),
        tunnel: None,
    };
    state.apply(Change::Upsert(Record::Node(record.clone())));
    let is_host = |state: &mut State, last| {
        let value = state.address().entries().get(&AddressKey::new(ip(last).octets()));
        value.is_some_and(|value| value.flags().contains(AddressFlags::HOST))
    };
    assert!(is_host(&mut state, 1) && !is_host(&mut state, 9));
    state.set_host_addresses(vec![ip(1), ip(9)]);
    assert!(is_host(&mut state, 1) && is_host(&mut state, 9));
    assert!(state.refresh().contains(&TableId::Address));
    // The other node of the cluster has taken it over.
    state.set_host_addresses(vec![]);
    assert!(is_host(&mut state, 1) && !is_host(&mut state, 9), "its record still has the first one");
    state.apply(Change::Delete(Record::Node(record).key()));
    assert!(!is_host(&mut state, 1));
}
