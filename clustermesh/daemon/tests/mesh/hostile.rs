//! A member of the mesh with valid credentials tries to get what is not its own. Each attempt is refused, counted and
//! named, and the honest clusters do not notice.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tombolo_mesh_core::{
    membership::{Config, Durable, Member, MemberId, Renewal, Step},
    trust::Service,
    wire::{Change, Frame, NodeFacts, Position, Scope, Transaction, VERSION, Version, encode_frame},
};
use tombolo_mesh_net::{
    join,
    storage::MemberStorage,
    tls::{Credentials, Expected},
    transport::Dialer,
};
use tombolo_model::{
    ClusterName, EndpointRecord, Identity, IdentityRecord, NodeRecord, Record, ServiceRecord, label,
};

use super::{
    cluster::{Cluster, eventually},
    pair,
    puppet::{Puppet, cluster_id, hello, id},
};

/// Records that are not mallory's to announce.
fn foreign() -> Vec<Record> {
    let (own, west) = (cluster_id(9), cluster_id(2));
    let identity = |cluster| Identity::new(cluster, Identity::FIRST_LOCAL + 7).unwrap();
    let endpoint = |cluster, address: &str, identity| {
        Record::Endpoint(EndpointRecord {
            cluster,
            namespace: "shop".to_owned(),
            name: format!("evil-{address}"),
            uid: "u".to_owned(),
            node: "n1".to_owned(),
            addresses: vec![address.parse().unwrap()],
            identity,
        })
    };
    let node = |cluster, address: &str, pods: &str| {
        Record::Node(NodeRecord {
            cluster,
            name: format!("evil-{address}"),
            addresses: vec![address.parse().unwrap()],
            pod_prefixes: vec![pods.parse().unwrap()],
            zone: String::new(),
            tunnel: None,
        })
    };
    let labels = [(label::CLUSTER.to_owned(), "west".to_owned())].into_iter().collect();
    let service = ServiceRecord {
        cluster: west,
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        frontends: vec![],
        ports: vec![],
        global: true,
        shared: true,
        affinity: tombolo_model::Affinity::None,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
    };
    vec![
        endpoint(west, "10.2.0.66", identity(west)),
        endpoint(own, "10.1.0.66", identity(own)),
        endpoint(own, "10.9.0.66", identity(west)),
        node(west, "127.0.0.1", "10.2.66.0/24"),
        node(own, "192.0.2.66", "10.9.66.0/24"),
        node(own, "127.0.0.1", "10.1.66.0/24"),
        Record::Identity(IdentityRecord { id: identity(west), labels }),
        Record::Service(service),
    ]
}

fn misdeeds(east: &Cluster) -> String {
    let status = east.mesh.status().unwrap();
    status
        .problems
        .iter()
        .filter(|p| p.contains("no honest member sends"))
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
}

