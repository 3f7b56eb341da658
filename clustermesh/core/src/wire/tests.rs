use std::collections::BTreeMap;

use proptest::{collection, option, prelude::*, sample::select};
use tombolo_model::*;

use super::*;

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,20}"
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    (1u16..=ClusterId::MAX).prop_map(|id| ClusterId::try_from(id).unwrap())
}

fn identity() -> impl Strategy<Value = Identity> {
    let owned = (cluster(), Identity::FIRST_LOCAL..=Identity::MAX_LOCAL)
        .prop_map(|(c, local)| Identity::new(c, local).unwrap());
    prop_oneof![owned, Just(Identity::HOST), Just(Identity::INIT)]
}

fn address() -> impl Strategy<Value = Address> {
    any::<[u8; 16]>().prop_map(Address::from_octets)
}

fn addresses() -> impl Strategy<Value = Vec<Address>> {
    collection::vec(address(), 0..3)
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0u8..=128).prop_map(|(a, bits)| Prefix::new(a, bits))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn tunnel() -> impl Strategy<Value = TunnelKey> {
    (any::<[u8; 32]>(), 1u16..).prop_map(|(public_key, port)| TunnelKey { public_key, port })
}

fn identity_record() -> impl Strategy<Value = Record> {
    (identity(), collection::btree_map(word(), word(), 0..6))
        .prop_map(|(id, labels)| Record::Identity(IdentityRecord { id, labels: Labels(labels) }))
}

fn node_record() -> impl Strategy<Value = Record> {
    (cluster(), word(), addresses(), collection::vec(prefix(), 0..3), ".{0,10}", option::of(tunnel()))
        .prop_map(|(cluster, name, addresses, pod_prefixes, zone, tunnel)| {
            Record::Node(NodeRecord { cluster, name, addresses, pod_prefixes, zone, tunnel })
        })
}

fn endpoint_record() -> impl Strategy<Value = Record> {
    (cluster(), word(), word(), ".{0,10}", word(), addresses(), identity()).prop_map(
        |(cluster, namespace, name, uid, node, addresses, identity)| {
            Record::Endpoint(EndpointRecord { cluster, namespace, name, uid, node, addresses, identity })
        },
    )
}

fn backend() -> impl Strategy<Value = Backend> {
    let states = vec![BackendState::Ready, BackendState::Terminating, BackendState::NotReady];
    (address(), 1u16.., cluster(), word(), ".{0,5}", select(states)).prop_map(
        |(address, port, cluster, node, zone, state)| Backend { address, port, cluster, node, zone, state },
    )
}

fn service_record() -> impl Strategy<Value = Record> {
    let port = (".{0,5}", protocol(), 1u16.., collection::vec(backend(), 0..4))
        .prop_map(|(name, protocol, port, backends)| ServicePort { name, protocol, port, backends });
    let affinity = select(vec![Affinity::None, Affinity::Local, Affinity::Remote]);
    (cluster(), word(), word(), addresses(), any::<[bool; 3]>(), affinity, collection::vec(port, 0..3))
        .prop_map(|(cluster, namespace, name, frontends, [global, shared, keep], affinity, ports)| {
            Record::Service(ServiceRecord {
                cluster,
                namespace,
                name,
                frontends,
                global,
                shared,
                affinity,
                on_cluster_loss: if keep { OnClusterLoss::Keep } else { OnClusterLoss::Drain },
                ports,
            })
        })
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || collection::btree_set(word(), 0..3);
    let requirement = prop_oneof![
        (word(), values()).prop_map(|(k, v)| Requirement::In(k, v)),
        (word(), values()).prop_map(|(k, v)| Requirement::NotIn(k, v)),
        word().prop_map(Requirement::Exists),
        word().prop_map(Requirement::DoesNotExist),
    ];
    collection::vec(requirement, 0..3).prop_map(|r| r.into_iter().collect())
}

fn policy_key() -> impl Strategy<Value = PolicyKey> {
    (select(vec![PolicyKind::NetworkPolicy, PolicyKind::MeshNetworkPolicy]), word(), word())
        .prop_map(|(kind, namespace, name)| PolicyKey { kind, namespace, name })
}

