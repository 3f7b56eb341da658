use std::{collections::BTreeSet, sync::Arc};

use tombolo_model::*;

use super::*;
use crate::wire::{Frame, decode_frame, encode_frame};

pub fn cluster(n: u16) -> ClusterId {
    ClusterId::try_from(n).unwrap()
}

fn id(n: u8, version: u8) -> Identity {
    Identity::new(cluster(1), 256 + u32::from(n) * 256 + u32::from(version)).unwrap()
}

pub fn identity(n: u8, version: u8) -> Record {
    let labels = [(label::CLUSTER.to_owned(), "east".to_owned())].into_iter().collect();
    Record::Identity(IdentityRecord { id: id(n, version), labels })
}

pub fn endpoint(n: u8, version: u8) -> Record {
    Record::Endpoint(EndpointRecord {
        cluster: cluster(1),
        namespace: "default".into(),
        name: format!("pod-{n}"),
        uid: "u".into(),
        node: "a".into(),
        addresses: vec![format!("10.1.0.{n}").parse().unwrap()],
        identity: id(n, version),
    })
}

pub fn node(cluster: ClusterId, name: &str) -> Record {
    Record::Node(NodeRecord {
        cluster,
        name: name.into(),
        addresses: vec!["192.168.1.1".parse().unwrap()],
        pod_prefixes: vec!["10.1.0.0/24".parse().unwrap()],
        zone: String::new(),
        tunnel: None,
    })
}

pub fn service(n: u8, hosts: &[u8]) -> Record {
    let backend = |host: &u8| Backend {
        address: format!("10.1.0.{host}").parse().unwrap(),
        port: 80,
        cluster: cluster(1),
        node: String::new(),
        zone: String::new(),
        state: BackendState::Ready,
    };
    let hosts: BTreeSet<_> = hosts.iter().collect();
    Record::Service(ServiceRecord {
        cluster: cluster(1),
        namespace: "default".into(),
        name: format!("service-{n}"),
        frontends: vec![],
        global: true,
        shared: true,
        affinity: Affinity::None,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: hosts.into_iter().map(backend).collect(),
        }],
    })
}

/// Connects, transfers everything; how many records the receiver has then, and whether it is complete.
pub fn sync(log: &Log, receiver: &mut Receiver) -> (usize, bool) {
    transfer(log, receiver);
    (receiver.records().len(), receiver.everything().complete)
}

/// Connects, transfers everything; how many changes were sent.
fn transfer(log: &Log, receiver: &mut Receiver) -> usize {
    measure(log, receiver).0
}

/// Connects, transfers everything; how many changes were sent, and how many bytes in both directions.
fn measure(log: &Log, receiver: &mut Receiver) -> (usize, usize) {
    let Frame::Subscribe(subscription) = receiver.subscribe() else { panic!("not a subscription") };
    let mut sender = Sender::default();
    sender.subscribe(log, subscription);
    let (mut changes, mut bytes) = (0, 0);
    while let Some(out) = sender.poll(log) {
        changes += out.changes;
        bytes += out.frame.len();
        receiver.handle(decode_frame(&out.frame).unwrap()).unwrap();
        if let Some(reply) = receiver.take_reply() {
            bytes += encode_frame(&reply).unwrap().len();
            answer(&mut sender, log, reply);
        }
    }
    (changes, bytes)
}

/// Gives the receiver's reply to the sender.
pub fn answer(sender: &mut Sender, log: &Log, reply: Frame) {
    match reply {
        Frame::Want(wanted) => sender.want(log, wanted),
        Frame::Subscribe(subscription) => sender.subscribe(log, subscription),
        other => panic!("{other:?} is no reply"),
    }
}

fn complete(epoch: u64, history: usize) -> Log {
    let mut log = Log::new(epoch, history);
    log.set_scope(Scope::AllBut(BTreeSet::new()));
    log
}

#[test]
fn resuming_costs_what_has_changed() {
    let mut log = complete(1, 8);
    log.apply((0..200).map(|n| identity(n, 0).into()), 1);
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    assert_eq!(transfer(&log, &mut receiver), 200);
    assert_eq!(transfer(&log, &mut receiver), 0);
    // However often something changes, it is sent once.
    for version in 1..100 {
        log.apply([endpoint(1, version % 2).into(), identity(1, 1).into()], 1);
    }
    assert_eq!(transfer(&log, &mut receiver), 2);
    assert_eq!(receiver.records().len(), 202);
}