/// How long changes of west take to east, the slowest of a few.
async fn slowest(east: &Cluster, west: &Cluster, round: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let (name, start) = (format!("late-{round}-{n}"), Instant::now());
        west.add_pod(&name, &format!("10.2.{}.{n}", 1 + round));
        while !east.endpoints_of(west.id()).contains(&name) {
            assert!(start.elapsed() < Duration::from_secs(5), "{name} does not arrive");
            sleep(Duration::from_millis(1)).await;
        }
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_member_gets_nothing() {
    let (east, west) = pair().await;
    let mallory = Puppet::join(&east, "mallory", 9).await;
    let before = slowest(&east, &west, 0).await;
    let honest = east.endpoints_of(west.id()).len();

    records_of_others(&east, &mallory).await;
    other_names(&east, &mallory).await;
    bytes_that_mean_nothing(&east, &mallory).await;
    words_of_other_members(&east, &mallory).await;

    let before_the_flood = misdeeds(&east);
    let flood = tokio::spawn(async move {
        loop {
            let _ = mallory.greeted(VERSION).await.refused(&[Frame::NodeFacts(NodeFacts::default())]).await;
        }
    });
    eventually("the flood has begun", || misdeeds(&east) != before_the_flood).await;
    let during = slowest(&east, &west, 1).await;
    assert!(!flood.is_finished(), "the attacker gave up");
    flood.abort();
    writeln!(std::io::stderr(), "slowest of 20 changes: {before:.1?} in peace, {during:.1?} under attack")
        .unwrap();
    assert_eq!(east.endpoints_of(west.id()).len(), honest + 20);
    let status = east.mesh.status().unwrap();
    let of_west = status.members.iter().find(|m| m.name.as_str() == "west").unwrap();
    assert!(of_west.connected && of_west.synced && of_west.refused.is_empty() && of_west.incarnation == 1);
    let about_west =
        |p: &&String| p.starts_with("cluster west") || p.starts_with("no session with cluster west");
    assert_eq!(status.problems.iter().find(about_west), None);
}

async fn records_of_others(east: &Cluster, mallory: &Puppet) {
    let mut session = mallory.greeted(VERSION).await;
    let position = Position { epoch: 6, revision: 1 };
    let changes: Vec<_> = foreign().into_iter().map(|record| Change::Upsert(Arc::new(record))).collect();
    let expected = changes.len() as u64;
    let transaction = Transaction {
        revision: 0,
        changed_unix_ms: 1,
        more: false,
        changes,
        skipped: 0,
        invalid: 0,
        first_invalid: None,
    };
    let removals = Transaction {
        revision: 2,
        changes: foreign().iter().take(1).map(|record| Change::Remove(record.key())).collect(),
        ..transaction.clone()
    };
    let frames = [
        Frame::Begin { position, snapshot: true },
        Frame::Transaction(transaction),
        Frame::Watermark { position, scope: Scope::AllBut(BTreeSet::new()) },
        Frame::Transaction(removals),
        Frame::Watermark {
            position: Position { revision: 2, ..position },
            scope: Scope::AllBut(BTreeSet::new()),
        },
    ];
    for frame in &frames {
        session.tx.send(frame).await.unwrap();
    }
    eventually("each record is counted", || {
        let status = east.mesh.status().unwrap();
        let of_mallory = status.members.iter().find(|m| m.name.as_str() == "mallory").unwrap();
        of_mallory.refused.values().sum::<u64>() >= expected
            && status.problems.iter().any(|p| p.starts_with("cluster mallory has announced"))
    })
    .await;
    for n in [1, 2, 9] {
        let names = east.endpoints_of(cluster_id(n));
        assert!(!names.iter().any(|name| name.starts_with("evil")), "{names:?}");
    }
    assert_eq!(east.backends().iter().filter(|b| b.cluster == cluster_id(2)).count(), 1);
}

async fn other_names(east: &Cluster, mallory: &Puppet) {
    let nobody =
        Dialer::bind("127.0.0.1:0".parse().unwrap(), Credentials::none(), mallory.trust.clone()).unwrap();
    let attempts = [
        (mallory.as_("spiffe://west/daemon"), Service::Peer, "not valid"),
        (mallory.as_("spiffe://east/daemon"), Service::Peer, "not valid"),
        (mallory.as_("spiffe://east/node/n1"), Service::Node, "not valid"),
        (mallory.as_("spiffe://mallory/node/n1"), Service::Node, "may not open Node"),
        (mallory.as_("spiffe://mallory/node/n1"), Service::Peer, "may not open Peer"),
        (mallory.as_("spiffe://mallory/daemon"), Service::Node, "may not open Node"),
        (nobody, Service::Peer, "need a client certificate"),
    ];
    let count = || east.mesh.status().unwrap().refused_connections.map_or(0, |refused| refused.count);
    for (dialer, service, why) in attempts {
        let before = count();
        let said = mallory.knock(&dialer, service).await;
        assert!(said.contains(why), "{said}, wanted {why}");
        eventually("it is counted", || count() == before + 1).await;
        let last = east.mesh.status().unwrap().refused_connections.unwrap().last;
        assert!(last.starts_with("127.0.0.1:") && last.contains(why), "{last}");
    }
    let posing = mallory.session("west", 2, VERSION).await.ended().await;
    assert!(posing.contains("says it is cluster west with id 2, but mallory"), "{posing}");
    eventually("it is named", || {
        misdeeds(east).contains("cluster mallory has sent what no honest member sends")
    })
    .await;
    let other_version = mallory.greeted(Version { major: 2, minor: 0 }).await.ended().await;
    assert!(other_version.contains("speaks protocol version 2.0"), "{other_version}");
}

async fn bytes_that_mean_nothing(east: &Cluster, mallory: &Puppet) {
    let unexpected = [
        vec![Frame::NodeFacts(NodeFacts::default())],
        vec![Frame::EnrollResponse(vec![])],
        vec![Frame::Watermark { position: Position { epoch: 1, revision: 1 }, scope: Scope::Nothing }],
    ];
    for frames in unexpected {
        let before = misdeeds(east);
        let said = mallory.greeted(VERSION).await.refused(&frames).await;
        assert!(said.contains("closed by peer"), "{said}");
        eventually("it is counted", || misdeeds(east) != before).await;
    }
    // Raw bytes in place of frames: a length of a gigabyte, and one that is right of bytes that are not.
    for (bytes, is_misdeed) in
        [(&[0x40, 0, 0, 0, 1][..], true), (&[0, 0, 0, 3, 0xff, 0xff, 0xff], true), (&[0, 0], false)]
    {
        let before = misdeeds(east);
        let (_dialer, connection) = mallory.dial().await;
        let (mut raw, _receive) = connection.open_bi().await.unwrap();
        let greeting = encode_frame(&hello("mallory", 9, VERSION)).unwrap();
        raw.write_all(&u32::try_from(greeting.len()).unwrap().to_be_bytes()).await.unwrap();
        raw.write_all(&greeting).await.unwrap();
        raw.write_all(bytes).await.unwrap();
        raw.finish().unwrap();
        timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
        if is_misdeed {
            eventually("it is counted", || misdeeds(east) != before).await;
        }
    }
    // More streams than anybody needs are not granted.
    let session = mallory.greeted(VERSION).await;
    let mut granted = Vec::new();
    while granted.len() < 10_000
        && let Ok(Ok(stream)) = timeout(Duration::from_millis(200), session.connection.open_uni()).await
    {
        granted.push(stream);
    }
    assert!(granted.len() < 200, "{} streams", granted.len());
}

async fn words_of_other_members(east: &Cluster, mallory: &Puppet) {
    // A renewal of west's member, by the wrong authority.
    let west = cluster_id(2);
    let durable = MemberStorage::open(Box::new(mallory.kept.store.clone()), cluster_id(9)).await.unwrap();
    let durable = durable.durable().clone();
    let state = durable.described().unwrap().unwrap();
    let mut renewal = Renewal { mesh: state.mesh, cluster: west, incarnation: 2, signature: Vec::new() };
    renewal.signature = mallory.kept.authority.sign_record(&renewal.signed_bytes()).unwrap();
    let dialer = mallory.as_("spiffe://mallory/daemon");
    let expected = Expected::Id(id("spiffe://east/daemon"));
    let connection = dialer.connect(mallory.east, expected, Service::Join).await.unwrap();
    let (mut send, receive) = connection.open_bi().await.unwrap();
    let error =
        join::renew(&mut tokio::io::join(receive, &mut send), &renewal).await.unwrap_err().to_string();
    assert!(error.contains("cluster west is not signed by the certificate authority"), "{error}");

    // Messages of the membership that west might have sent.
    let forged = Durable { member: MemberId::new(west, 1), ..durable };
    let config = Config { mesh: state.mesh, election_ticks: 2, heartbeat_ticks: 1, seed: 7, key: [7; 32] };
    let mut member = Member::restore(&config, &forged).unwrap();
    let mut session = mallory.greeted(VERSION).await;
    let before = misdeeds(east);
    let mut sent = 0;
    for tick in 0..20 {
        member.tick(tick);
        while let Some(step) = member.poll() {
            let output = match step {
                Step::Write(write) => member.persisted(write.save(|_| Ok::<_, std::io::Error>(())).unwrap()),
                Step::Output(output) => output,
            };
            for message in output.messages.into_iter().filter(|m| m.to.cluster() == Some(cluster_id(1))) {
                session.tx.send(&Frame::Membership(message.bytes.into())).await.unwrap();
                sent += 1;
            }
        }
    }
    assert!(sent > 0, "nothing was forged");
    session.tx.send(&Frame::Membership(vec![7; 100].into())).await.unwrap();
    eventually("it is counted", || misdeeds(east) != before).await;
    eventually("it is named", || misdeeds(east).contains("membership message is damaged")).await;
    let name: ClusterName = "east".parse().unwrap();
    assert_eq!(east.mesh.status().unwrap().cluster, name);
}
