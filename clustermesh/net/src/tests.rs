//! Real QUIC on loopback.

mod enrolment;
mod families;
mod nodes;
mod peers;
mod refusals;
mod silence;

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tombolo_mesh_core::{
    replication::{Change, Delta, Limits, Scope},
    trust::{NodeName, Service, SpiffeId},
    wire::NodeFacts,
};
use tombolo_model::{ClusterId, ClusterName, EndpointRecord, Identity, IdentityRecord, Record, label};

use crate::{
    node::{NodeClient, NodeClientConfig, NodeEvent, NodeServer},
    session::{Audience, Backoff, ExporterHandle, Local},
    tls::{CertificateAuthority, Credentials, TrustStore},
    transport::{Dialer, Listener, Stats},
};

const DAY: Duration = Duration::from_secs(86_400);
const LOOPBACK: &str = "127.0.0.1:0";

/// Nothing here takes long, or something is wrong.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// One cluster: its authority, and what its daemon has.
struct Cluster {
    local: Local,
    authority: Arc<CertificateAuthority>,
    trust: Arc<TrustStore>,
    credentials: Arc<Credentials>,
    exporter: ExporterHandle,
    stats: Arc<Stats>,
}

impl Cluster {
    fn new(name: &str, id: u16) -> Self {
        let cluster: ClusterName = name.parse().unwrap();
        let authority = Arc::new(CertificateAuthority::generate(&cluster, SystemTime::now(), DAY).unwrap());
        let trust = TrustStore::new();
        trust.set_pem(&cluster, authority.bundle_pem()).unwrap();
        let cluster_id = ClusterId::try_from(id).unwrap();
        let local = Local { cluster, cluster_id, software: "test".into() };
        let credentials =
            credentials(&authority, &SpiffeId::Daemon(local.cluster.clone()), SystemTime::now(), DAY);
        let exporter = ExporterHandle::new(cluster_id);
        Self { local, authority, trust, credentials, exporter, stats: Arc::default() }
    }

    fn daemon(&self) -> SpiffeId {
        SpiffeId::Daemon(self.local.cluster.clone())
    }

    fn node(&self, name: &str) -> SpiffeId {
        SpiffeId::Node(self.local.cluster.clone(), name.parse().unwrap())
    }

    fn listen(&self) -> Listener {
        self.listen_on(LOOPBACK.parse().unwrap())
    }

    fn listen_on(&self, address: SocketAddr) -> Listener {
        let (credentials, trust) = (self.credentials.clone(), self.trust.clone());
        Listener::bind(address, self.local.cluster.clone(), credentials, trust, self.stats.clone()).unwrap()
    }

    /// Dials with a certificate of this cluster.
    fn dialer(&self, id: &SpiffeId) -> Dialer {
        let credentials = credentials(&self.authority, id, SystemTime::now(), DAY);
        Dialer::bind(LOOPBACK.parse().unwrap(), credentials, self.trust.clone()).unwrap()
    }

    /// Serves nodes until the set is dropped.
    fn serve_nodes(&self, listener: Listener) -> (JoinSet<()>, mpsc::Receiver<(NodeName, NodeEvent)>) {
        let (events, received) = mpsc::channel(64);
        let server = NodeServer::new(self.local.clone(), self.exporter.clone(), events, self.stats.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, move |accepted| {
            let server = server.clone();
            async move {
                assert_eq!(accepted.service, Service::Node);
                let _ = server.serve(accepted).await;
            }
        }));
        (tasks, received)
    }

    fn pod(&self, n: u32) -> [Change; 2] {
        let id = Identity::new(self.local.cluster_id, 256 + n).unwrap();
        let labels =
            [(label::CLUSTER.to_owned(), self.local.cluster.as_str().to_owned())].into_iter().collect();
        let address = format!("10.{}.{}.{}", self.local.cluster_id, n / 256, n % 256);
        let endpoint = EndpointRecord {
            cluster: self.local.cluster_id,
            namespace: "default".into(),
            name: format!("pod-{n}"),
            uid: n.to_string(),
            node: "a".into(),
            addresses: vec![address.parse().unwrap()],
            identity: id,
        };
        [Record::Identity(IdentityRecord { id, labels }).into(), Record::Endpoint(endpoint).into()]
    }

    fn pods(&self, range: std::ops::Range<u32>) {
        assert!(self.exporter.apply(range.flat_map(|n| self.pod(n))).refused.is_empty());
    }

    fn complete(&self) {
        self.exporter.set_scope(Scope::AllBut(BTreeSet::new()));
    }
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    mut listener: Listener,
    serve: impl Fn(crate::transport::Accepted) -> F,
) {
    let mut sessions = JoinSet::new();
    while let Some(accepted) = listener.accept().await {
        sessions.spawn(serve(accepted));
    }
}

fn credentials(
    authority: &CertificateAuthority,
    id: &SpiffeId,
    from: SystemTime,
    lifetime: Duration,
) -> Arc<Credentials> {
    let credentials = Credentials::none();
    authority.introduce(&credentials, id, from, lifetime).unwrap();
    credentials
}

/// A node's client, running.
struct Node {
    deltas: mpsc::Receiver<Delta>,
    facts: watch::Sender<NodeFacts>,
    servers: watch::Sender<Vec<SocketAddr>>,
    status: watch::Receiver<crate::node::NodeStatus>,
    stats: Arc<Stats>,
    records: std::collections::BTreeMap<tombolo_model::RecordKey, Arc<Record>>,
    _task: JoinSet<()>,
}

impl Node {
    fn start(cluster: &Cluster, dialer: Dialer, server: SocketAddr) -> Self {
        let (facts, facts_received) = watch::channel(NodeFacts::default());
        let (servers, servers_received) = watch::channel(vec![server]);
        let (sender, deltas) = mpsc::channel(16);
        let stats = Arc::new(Stats::default());
        let config = NodeClientConfig {
            local: cluster.local.clone(),
            dialer,
            servers: servers_received,
            facts: facts_received,
            limits: Limits::default(),
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(200)),
        };
        let client = NodeClient::new(config, sender, stats.clone());
        let status = client.status();
        let mut task = JoinSet::new();
        task.spawn(client.run());
        Self { deltas, facts, servers, status, stats, records: Default::default(), _task: task }
    }

    async fn delta(&mut self) -> Delta {
        let delta = soon("a delta", self.deltas.recv()).await.unwrap();
        for change in &delta.changes {
            match change {
                Change::Upsert(r) => self.records.insert(r.key(), r.clone()),
                Change::Remove(key) => self.records.remove(key),
            };
        }
        delta
    }

    /// Takes deltas until the node has what the exporter has, and knows that it is complete.
    async fn in_sync(&mut self, cluster: &Cluster) {
        loop {
            let delta = self.delta().await;
            let same = cluster.exporter.read(Audience::Nodes, |log| log.records().eq(self.records.values()));
            if delta.complete && same {
                return;
            }
        }
    }

    async fn error(&mut self) -> String {
        let status = soon("an error", self.status.wait_for(|s| s.last_error.is_some())).await.unwrap();
        status.last_error.clone().unwrap()
    }
}