#[test]
fn missing_more_removals_than_are_remembered_compares() {
    let mut log = complete(1, 4);
    log.apply((0..50).map(|n| identity(n, 0).into()), 1);
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    transfer(&log, &mut receiver);
    for n in 0..4 {
        log.apply([Change::Remove(identity(n, 0).key())], 1);
    }
    assert_eq!(transfer(&log, &mut receiver), 4);
    for n in 4..9 {
        log.apply([Change::Remove(identity(n, 0).key())], 1);
    }
    log.apply([endpoint(20, 0).into()], 1);
    assert_eq!(transfer(&log, &mut receiver), 1);
    assert_eq!(receiver.records().len(), 42);
    // One that cannot compare is sent everything.
    let mut sender = Sender::default();
    let from = Some(Position { epoch: 1, revision: 1 });
    sender.subscribe(&log, Subscription { from, holds_records: false });
    assert_eq!(sender.start(), Start::Snapshot);
    assert_eq!(std::iter::from_fn(|| sender.poll(&log)).map(|out| out.changes).sum::<usize>(), 42);
}

/// As many records as a cluster of a large mesh has.
fn thousand(epoch: u64) -> Log {
    let mut log = complete(epoch, 8);
    let identities = (0u8..=255).flat_map(|n| (0..4).map(move |version| identity(n, version).into()));
    log.apply(identities, 1);
    log
}

#[test]
fn another_exporter_sends_what_differs() {
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    let (_, everything) = measure(&thousand(1), &mut receiver);
    // It has one record more, one less, and one in another version.
    let mut other = thousand(2);
    let Record::Identity(mut changed) = identity(9, 1) else { unreachable!() };
    changed.labels.0.insert("app".into(), "web".into());
    let [more, less] = [endpoint(7, 1), identity(8, 1)];
    other.apply([more.into(), Change::Remove(less.key()), Record::Identity(changed).into()], 2);
    let (changes, bytes) = measure(&other, &mut receiver);
    assert_eq!(changes, 2);
    assert!(bytes < 2048 && bytes * 10 < everything, "{bytes} of {everything} bytes");
    assert!(receiver.records().values().eq(other.records()));
    // Nothing differs.
    let (changes, bytes) = measure(&thousand(3), &mut measured(&thousand(1)));
    assert!(changes == 0 && bytes < 640, "{changes} changes, {bytes} bytes");
}

fn measured(log: &Log) -> Receiver {
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    transfer(log, &mut receiver);
    receiver
}

#[test]
fn what_an_incomplete_exporter_lacks_is_kept_until_it_is_complete() {
    let mut receiver = measured(&thousand(1));
    let mut starting = Log::new(2, 8);
    starting.apply([identity(1, 1).into()], 1);
    assert_eq!(sync(&starting, &mut receiver), (1024, false));
    starting.set_scope(Scope::AllBut(BTreeSet::new()));
    assert_eq!(sync(&starting, &mut receiver), (1, true));
}

#[test]
fn what_belongs_to_no_cluster_goes_with_a_complete_snapshot() {
    let key = PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: "a".into(), name: "b".into() };
    let policy = Policy { key, subject: Selector::default(), ingress: None, egress: None };
    let mut log = complete(1, 8);
    log.apply([identity(1, 0).into(), Record::Policy(policy).into()], 1);
    let mut receiver = measured(&log);
    assert_eq!(receiver.records().len(), 2);
    // The policy was deleted before this exporter began.
    let mut other = Log::new(2, 8);
    other.apply([identity(1, 0).into()], 1);
    other.set_scope(Scope::AllBut([cluster(2)].into()));
    assert_eq!(sync(&other, &mut receiver), (1, true));
}

#[test]
fn answers_to_digests_that_were_not_sent_are_errors_or_ignored() {
    let log = thousand(1);
    let mut receiver = measured(&log);
    assert!(receiver.handle(Frame::Obsolete(vec![1])).is_err(), "outside of a snapshot");
    assert!(receiver.handle(Frame::Digests(vec![1])).is_err(), "outside of a snapshot");
    let position = Position { epoch: 9, revision: 0 };
    receiver.handle(Frame::Begin { position, snapshot: true }).unwrap();
    assert!(receiver.handle(Frame::Obsolete(vec![1])).is_err(), "before digests");
    let mut sender = Sender::default();
    sender.want(&log, vec![WantedBucket { index: 0, held: vec![1] }]);
    assert!(sender.poll(&log).is_none(), "nobody subscribed");
}

