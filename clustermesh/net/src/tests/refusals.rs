use bytes::Bytes;
use tombolo_mesh_core::wire::{Frame, Heartbeat, encode_frame};

use super::*;
use crate::tls::Expected;

/// Connects to the node service; the error of the handshake, or why the server closed.
async fn refused(dialer: &Dialer, address: SocketAddr, expected: SpiffeId, service: Service) -> String {
    match soon("connecting", dialer.connect(address, Expected::Id(expected), service)).await {
        Ok(connection) => soon("closing", connection.closed()).await.to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn certificates_that_are_not_good_are_refused_with_the_reason() {
    let east = Cluster::new("east", 1);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, _events) = east.serve_nodes(listener);
    let (now, ten_years) = (SystemTime::now(), DAY * 3650);
    let impostor = Cluster::new("east", 1);
    let unknown = Cluster::new("west", 2);
    let west_for_east = CertificateAuthority::generate(&east.local.cluster, now, DAY).unwrap();
    east.trust.set_pem(&"north".parse().unwrap(), west_for_east.bundle_pem()).unwrap();
    let of = |authority: &CertificateAuthority, id: &SpiffeId, from, lifetime| {
        let credentials = credentials(authority, id, from, lifetime);
        Dialer::bind(LOOPBACK.parse().unwrap(), credentials, east.trust.clone()).unwrap()
    };
    let node = east.node("a");
    let none = Dialer::bind(LOOPBACK.parse().unwrap(), Credentials::none(), east.trust.clone()).unwrap();
    let cases = [
        ("wrong CA", of(&impostor.authority, &node, now, DAY), Service::Node, "not valid"),
        ("another member's CA", of(&west_for_east, &node, now, DAY), Service::Node, "not valid"),
        ("no member", of(&unknown.authority, &unknown.daemon(), now, DAY), Service::Peer, "not a member"),
        ("expired", of(&east.authority, &node, now - ten_years, DAY), Service::Node, "expired at 2016-"),
        ("early", of(&east.authority, &node, now + ten_years, DAY), Service::Node, "is valid from 2036-"),
        ("daemon as node", of(&east.authority, &east.daemon(), now, DAY), Service::Node, "may not open Node"),
        ("node as peer", of(&east.authority, &node, now, DAY), Service::Peer, "may not open Peer"),
        ("nobody", none, Service::Node, "need a client certificate"),
    ];
    for (name, dialer, service, why) in cases {
        let error = refused(&dialer, address, east.daemon(), service).await;
        assert!(error.contains(why), "{name}: {error}");
        if why.contains("20") {
            assert!(error.contains("the clock here says 20"), "{name}: {error}");
        }
    }
    let stats = east.stats.snapshot();
    assert_eq!((stats.handshakes_failed, stats.denied, stats.accepted), (5, 3, 0));
}

#[tokio::test]
async fn servers_that_are_not_the_expected_one_are_refused() {
    let (east, west) = (Cluster::new("east", 1), Cluster::new("west", 2));
    east.trust.set_pem(&west.local.cluster, west.authority.bundle_pem()).unwrap();
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let dialer = east.dialer(&east.node("a"));
    let error = refused(&dialer, address, west.daemon(), Service::Node).await;
    assert!(error.contains("is for spiffe://east/daemon, but spiffe://west/daemon was expected"), "{error}");
    // A node's certificate is not one for servers.
    let node = credentials(&east.authority, &east.node("a"), SystemTime::now(), DAY);
    let (own, stats) = (east.local.cluster.clone(), east.stats.clone());
    let posing = Listener::bind(LOOPBACK.parse().unwrap(), own, node, east.trust.clone(), stats).unwrap();
    let error = refused(&dialer, posing.local_address().unwrap(), east.node("a"), Service::Node).await;
    assert!(error.contains("not valid"), "{error}");
    // Anchors count from the moment they change.
    east.trust.remove(&east.local.cluster);
    let error = refused(&dialer, address, east.daemon(), Service::Node).await;
    assert!(error.contains("not a member"), "{error}");
}

#[tokio::test]
async fn a_session_ends_with_its_certificate_and_goes_on_with_a_new_one() {
    let east = Cluster::new("east", 1);
    east.pods(0..3);
    east.complete();
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, _events) = east.serve_nodes(listener);
    let id = east.node("a");
    let brief = credentials(&east.authority, &id, SystemTime::now(), Duration::from_secs(2));
    let dialer = Dialer::bind(LOOPBACK.parse().unwrap(), brief.clone(), east.trust.clone()).unwrap();
    let mut node = Node::start(&east, dialer, address);
    node.in_sync(&east).await;
    let error = node.error().await;
    assert!(error.contains("certificate of spiffe://east/node/a") && error.contains("expired"), "{error}");
    east.authority.introduce(&brief, &id, SystemTime::now(), DAY).unwrap();
    soon("another session", node.status.wait_for(|status| status.server.is_some())).await.unwrap();
    east.pods(3..4);
    node.in_sync(&east).await;
    assert_eq!(east.stats.snapshot().snapshots, 1, "it went on where it had stopped");
}

