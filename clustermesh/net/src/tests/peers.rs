use std::collections::BTreeMap;

use tombolo_mesh_core::{
    replication::{Containment, Refusal},
    wire::Observation,
};
use tombolo_model::RecordKey;

use super::*;
use crate::peer::{Peer, PeerConfig, PeerEvent};

/// A daemon with one peer.
pub(super) struct Daemon {
    pub(super) peer: Peer,
    events: mpsc::Receiver<(ClusterId, PeerEvent)>,
    containment: watch::Sender<Containment>,
    records: BTreeMap<RecordKey, Arc<Record>>,
    complete: bool,
    tasks: JoinSet<()>,
}

fn containment(of: &Cluster) -> Containment {
    Containment {
        cluster: of.local.cluster_id,
        name: of.local.cluster.clone(),
        node_prefixes: vec![],
        pod_prefixes: vec![format!("10.{}.0.0/16", of.local.cluster_id).parse().unwrap()],
    }
}

impl Daemon {
    pub(super) fn start(
        own: &Cluster,
        other: &Cluster,
        listener: Option<Listener>,
        dial: Option<SocketAddr>,
    ) -> Self {
        let (containment, received) = watch::channel(containment(other));
        let (sender, events) = mpsc::channel(64);
        let config = PeerConfig {
            local: own.local.clone(),
            exporter: own.exporter.clone(),
            containment: received,
            limits: Limits::default(),
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(200)),
            membership: watch::channel(None).1,
            observation: watch::channel(Observation::default()).1,
        };
        let peer = Peer::new(config, sender, own.stats.clone());
        let mut tasks = JoinSet::new();
        if let Some(listener) = listener {
            let peer = peer.clone();
            tasks.spawn(serve(listener, move |accepted| {
                let peer = peer.clone();
                async move {
                    let _ = peer.serve(accepted).await;
                }
            }));
        }
        if let Some(address) = dial {
            let (peer, dialer) = (peer.clone(), own.dialer(&own.daemon()));
            tasks.spawn(async move { peer.dial(dialer, watch::channel(vec![address]).1).await });
        }
        Self { peer, events, containment, records: BTreeMap::new(), complete: false, tasks }
    }

    pub(super) async fn event(&mut self) -> PeerEvent {
        let (_, event) = soon("an event", self.events.recv()).await.unwrap();
        if let PeerEvent::Delta(delta) = &event {
            self.complete = delta.complete;
            for change in &delta.changes {
                match change {
                    Change::Upsert(r) => self.records.insert(r.key(), r.clone()),
                    Change::Remove(key) => self.records.remove(key),
                };
            }
        }
        event
    }

    pub(super) async fn in_sync(&mut self, other: &Cluster) {
        while !self.complete
            || !other.exporter.read(Audience::Peers, |log| log.records().eq(self.records.values()))
        {
            self.event().await;
        }
    }
}

pub(super) fn pair() -> (Cluster, Cluster) {
    let (east, west) = (Cluster::new("east", 1), Cluster::new("west", 2));
    east.trust.set_pem(&west.local.cluster, west.authority.bundle_pem()).unwrap();
    west.trust.set_pem(&east.local.cluster, east.authority.bundle_pem()).unwrap();
    for cluster in [&east, &west] {
        cluster.pods(0..100);
        cluster.complete();
    }
    (east, west)
}

#[tokio::test]
async fn two_clusters_exchange_whoever_dials() {
    let (east, west) = pair();
    let listener = west.listen();
    let address = listener.local_address().unwrap();
    let mut at_west = Daemon::start(&west, &east, Some(listener), None);
    let mut at_east = Daemon::start(&east, &west, None, Some(address));
    at_east.in_sync(&west).await;
    at_west.in_sync(&east).await;
    west.pods(100..101);
    east.exporter.apply([Change::Remove(east.pod(7)[1].key())]);
    at_east.in_sync(&west).await;
    at_west.in_sync(&east).await;
    let mut status = at_west.peer.status();
    let status =
        soon("a heartbeat", status.wait_for(|s| s.lag == Some(0) && s.records == 199)).await.unwrap().clone();
    assert!(status.up && !status.dialled && status.rtt.is_some(), "{status:?}");
    // One side goes: the other notices, keeps the records, and resumes.
    drop(at_east.tasks);
    while !matches!(at_west.event().await, PeerEvent::Down(_)) {}
    assert_eq!(at_west.records.len(), 199);
    let before = west.stats.snapshot().received_changes;
    east.pods(7..8);
    let _at_east = Daemon::start(&east, &west, None, Some(address));
    at_west.in_sync(&east).await;
    assert_eq!(west.stats.snapshot().received_changes - before, 1);
}