#[test]
fn a_starting_exporter_tells_removals_of_what_it_has_not_read() {
    let mut receiver = measured(&{
        let mut log = complete(1, 8);
        log.apply([identity(1, 0).into(), endpoint(1, 0).into()], 1);
        log
    });
    let mut starting = Log::new(2, 8);
    starting.apply([identity(1, 0).into()], 1);
    let Frame::Subscribe(subscription) = receiver.subscribe() else { unreachable!() };
    let mut sender = Sender::default();
    sender.subscribe(&starting, subscription);
    let mut deltas = move |log: &Log, receiver: &mut Receiver| {
        let mut changes = Vec::new();
        while let Some(out) = sender.poll(log) {
            changes.extend(receiver.handle(decode_frame(&out.frame).unwrap()).unwrap().map(|d| d.changes));
            if let Some(reply) = receiver.take_reply() {
                answer(&mut sender, log, reply);
            }
        }
        changes.concat()
    };
    assert_eq!(deltas(&starting, &mut receiver), []);
    // The pod goes before it was read: an address must not lose its identity alone.
    let gone = [identity(1, 0).key(), endpoint(1, 0).key()].map(Change::Remove);
    starting.apply(gone.clone(), 1);
    assert_eq!(deltas(&starting, &mut receiver), gone);
}

#[test]
fn what_changes_nothing_is_no_transaction() {
    let mut log = complete(1, 4);
    assert_eq!(log.apply([identity(1, 1).into()], 1).revision, Some(1));
    assert_eq!(log.apply([identity(1, 1).into(), Change::Remove(identity(2, 1).key())], 1).revision, None);
    assert_eq!(log.position().revision, 1);
}

#[test]
fn a_removed_backend_overtakes_a_snapshot() {
    let mut log = complete(1, 8);
    log.apply((0..=255).flat_map(|n| [identity(n, 0).into(), endpoint(n, 0).into()]), 1);
    log.apply((0..=255).flat_map(|n| (1..=20).map(move |v| identity(n, v).into())), 1);
    log.apply([service(1, &[1, 2, 3]).into()], 1);
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    transfer(&log, &mut receiver);
    // The exporter restarts with everything; the receiver is sent it all again.
    let mut again = complete(2, 8);
    again.apply(log.records().cloned().map(Change::Upsert).collect::<Vec<_>>(), 1);
    let mut sender = Sender::default();
    sender.subscribe(&again, Subscription { from: receiver.position(), holds_records: false });
    for _ in 0..2 {
        receiver.handle(decode_frame(&sender.poll(&again).unwrap().frame).unwrap()).unwrap();
    }
    // Host 4 comes, host 2 goes: the next frame takes 2 away and says nothing of 4 yet.
    again.apply([service(1, &[1, 3, 4]).into()], 1);
    let delta = receiver.handle(decode_frame(&sender.poll(&again).unwrap().frame).unwrap()).unwrap().unwrap();
    assert_eq!(delta.changes, vec![Change::from(service(1, &[1, 3]))]);
    while let Some(out) = sender.poll(&again) {
        receiver.handle(decode_frame(&out.frame).unwrap()).unwrap();
    }
    assert_eq!(*receiver.records()[&service(1, &[]).key()], service(1, &[1, 3, 4]));
}

fn east() -> Containment {
    Containment {
        cluster: cluster(1),
        name: "east".parse().unwrap(),
        node_prefixes: vec!["192.168.1.0/24".parse().unwrap()],
        pod_prefixes: vec!["10.1.0.0/16".parse().unwrap()],
    }
}

