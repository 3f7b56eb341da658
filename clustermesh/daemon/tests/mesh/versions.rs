//! Members of other minor versions than the own one: what they know more is skipped, what both know works.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tombolo_mesh_core::wire::{
    Change, Frame, Heartbeat, Position, Scope, VERSION, Version, encode_change, encode_frame,
    encode_transaction,
};
use tombolo_model::{EndpointRecord, Identity, IdentityRecord, Labels, Record, label};

use super::{
    cluster::{Cluster, eventually},
    pair,
    puppet::{Puppet, cluster_id},
};

/// A protobuf field with a number that nobody has used yet: 99, of one byte.
static FUTURE: [u8; 4] = [0x9a, 0x06, 1, 7];

fn changes(number: u16) -> Vec<Change> {
    let cluster = cluster_id(number);
    let identity = Identity::new(cluster, Identity::FIRST_LOCAL + 40).unwrap();
    let labels = Labels([(label::CLUSTER.to_owned(), format!("minor{number}"))].into_iter().collect());
    let endpoint = EndpointRecord {
        cluster,
        namespace: "shop".to_owned(),
        name: "from-another-version".to_owned(),
        uid: "u".to_owned(),
        node: "n1".to_owned(),
        addresses: vec![format!("10.{number}.0.66").parse().unwrap()],
        identity,
    };
    let records = [Record::Identity(IdentityRecord { id: identity, labels }), Record::Endpoint(endpoint)];
    records.map(|record| Change::Upsert(Arc::new(record))).to_vec()
}

/// A session of this version says what it knows; `beyond` are fields of that version that the own one does not know.
async fn is_understood(east: &Cluster, peer: &Puppet, number: u16, version: Version, beyond: &'static [u8]) {
    let mut session = peer.greeted(version).await;
    let position = Position { epoch: 6, revision: 1 };
    let extended = |bytes: &Bytes| Bytes::from([bytes, beyond].concat());
    let frame = |frame: &Frame| extended(&encode_frame(frame).unwrap());
    let mut encoded: Vec<_> =
        changes(number).iter().map(|change| extended(&encode_change(change).unwrap())).collect();
    if !beyond.is_empty() {
        // A frame and a record of unknown kinds.
        session.tx.send_encoded(beyond.into()).await.unwrap();
        encoded.push(beyond.into());
    }
    let frames = [
        frame(&Frame::Begin { position, snapshot: true }),
        extended(&encode_transaction(0, 1, false, encoded)),
        frame(&Frame::Watermark { position, scope: Scope::AllBut(BTreeSet::new()) }),
        frame(&Frame::Heartbeat(Heartbeat { revision: 1, unix_time_ms: 1 })),
    ];
    for frame in frames {
        session.tx.send_encoded(frame).await.unwrap();
    }
    eventually("its pod is known", || east.endpoints_of(cluster_id(number)) == ["from-another-version"])
        .await;
    let status = east.mesh.status().unwrap();
    let member = status.members.iter().find(|m| m.id == cluster_id(number)).unwrap();
    assert!(member.connected && member.synced && member.refused.is_empty(), "{member:?}");
    let blamed = status.problems.iter().find(|p| p.contains("no honest member"));
    assert_eq!(blamed, None);
    assert!(session.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minor_versions_understand_each_other() {
    let (east, _west) = pair().await;
    let newer = Puppet::join(&east, "minor8", 8).await;
    let older = Puppet::join(&east, "minor9", 9).await;
    is_understood(&east, &newer, 8, Version { minor: VERSION.minor + 50, ..VERSION }, &FUTURE).await;
    is_understood(&east, &older, 9, Version { minor: 0, ..VERSION }, &[]).await;
}