#[tokio::test]
async fn when_both_dial_one_session_stays() {
    let (east, west) = pair();
    let (at_east, at_west) = (east.listen(), west.listen());
    let (east_address, west_address) = (at_east.local_address().unwrap(), at_west.local_address().unwrap());
    let mut at_east = Daemon::start(&east, &west, Some(at_east), Some(west_address));
    let mut at_west = Daemon::start(&west, &east, Some(at_west), Some(east_address));
    for n in 100..110 {
        east.pods(n..n + 1);
        west.pods(n..n + 1);
        at_east.in_sync(&west).await;
        at_west.in_sync(&east).await;
    }
    assert!(at_east.peer.status().borrow().up && at_west.peer.status().borrow().up);
    assert_ne!(at_east.peer.status().borrow().dialled, at_west.peer.status().borrow().dialled);
}

#[tokio::test]
async fn a_hostile_peer_is_contained_and_counted() {
    let (east, west) = pair();
    // West claims a pod at an address of east, and an identity with the label of east.
    let mut endpoint = match &west.pod(500)[1] {
        Change::Upsert(r) => match &**r {
            Record::Endpoint(e) => e.clone(),
            other => panic!("{other:?}"),
        },
        Change::Remove(_) => unreachable!(),
    };
    endpoint.addresses = vec!["10.1.0.5".parse().unwrap()];
    let labels = [(label::CLUSTER.to_owned(), "east".to_owned())].into_iter().collect();
    let id = Identity::new(west.local.cluster_id, 9000).unwrap();
    let lies = [Record::Endpoint(endpoint.clone()), Record::Identity(IdentityRecord { id, labels })];
    assert!(west.exporter.apply(lies.map(Change::from)).refused.is_empty());
    let listener = west.listen();
    let address = listener.local_address().unwrap();
    let _at_west = Daemon::start(&west, &east, Some(listener), None);
    let mut at_east = Daemon::start(&east, &west, None, Some(address));
    while !at_east.complete {
        at_east.event().await;
    }
    assert_eq!(at_east.records.len(), 200);
    let mut status = at_east.peer.status();
    let expected = BTreeMap::from([(Refusal::ForeignLabels, 1), (Refusal::ForeignAddress, 1)]);
    soon("refusals", status.wait_for(|s| s.refusals == expected)).await.unwrap();
    // Membership learns of another prefix: what was refused comes.
    at_east.containment.send_modify(|c| c.pod_prefixes.push("10.1.0.5/32".parse().unwrap()));
    let key = Record::Endpoint(endpoint).key();
    while !at_east.records.contains_key(&key) {
        at_east.event().await;
    }
}

#[tokio::test]
async fn who_gives_another_id_than_membership_knows_is_refused() {
    let (east, mut west) = pair();
    west.local.cluster_id = ClusterId::try_from(3).unwrap();
    let listener = west.listen();
    let address = listener.local_address().unwrap();
    let _at_west = Daemon::start(&west, &east, Some(listener), None);
    let known = Cluster::new("west", 2);
    let at_east = Daemon::start(&east, &known, None, Some(address));
    let mut status = at_east.peer.status();
    let status = soon("an error", status.wait_for(|s| s.last_error.is_some())).await.unwrap().clone();
    assert!(status.last_error.is_some_and(|e| e.contains("with id 3, but west with id 2 was expected")));
}