#[test]
fn a_peer_speaks_about_itself_only() {
    let Record::Endpoint(pod) = endpoint(1, 0) else { unreachable!() };
    let Record::Service(web) = service(1, &[1]) else { unreachable!() };
    let Record::Node(host) = node(cluster(1), "a") else { unreachable!() };
    let foreign_backend = {
        let mut web = web.clone();
        web.ports[0].backends[0].cluster = cluster(2);
        web
    };
    let outside_backend = {
        let mut web = web.clone();
        web.ports[0].backends[0].address = "10.2.0.1".parse().unwrap();
        web
    };
    let outside: Vec<Address> = vec!["10.2.0.1".parse().unwrap()];
    let labels = |name: &str| [(label::CLUSTER.to_owned(), name.to_owned())].into_iter().collect();
    let policy = PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: "a".into(), name: "b".into() };
    let policy = Policy { key: policy, subject: Selector::default(), ingress: None, egress: None };
    let cases = [
        (identity(1, 0), None),
        (node(cluster(1), "a"), None),
        (endpoint(1, 0), None),
        (service(1, &[1]), None),
        (
            Record::Identity(IdentityRecord { id: id(1, 0), labels: labels("west") }),
            Some(Refusal::ForeignLabels),
        ),
        (
            Record::Identity(IdentityRecord { id: id(1, 0), labels: Labels::default() }),
            Some(Refusal::ForeignLabels),
        ),
        (
            Record::Identity(IdentityRecord { id: Identity::HOST, labels: labels("east") }),
            Some(Refusal::ForeignIdentity),
        ),
        (
            Record::Identity(IdentityRecord {
                id: Identity::new(cluster(2), 300).unwrap(),
                labels: labels("east"),
            }),
            Some(Refusal::ForeignIdentity),
        ),
        (node(cluster(2), "a"), Some(Refusal::ForeignCluster)),
        (
            Record::Node(NodeRecord { addresses: outside.clone(), ..host.clone() }),
            Some(Refusal::ForeignAddress),
        ),
        (
            Record::Node(NodeRecord { pod_prefixes: vec!["10.0.0.0/8".parse().unwrap()], ..host }),
            Some(Refusal::ForeignAddress),
        ),
        (
            Record::Endpoint(EndpointRecord { addresses: outside, ..pod.clone() }),
            Some(Refusal::ForeignAddress),
        ),
        (
            Record::Endpoint(EndpointRecord { identity: Identity::HOST, ..pod.clone() }),
            Some(Refusal::ForeignIdentity),
        ),
        (Record::Endpoint(EndpointRecord { cluster: cluster(2), ..pod }), Some(Refusal::ForeignCluster)),
        (Record::Service(ServiceRecord { shared: false, ..web.clone() }), Some(Refusal::NotShared)),
        (Record::Service(ServiceRecord { global: false, ..web }), Some(Refusal::NotShared)),
        (Record::Service(foreign_backend), Some(Refusal::ForeignCluster)),
        (Record::Service(outside_backend), Some(Refusal::ForeignAddress)),
        (Record::Policy(policy), Some(Refusal::ForeignCluster)),
    ];
    for (record, refusal) in cases {
        let mut log = complete(1, 8);
        log.apply([record.clone().into()], 1);
        let mut receiver = Receiver::new(Admission::Peer(east()), Limits::default());
        transfer(&log, &mut receiver);
        assert_eq!(receiver.records().len(), usize::from(refusal.is_none()), "{record:?}");
        assert_eq!(receiver.refusals().keys().copied().next(), refusal, "{record:?}");
    }
}

#[test]
fn new_prefixes_drop_and_admit() {
    let mut log = complete(1, 8);
    log.apply([identity(1, 0).into(), endpoint(1, 0).into()], 1);
    let mut receiver = Receiver::new(Admission::Peer(east()), Limits::default());
    transfer(&log, &mut receiver);
    let elsewhere = Containment { pod_prefixes: vec!["10.9.0.0/16".parse().unwrap()], ..east() };
    assert_eq!(receiver.set_containment(elsewhere).changes, vec![Change::Remove(endpoint(1, 0).key())]);
    receiver.set_containment(east());
    transfer(&log, &mut receiver);
    assert_eq!(receiver.records().len(), 2);
}

#[test]
fn limits_are_kept() {
    let mut log = complete(1, 8);
    log.apply((0..10).map(|n| identity(n, 0).into()), 1);
    let mut receiver = Receiver::new(Admission::All, Limits { records: 4, ..Limits::default() });
    transfer(&log, &mut receiver);
    assert_eq!((receiver.records().len(), receiver.refusals()[&Refusal::Limit]), (4, 6));
    let mut receiver = Receiver::new(Admission::All, Limits { bytes: 1500, ..Limits::default() });
    let Frame::Subscribe(_) = receiver.subscribe() else { unreachable!() };
    let mut sender = Sender::default();
    sender.subscribe(&log, Subscription { from: Some(log.position()), holds_records: false });
    log.apply((10..20).map(|n| identity(n, 0).into()), 1);
    sender.poll(&log).unwrap();
    receiver.handle(Frame::Begin { position: Position { epoch: 1, revision: 0 }, snapshot: true }).unwrap();
    sender.poll(&log);
    let batch = decode_frame(&sender.poll(&log).unwrap().frame).unwrap();
    assert_eq!(receiver.handle(batch), Err(ProtocolError::TooLong(1500)));
}

