//! A member of a mesh with valid credentials, of which the test says every byte.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use tombolo_mesh_core::{
    trust::{Service, SpiffeId},
    wire::{Frame, Hello, Version},
};
use tombolo_mesh_net::{
    tls::{Credentials, Expected, TrustStore},
    transport::{Connection, Dialer, FrameReceiver, FrameSender, Stats, framed},
};
use tombolo_model::ClusterId;

use super::{
    HOUR,
    cluster::{Cluster, Kept, eventually},
};

/// See the module.
pub(super) struct Puppet {
    /// What is left of its daemon.
    pub(super) kept: Kept,
    pub(super) trust: Arc<TrustStore>,
    pub(super) east: SocketAddr,
    name: &'static str,
    number: u16,
}

impl Puppet {
    /// Has the pods 10.`number`.0.0/16.
    pub(super) async fn join(east: &Cluster, name: &'static str, number: u16) -> Self {
        let member = Cluster::start(name, number, &format!("10.{number}.0.0/16")).await;
        let token = east.mesh.create_token(HOUR).await.unwrap();
        member.mesh.join(&token).await.unwrap();
        eventually("it is a member", || east.endpoints_of(member.id()).len() == 3).await;
        let kept = member.kill().await;
        let trust = TrustStore::new();
        trust.set_pem(&"east".parse().unwrap(), east.authority().bundle_pem()).unwrap();
        Self { kept, trust, east: east.address(), name, number }
    }

    /// Dials with a certificate for `name` by the own authority.
    pub(super) fn as_(&self, name: &str) -> Dialer {
        let credentials = Credentials::none();
        self.kept.authority.introduce(&credentials, &id(name), SystemTime::now(), HOUR).unwrap();
        Dialer::bind("127.0.0.1:0".parse().unwrap(), credentials, self.trust.clone()).unwrap()
    }

    pub(super) async fn knock(&self, dialer: &Dialer, service: Service) -> String {
        let east = Expected::Id(id("spiffe://east/daemon"));
        match dialer.connect(self.east, east, service).await {
            Ok(connection) => timeout(Duration::from_secs(5), connection.closed()).await.unwrap().to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// A session that has greeted as this cluster.
    pub(super) async fn session(&self, cluster: &str, n: u16, version: Version) -> Session {
        let (dialer, connection) = self.dial().await;
        let (mut tx, rx) = framed(connection.open_bi().await.unwrap(), &Arc::<Stats>::default());
        tx.send(&hello(cluster, n, version)).await.unwrap();
        Session { connection, tx, rx, _dialer: dialer }
    }

    pub(super) async fn dial(&self) -> (Dialer, Connection) {
        let dialer = self.as_(&format!("spiffe://{}/daemon", self.name));
        let east = Expected::Id(id("spiffe://east/daemon"));
        let connection = dialer.connect(self.east, east, Service::Peer).await.unwrap();
        (dialer, connection)
    }

    pub(super) async fn greeted(&self, version: Version) -> Session {
        self.session(self.name, self.number, version).await
    }
}

pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) tx: FrameSender,
    pub(super) rx: FrameReceiver,
    _dialer: Dialer,
}

impl Session {
    /// Sends frames that end the session; why east ended it.
    pub(super) async fn refused(mut self, frames: &[Frame]) -> String {
        for frame in frames {
            if self.tx.send(frame).await.is_err() {
                break;
            }
        }
        self.ended().await
    }

    pub(super) async fn ended(mut self) -> String {
        // What east says meanwhile must be read, or it waits.
        let reading = async { while self.rx.receive().await.is_ok() {} };
        timeout(Duration::from_secs(5), reading).await.unwrap();
        timeout(Duration::from_secs(5), self.connection.closed()).await.unwrap().to_string()
    }
}

pub(super) fn hello(cluster: &str, n: u16, version: Version) -> Frame {
    Frame::Hello(Hello {
        version,
        features: BTreeSet::new(),
        software: format!("{cluster} 6.6.6"),
        cluster: cluster.parse().unwrap(),
        cluster_id: cluster_id(n),
        unix_time_ms: 1_800_000_000_000,
    })
}

pub(super) fn id(name: &str) -> SpiffeId {
    name.parse().unwrap()
}

pub(super) fn cluster_id(n: u16) -> ClusterId {
    n.try_into().unwrap()
}