#[tokio::test]
async fn another_replica_sends_what_differs() {
    let east = Cluster::new("east", 1);
    east.pods(0..2000);
    east.complete();
    let (first, second) = (east.listen(), east.listen());
    let (at_first, at_second) = (first.local_address().unwrap(), second.local_address().unwrap());
    let (server, _events) = east.serve_nodes(first);
    let mut node = Node::start(&east, east.dialer(&east.node("a")), at_first);
    node.in_sync(&east).await;
    drop(server);
    // It has a history of its own, and one pod more.
    let other =
        Cluster { exporter: ExporterHandle::new(east.local.cluster_id), stats: Arc::default(), ..east };
    other.pods(0..2001);
    other.complete();
    let (_server, _events) = other.serve_nodes(second);
    node.servers.send_replace(vec![at_second]);
    node.in_sync(&other).await;
    let stats = other.stats.snapshot();
    assert_eq!((stats.comparisons, stats.snapshots, stats.sent_changes), (1, 0, 2));
    assert!(stats.sent_bytes + stats.received_bytes < 8192, "{stats:?}");
}

#[tokio::test]
async fn a_pin_is_enough_to_join() {
    let (east, stranger) = (Cluster::new("east", 1), Cluster::new("west", 2));
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let dialer =
        Dialer::bind(LOOPBACK.parse().unwrap(), Credentials::none(), stranger.trust.clone()).unwrap();
    let pin = east.authority.pin().unwrap();
    soon("joining", dialer.connect(address, Expected::Pinned(pin), Service::Join)).await.unwrap();
    let other = stranger.authority.pin().unwrap();
    let error =
        soon("joining", dialer.connect(address, Expected::Pinned(other), Service::Join)).await.unwrap_err();
    assert!(error.to_string().contains("no certificate authority with the pin sha256:"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_session() {
    let east = Cluster::new("east", 1);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let (_server, _events) = east.serve_nodes(listener);
    let heartbeat = encode_frame(&Frame::Heartbeat(Heartbeat { revision: 1, unix_time_ms: 1 })).unwrap();
    let with_length = |frame: &[u8]| {
        let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(frame);
        Bytes::from(bytes)
    };
    let cases = [
        ("garbage", with_length(&[0xff; 100]), "not a message"),
        ("a gigabyte", Bytes::copy_from_slice(&(1u32 << 30).to_be_bytes()), "longer than the limit"),
        ("no greeting", with_length(&heartbeat), "unexpected first frame"),
        ("half a frame", with_length(&[1; 50]).slice(..20), "did not greet"),
    ];
    for (name, bytes, why) in cases {
        let dialer = east.dialer(&east.node("a"));
        let connection = dialer.connect(address, Expected::Id(east.daemon()), Service::Node).await.unwrap();
        let (mut tx, _rx) = connection.open_bi().await.unwrap();
        tx.write_all(&bytes).await.unwrap();
        let error = soon("closing", connection.closed()).await.to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
    let stats = east.stats.snapshot();
    assert_eq!((stats.oversize_frames, stats.invalid_frames), (1, 1));
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let east = Cluster::new("east", 1);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(LOOPBACK.parse().unwrap()).unwrap();
    let connecting =
        endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), address, "tombolo").unwrap();
    let error = soon("connecting", connecting).await.unwrap_err().to_string();
    assert!(error.contains("application protocol") || error.contains("120"), "{error}");
    soon("counting", async {
        while east.stats.snapshot().handshakes_failed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