#[test]
fn frames_that_do_not_fit_are_errors() {
    let transaction = |revision| {
        Frame::Transaction(crate::wire::Transaction {
            revision,
            changed_unix_ms: 0,
            more: false,
            changes: vec![],
            skipped: 0,
            invalid: 0,
            first_invalid: None,
        })
    };
    let begin = |revision, snapshot| Frame::Begin { position: Position { epoch: 1, revision }, snapshot };
    let watermark = |epoch, revision| Frame::Watermark {
        position: Position { epoch, revision },
        scope: Scope::AllBut(BTreeSet::new()),
    };
    let cases: [(&str, Vec<Frame>); 6] = [
        ("transaction before the beginning", vec![transaction(1)]),
        ("watermark before the beginning", vec![watermark(1, 1)]),
        ("resumption that was not asked for", vec![begin(3, false)]),
        ("revision twice", vec![begin(3, true), transaction(4), transaction(4)]),
        ("snapshot part outside of a snapshot", vec![begin(3, true), watermark(1, 3), transaction(0)]),
        ("watermark of another epoch", vec![begin(3, true), watermark(2, 3)]),
    ];
    for (name, frames) in cases {
        let mut receiver = Receiver::new(Admission::All, Limits::default());
        let results: Vec<_> = frames.into_iter().map(|f| receiver.handle(f).is_err()).collect();
        let expected: Vec<_> = (1..=results.len()).map(|n| n == results.len()).collect();
        assert_eq!(results, expected, "{name}");
    }
}

#[test]
fn peers_get_what_is_shared_and_nodes_get_everything() {
    let mut exporter = Exporter::new(cluster(1), 1, 8);
    let Record::Service(web) = service(1, &[1]) else { unreachable!() };
    let mut theirs = web.clone();
    theirs.cluster = cluster(2);
    theirs.ports[0].backends[0] = Backend { cluster: cluster(2), ..theirs.ports[0].backends[0].clone() };
    theirs.ports[0].backends[0].address = "10.2.0.1".parse().unwrap();
    let private = ServiceRecord { name: "private".into(), shared: false, ..web.clone() };
    let records = [
        identity(1, 0),
        endpoint(1, 0),
        node(cluster(2), "b"),
        Record::Service(theirs),
        Record::Service(private),
    ];
    exporter.apply(records.into_iter().chain([Record::Service(web.clone())]).map(Change::from), 1);
    let keys = |log: &Log| log.records().map(|r| r.key()).collect::<Vec<_>>();
    let private = RecordKey::Service(cluster(1), "default".into(), "private".into());
    let shared = Record::Service(web.clone()).key();
    assert_eq!(keys(exporter.peers()), [identity(1, 0).key(), endpoint(1, 0).key(), shared.clone()]);
    assert_eq!(
        keys(exporter.nodes()),
        [identity(1, 0).key(), node(cluster(2), "b").key(), endpoint(1, 0).key(), private, shared.clone()]
    );
    let backends = |log: &Log| match &**log.get(&shared).unwrap() {
        Record::Service(s) => s.ports[0].backends.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((backends(exporter.nodes()), backends(exporter.peers())), (2, 1));
    // No longer shared: peers forget it.
    exporter.apply([Change::Upsert(Arc::new(Record::Service(ServiceRecord { shared: false, ..web })))], 1);
    assert!(exporter.peers().get(&shared).is_none() && exporter.nodes().get(&shared).is_some());
    // Peers may prune only when the own cluster is complete.
    exporter.set_scope(Scope::AllBut(BTreeSet::from([cluster(1)])));
    assert_eq!(exporter.peers().scope(), &Scope::Nothing);
    exporter.set_scope(Scope::AllBut(BTreeSet::from([cluster(2)])));
    assert_eq!(exporter.peers().scope(), &Scope::AllBut(BTreeSet::new()));
}

#[test]
fn a_transaction_of_many_frames_is_seen_at_once() {
    let mut log = complete(1, 8);
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    let Frame::Subscribe(subscription) = receiver.subscribe() else { unreachable!() };
    let mut sender = Sender::default();
    sender.subscribe(&log, subscription);
    while let Some(out) = sender.poll(&log) {
        receiver.handle(decode_frame(&out.frame).unwrap()).unwrap();
    }
    log.apply((0..=255).flat_map(|n| (0..20).map(move |v| identity(n, v).into())), 1);
    let frames: Vec<_> = std::iter::from_fn(|| sender.poll(&log)).collect();
    assert!(frames.len() > 2);
    for (n, out) in frames.iter().enumerate() {
        let last = n + 1 == frames.len();
        let delta = receiver.handle(decode_frame(&out.frame).unwrap()).unwrap();
        assert_eq!(delta.map(|d| d.changes.len()), last.then_some(5120));
    }
}
