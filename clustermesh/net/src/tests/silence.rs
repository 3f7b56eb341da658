//! How soon a dead path is found.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::UdpSocket;

use super::{
    peers::{Daemon, pair},
    *,
};
use crate::{peer::PeerEvent, session::Close, tls::Expected, transport::IDLE};

/// Carries packets between one client and a server, until it is cut.
#[derive(Default)]
struct Path {
    cut: AtomicBool,
    carried: AtomicUsize,
}

impl Path {
    /// Where the client finds the server.
    async fn to(self: Arc<Self>, server: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
        let near = Arc::new(UdpSocket::bind(LOOPBACK).await.unwrap());
        let far = Arc::new(UdpSocket::bind(LOOPBACK).await.unwrap());
        far.connect(server).await.unwrap();
        let address = near.local_addr().unwrap();
        tasks.spawn(async move {
            let (mut to_server, mut to_client) = (vec![0; 65536], vec![0; 65536]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = near.recv_from(&mut to_server) => {
                        client = Some(from);
                        if self.carries() {
                            far.send(&to_server[..length]).await.unwrap();
                        }
                    }
                    Ok(length) = far.recv(&mut to_client) => {
                        if let Some(client) = client && self.carries() {
                            near.send_to(&to_client[..length], client).await.unwrap();
                        }
                    }
                }
            }
        });
        address
    }

    fn carries(&self) -> bool {
        self.carried.fetch_add(1, Ordering::Relaxed);
        !self.cut.load(Ordering::Relaxed)
    }

    /// Returns when a keepalive and its answer have just passed: the next one is as far away as can be.
    async fn rests(&self) {
        let mut before = self.carried.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.carried.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
        while self.carried.load(Ordering::Relaxed) < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn both_sides_find_a_dead_path_in_two_seconds() {
    let (east, west) = pair();
    let listener = west.listen();
    let (path, mut tasks) = (Arc::<Path>::default(), JoinSet::new());
    let address = path.clone().to(listener.local_address().unwrap(), &mut tasks).await;
    let mut at_west = Daemon::start(&west, &east, Some(listener), None);
    let mut at_east = Daemon::start(&east, &west, None, Some(address));
    at_east.in_sync(&west).await;
    at_west.in_sync(&east).await;
    soon("rest", path.rests()).await;
    path.cut.store(true, Ordering::Relaxed);
    let cut = std::time::Instant::now();
    for daemon in [&mut at_east, &mut at_west] {
        while !matches!(daemon.event().await, PeerEvent::Down(_)) {}
        let found = cut.elapsed();
        // A keepalive that is lost or late is no dead path.
        assert!(found > Duration::from_millis(1400), "found after {found:?} already");
        // With room for a slow machine, and less than a keepalive more.
        assert!(found < Duration::from_millis(2500), "found after {found:?}");
        let status = daemon.peer.status().borrow().clone();
        assert!(
            status.heard.is_some_and(|heard| heard < cut + Duration::from_millis(500)),
            "it is known since when nothing is heard"
        );
        assert_eq!(status.last_error.as_deref(), Some("the connection ended: timed out"));
    }
}

#[tokio::test]
async fn what_is_closed_keeps_its_reason() {
    let east = Cluster::new("east", 1);
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let dialer = east.dialer(&east.node("a"));
    let connection = dialer.connect(address, Expected::Id(east.daemon()), Service::Node).await.unwrap();
    connection.close(Close::Done.code(), b"");
    tokio::time::sleep(IDLE + Duration::from_millis(500)).await;
    assert_eq!(connection.close_reason(), Some(quinn::ConnectionError::LocallyClosed));
}