fn policy_record() -> impl Strategy<Value = Record> {
    let peer = prop_oneof![
        selector().prop_map(Peer::Pods),
        (prefix(), collection::vec(prefix(), 0..2))
            .prop_map(|(prefix, except)| Peer::Prefix { prefix, except }),
    ];
    let peers = prop_oneof![Just(Peers::Any), collection::vec(peer, 0..3).prop_map(Peers::Of)];
    let range = option::of((any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))));
    let port = (protocol(), range).prop_map(|(protocol, range)| PortRule { protocol, range });
    let rule = (peers, collection::vec(port, 0..3)).prop_map(|(peers, ports)| Rule { peers, ports }).boxed();
    let rules = || option::of(collection::vec(rule.clone(), 0..3));
    (policy_key(), selector(), rules(), rules())
        .prop_map(|(key, subject, ingress, egress)| Record::Policy(Policy { key, subject, ingress, egress }))
}

fn change() -> impl Strategy<Value = Change> {
    let record =
        prop_oneof![identity_record(), node_record(), endpoint_record(), service_record(), policy_record()];
    (record, any::<bool>())
        .prop_map(|(r, remove)| if remove { Change::Remove(r.key()) } else { Change::Upsert(Arc::new(r)) })
}

fn frame() -> impl Strategy<Value = Frame> {
    let position = || any::<(u64, u64)>().prop_map(|(epoch, revision)| Position { epoch, revision });
    let hello = (any::<(u32, u32, u64)>(), collection::btree_set(word(), 0..3), word(), cluster()).prop_map(
        |((major, minor, unix_time_ms), features, software, cluster_id)| Hello {
            version: Version { major, minor },
            features,
            software,
            cluster: "east".parse().unwrap(),
            cluster_id,
            unix_time_ms,
        },
    );
    let transaction = (any::<(u64, u64, bool)>(), collection::vec(change(), 0..5)).prop_map(
        |((revision, changed_unix_ms, more), changes)| Transaction {
            revision,
            changed_unix_ms,
            more,
            changes,
            skipped: 0,
            invalid: 0,
            first_invalid: None,
        },
    );
    let scope =
        prop_oneof![Just(Scope::Nothing), collection::btree_set(cluster(), 0..4).prop_map(Scope::AllBut)];
    let fact = (word(), word(), word(), addresses())
        .prop_map(|(namespace, name, uid, addresses)| EndpointFact { namespace, name, uid, addresses });
    let pin = || any::<[u8; 32]>().prop_map(Pin);
    let pins = (collection::vec(pin(), 0..3), option::of(pin()));
    let facts = (option::of(tunnel()), collection::vec(fact, 0..3), pins).prop_map(
        |(tunnel, endpoints, (authorities, issuer))| NodeFacts { tunnel, endpoints, authorities, issuer },
    );
    let observation = (collection::btree_set(cluster(), 0..4), any::<u64>())
        .prop_map(|(silent, membership)| Observation { silent, membership });
    let bytes = || collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from);
    prop_oneof![
        hello.prop_map(Frame::Hello),
        (option::of(position()), any::<bool>())
            .prop_map(|(from, holds_records)| { Frame::Subscribe(Subscription { from, holds_records }) }),
        (0u32..7, any::<u64>()).prop_map(|(bits, digest)| Frame::Digests(vec![digest; 1 << bits])),
        collection::vec((0usize..8192, collection::vec(any::<u64>(), 0..5)), 0..5).prop_map(|wanted| {
            Frame::Want(wanted.into_iter().map(|(index, held)| WantedBucket { index, held }).collect())
        }),
        collection::vec(any::<u64>(), 0..5).prop_map(Frame::Obsolete),
        (position(), any::<bool>()).prop_map(|(position, snapshot)| Frame::Begin { position, snapshot }),
        transaction.prop_map(Frame::Transaction),
        change().prop_map(|c| Frame::Withdraw(Some(c))),
        (position(), scope).prop_map(|(position, scope)| Frame::Watermark { position, scope }),
        any::<(u64, u64)>()
            .prop_map(|(revision, unix_time_ms)| Frame::Heartbeat(Heartbeat { revision, unix_time_ms })),
        observation.prop_map(Frame::Observation),
        facts.prop_map(Frame::NodeFacts),
        (word(), bytes()).prop_map(|(token, csr_der)| Frame::EnrollRequest(EnrollRequest { token, csr_der })),
        collection::vec(bytes(), 0..3).prop_map(Frame::EnrollResponse),
        word().prop_map(Frame::Refusal),
        collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Frame::Membership(bytes.into())),
    ]
}

