use tombolo_mesh_core::wire::EndpointFact;
use tombolo_model::TunnelKey;

use super::*;

#[tokio::test]
async fn a_node_gets_everything_then_what_changes() {
    let east = Cluster::new("east", 1);
    east.pods(0..2000);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, _events) = east.serve_nodes(listener);
    let mut node = Node::start(&east, east.dialer(&east.node("a")), address);
    // Not complete before the exporter is.
    while node.records.len() < 4000 {
        assert!(!node.delta().await.complete);
    }
    east.complete();
    while !node.delta().await.complete {}
    assert_eq!(node.records.len(), 4000);
    east.pods(2000..2001);
    let delta = node.delta().await;
    assert_eq!((delta.changes, delta.complete), (east.pod(2000).to_vec(), true));
    assert!(delta.changed_unix_ms.is_some_and(|t| t > 1_700_000_000_000));
    let status = soon("a heartbeat", node.status.wait_for(|s| s.lag == Some(0))).await.unwrap().clone();
    assert!(status.server == Some(address) && status.rtt.is_some() && status.clock_offset_ms.is_some());
}

#[tokio::test]
async fn facts_arrive_with_the_authenticated_name() {
    let east = Cluster::new("east", 1);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, mut events) = east.serve_nodes(listener);
    let node = Node::start(&east, east.dialer(&east.node("worker-1")), address);
    let facts = NodeFacts {
        tunnel: Some(TunnelKey { public_key: [7; 32], port: 51871 }),
        endpoints: vec![EndpointFact {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u".into(),
            addresses: vec!["10.1.0.1".parse().unwrap()],
        }],
        ..NodeFacts::default()
    };
    let name: NodeName = "worker-1".parse().unwrap();
    assert_eq!(soon("up", events.recv()).await, Some((name.clone(), NodeEvent::Up)));
    assert_eq!(
        soon("facts", events.recv()).await,
        Some((name.clone(), NodeEvent::Facts(NodeFacts::default())))
    );
    node.facts.send_replace(facts.clone());
    assert_eq!(soon("facts", events.recv()).await, Some((name.clone(), NodeEvent::Facts(facts))));
    drop(node);
    assert_eq!(soon("down", events.recv()).await, Some((name, NodeEvent::Down)));
}

#[tokio::test]
async fn reconnecting_costs_what_has_changed() {
    let east = Cluster::new("east", 1);
    east.pods(0..2000);
    east.complete();
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (server, _events) = east.serve_nodes(listener);
    let mut node = Node::start(&east, east.dialer(&east.node("a")), address);
    node.in_sync(&east).await;
    let full = node.stats.snapshot();
    assert_eq!((full.received_changes, east.stats.snapshot().snapshots), (4000, 1));
    drop(server);
    assert!(!node.error().await.is_empty());
    // The same exporter on another port, as after a network failure.
    east.pods(2000..2010);
    let listener = east.listen();
    node.servers.send_replace(vec![listener.local_address().unwrap()]);
    let (_server, _events) = east.serve_nodes(listener);
    node.in_sync(&east).await;
    let resumed = node.stats.snapshot();
    assert_eq!(resumed.received_changes - full.received_changes, 20);
    assert!(resumed.received_bytes - full.received_bytes < 4096, "{resumed:?} after {full:?}");
    assert_eq!(east.stats.snapshot().resumed, 1);
}

#[tokio::test]
async fn a_restarted_daemon_drops_nothing_before_it_knows() {
    let east = Cluster::new("east", 1);
    east.pods(0..10);
    east.complete();
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (server, _events) = east.serve_nodes(listener);
    let mut node = Node::start(&east, east.dialer(&east.node("a")), address);
    node.in_sync(&east).await;
    drop(server);
    node.error().await;
    // The new process knows half of the pods so far, and one more.
    let again = Cluster { exporter: ExporterHandle::new(east.local.cluster_id), ..east };
    again.pods(5..11);
    let listener = again.listen();
    node.servers.send_replace(vec![listener.local_address().unwrap()]);
    let (_server, _events) = again.serve_nodes(listener);
    while node.records.len() < 22 {
        let delta = node.delta().await;
        assert!(!delta.complete && delta.changes.iter().all(|c| matches!(c, Change::Upsert(_))));
    }
    again.pods(0..3);
    again.complete();
    node.in_sync(&again).await;
    assert_eq!(node.records.len(), 18);
}

#[tokio::test]
async fn a_slow_node_is_sent_only_the_newest() {
    let east = Cluster::new("east", 1);
    east.complete();
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, _events) = east.serve_nodes(listener);
    let mut node = Node::start(&east, east.dialer(&east.node("a")), address);
    east.pods(0..1);
    node.in_sync(&east).await;
    // The consumer takes nothing while one pod moves between nodes, and what is unread fills every buffer.
    let before = east.stats.snapshot().sent_changes;
    for n in 0..20_000u32 {
        let [_, change] = east.pod(0);
        let Change::Upsert(record) = change else { unreachable!() };
        let Record::Endpoint(mut endpoint) = Record::clone(&record) else { unreachable!() };
        endpoint.node = format!("node-{n}-{}", "x".repeat(200));
        east.exporter.apply([Record::Endpoint(endpoint).into()]);
        if n % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    node.in_sync(&east).await;
    let sent = east.stats.snapshot().sent_changes - before;
    assert!(sent < 15_000, "{sent} of 20000 versions were sent");
}