proptest! {
    #[test]
    fn frames_round_trip(frame in frame()) {
        prop_assert_eq!(decode_frame(&encode_frame(&frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in collection::vec(any::<u8>(), 0..2000)) {
        let _ = decode_frame(&bytes);
        let _ = decode_change(&bytes);
    }

    #[test]
    fn damaged_frames_never_panic(frame in frame(), flips in collection::vec(any::<(usize, u8)>(), 1..8)) {
        let mut bytes = encode_frame(&frame).unwrap().to_vec();
        for (at, value) in flips {
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at % len) { *byte = value; }
        }
        let _ = decode_frame(&bytes);
    }
}

/// A field number that no message here uses.
const NEWER_FIELD: [u8; 4] = [0xfa, 0x7f, 1, 7];

#[test]
fn what_is_newer_is_skipped() {
    assert_eq!(decode_frame(&NEWER_FIELD).unwrap(), Frame::Unknown);
    assert_eq!(decode_change(&NEWER_FIELD).unwrap(), None);
    let heartbeat = Frame::Heartbeat(Heartbeat { revision: 5, unix_time_ms: 6 });
    let mut bytes = encode_frame(&heartbeat).unwrap().to_vec();
    bytes.extend(NEWER_FIELD);
    assert_eq!(decode_frame(&bytes).unwrap(), heartbeat);
}

#[test]
fn an_invalid_record_spoils_only_itself() {
    let node = |name: &str| {
        Change::Upsert(Arc::new(Record::Node(NodeRecord {
            cluster: ClusterId::try_from(1).unwrap(),
            name: name.into(),
            addresses: vec![],
            pod_prefixes: vec![],
            zone: String::new(),
            tunnel: None,
        })))
    };
    assert!(matches!(encode_change(&node("")), Err(EncodeError::Field(FieldError::Missing("node.name")))));
    let good = encode_change(&node("a")).unwrap();
    let bad = Bytes::from_static(&[0xff]);
    let newer = Bytes::from_static(&NEWER_FIELD);
    let Frame::Transaction(t) =
        decode_frame(&encode_transaction(1, 0, false, vec![bad, newer, good])).unwrap()
    else {
        panic!("a transaction was encoded")
    };
    assert_eq!((t.changes, t.skipped, t.invalid), (vec![node("a")], 1, 1));
}

#[test]
fn bounds_are_kept() {
    assert_eq!(
        decode_frame(&vec![0; limits::MAX_FRAME + 1]),
        Err(DecodeError::TooLong(limits::MAX_FRAME + 1))
    );
    let labels = |n: usize| {
        let labels = (0..n).map(|i| (i.to_string(), String::new())).collect::<BTreeMap<_, _>>();
        Change::Upsert(Arc::new(Record::Identity(IdentityRecord {
            id: Identity::INIT,
            labels: Labels(labels),
        })))
    };
    assert!(encode_change(&labels(limits::MAX_LABELS)).is_ok());
    assert!(matches!(
        encode_change(&labels(limits::MAX_LABELS + 1)),
        Err(EncodeError::Field(FieldError::TooMany { field: "identity.labels", .. }))
    ));
    let node = |name: usize, addresses: usize, prefixes: usize| {
        let address = Address::from_octets([1; 16]);
        Change::Upsert(Arc::new(Record::Node(NodeRecord {
            cluster: ClusterId::try_from(1).unwrap(),
            name: "n".repeat(name),
            addresses: vec![address; addresses],
            pod_prefixes: vec![Prefix::new(address, 128); prefixes],
            zone: String::new(),
            tunnel: None,
        })))
    };
    let (name, addresses, prefixes) = (limits::MAX_NAME, limits::MAX_ADDRESSES, limits::MAX_PREFIXES);
    assert!(encode_change(&node(name, addresses, prefixes)).is_ok());
    let beyond = [
        (node(name + 1, 0, 0), "node.name"),
        (node(1, addresses + 1, 0), "node.addresses"),
        (node(1, 0, prefixes + 1), "node.pod_prefixes"),
    ];
    for (change, field) in beyond {
        let error = encode_change(&change).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("the most is"), "{error}");
    }
}
