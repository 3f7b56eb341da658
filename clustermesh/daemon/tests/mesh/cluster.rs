//! A cluster's part in the mesh without Kubernetes: records are put in by hand, storage is memory.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tombolo_clustermesh::mesh::{Mesh, MeshConfig, Parts, record::Nodes};
use tombolo_mesh_core::trust::{Service, SpiffeId};
use tombolo_mesh_net::{
    mirror::Standby,
    raft::Timing,
    session::{Audience, ExporterHandle, Local},
    storage::MemoryStore,
    tls::{CertificateAuthority, Credentials, TrustStore},
    transport::{Dialer, Listener, Stats},
};
use tombolo_model::{
    Address, Affinity, Backend, BackendState, ClusterId, ClusterName, EndpointRecord, Identity,
    IdentityRecord, NodeRecord, Protocol, Record, RecordKey, ServicePort, ServiceRecord, label,
};

const DAY: Duration = Duration::from_secs(86_400);
const HOST: &str = "127.0.0.1";

/// A running cluster.
pub struct Cluster {
    pub mesh: Mesh,
    pub stats: Arc<Stats>,
    address: SocketAddr,
    exporter: ExporterHandle,
    kept: Kept,
    nodes: watch::Sender<Option<Nodes>>,
    authority: watch::Sender<Arc<CertificateAuthority>>,
    trust: Arc<TrustStore>,
    credentials: Arc<Credentials>,
    tasks: JoinSet<()>,
}

/// What stays of a cluster when its daemon is killed.
#[derive(Clone)]
pub struct Kept {
    pub name: ClusterName,
    pub id: ClusterId,
    pods: String,
    pub authority: Arc<CertificateAuthority>,
    pub store: MemoryStore,
    pub memory: MemoryStore,
    /// What the next replica begins with.
    pub held: Vec<Arc<Record>>,
    /// Both replicas are candidates.
    ports: [u16; 2],
}

impl Cluster {
    /// A cluster whose node has the pod range `pods`, with three pods and a global service.
    pub async fn start(name: &str, id: u16, pods: &str) -> Self {
        let name: ClusterName = name.parse().unwrap();
        let authority = Arc::new(CertificateAuthority::generate(&name, SystemTime::now(), DAY).unwrap());
        let ports =
            [(); 2].map(|()| std::net::UdpSocket::bind((HOST, 0)).unwrap().local_addr().unwrap().port());
        let id = ClusterId::try_from(id).unwrap();
        let (store, memory) = (MemoryStore::default(), MemoryStore::default());
        let (held, pods) = (Vec::new(), pods.to_owned());
        Self::run(Kept { name, id, pods, authority, store, memory, held, ports }, ports[0]).await
    }

    /// The other replica of a cluster that was killed.
    pub async fn restart(kept: Kept) -> Self {
        let port = kept.ports[1];
        Self::run(kept, port).await
    }

    async fn run(kept: Kept, port: u16) -> Self {
        let (trust, stats) = (TrustStore::new(), Arc::<Stats>::default());
        let credentials = Credentials::none();
        kept.introduce(&trust, &credentials);
        let at = |port| SocketAddr::new(HOST.parse().unwrap(), port);
        let (own, address) = (kept.name.clone(), at(port));
        let bind = || Listener::bind(address, own.clone(), credentials.clone(), trust.clone(), stats.clone());
        let mut listener = bind();
        for _ in 0..100 {
            // The socket of a replica that was killed closes a moment later.
            if listener.is_ok() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
            listener = bind();
        }
        let listener = listener.unwrap();
        let exporter = ExporterHandle::new(kept.id);
        let (nodes, known_nodes) = watch::channel(None);
        let (stored, memory) = (kept.store.clone(), kept.memory.clone());
        let (authority, authorities) = watch::channel(kept.authority.clone());
        let parts = Parts {
            exporter: exporter.clone(),
            authority: authorities,
            trust: trust.clone(),
            dialer: Dialer::from_listener(&listener, credentials.clone(), trust.clone()),
            stats: stats.clone(),
            stores: Arc::new(move || Box::new(stored.clone())),
            memory: Arc::new(move || Box::new(memory.clone())),
            held: kept.held.clone(),
            nodes: known_nodes,
        };
        let config = MeshConfig {
            local: Local { cluster: kept.name.clone(), cluster_id: kept.id, software: "test".to_owned() },
            advertise: kept.ports.map(at).to_vec(),
            address,
            drain: Duration::from_secs(3),
            timing: Timing { tick: Duration::from_millis(50), ..Timing::default() },
        };
        let (mesh, runner) = Mesh::new(config, parts);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match runner.run().await {} });
        tasks.spawn(accept(listener, mesh.clone()));
        let cluster =
            Self { mesh, stats, address, exporter, kept, nodes, authority, trust, credentials, tasks };
        cluster.populate();
        cluster.nodes.send_replace(Some(Nodes::read(&cluster.exporter, cluster.kept.id)));
        eventually("a member", || cluster.mesh.status().is_ok()).await;
        cluster
    }

    /// Another authority, or the same with others beside it, holds from now on.
    pub fn set_authority(&mut self, bundle: &str, key: &str) {
        self.kept.authority = Arc::new(CertificateAuthority::from_pem(bundle, key).unwrap());
        self.kept.introduce(&self.trust, &self.credentials);
        self.authority.send_replace(self.kept.authority.clone());
    }

    /// The clusters that do not know the authority yet.
    pub fn uninformed(&self) -> Vec<String> {
        let names = self.mesh.lacks_authorities(&self.kept.authority, &mut None).unwrap();
        names.iter().map(ToString::to_string).collect()
    }

    /// A replica that waits, and has heard so many records of other clusters from this one.
    pub async fn mirrored(&self, records: usize) -> Vec<Arc<Record>> {
        let (trust, credentials) = (TrustStore::new(), Credentials::none());
        self.kept.introduce(&trust, &credentials);
        let dialer = Dialer::bind(SocketAddr::new(HOST.parse().unwrap(), 0), credentials, trust).unwrap();
        let local =
            Local { cluster: self.kept.name.clone(), cluster_id: self.kept.id, software: "test".to_owned() };
        let mut standby = Standby::new(local);
        for _ in 0..100 {
            let _ = timeout(Duration::from_millis(200), standby.follow(&dialer, self.address(), &self.stats))
                .await;
            if standby.records().count() == records {
                return standby.records().collect();
            }
        }
        panic!("{} records are mirrored, {records} were expected", standby.records().count())
    }

    pub fn authority(&self) -> &CertificateAuthority {
        &self.kept.authority
    }

    /// Ends the daemon without a word.
    pub async fn kill(mut self) -> Kept {
        self.tasks.shutdown().await;
        self.kept.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn id(&self) -> ClusterId {
        self.kept.id
    }

    /// The names of the pods of a cluster that nodes here are told of.
    pub fn endpoints_of(&self, cluster: ClusterId) -> Vec<String> {
        self.exporter.read(Audience::Nodes, |log| {
            let names = log.records().filter_map(|record| match record.key() {
                RecordKey::Endpoint(of, _, name) if of == cluster => Some(name),
                _ => None,
            });
            names.collect()
        })
    }

    /// The backends of the service here.
    pub fn backends(&self) -> Vec<Backend> {
        let key = RecordKey::Service(self.kept.id, "shop".to_owned(), "web".to_owned());
        self.exporter.read(Audience::Nodes, |log| match log.get(&key).map(|record| &**record) {
            Some(Record::Service(service)) => service.ports[0].backends.clone(),
            _ => Vec::new(),
        })
    }

    pub fn add_pod(&self, name: &str, address: &str) {
        let pod = EndpointRecord {
            cluster: self.kept.id,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            node: "n1".to_owned(),
            addresses: vec![address.parse().unwrap()],
            identity: self.identity(),
        };
        assert!(self.exporter.apply([Record::Endpoint(pod).into()]).refused.is_empty());
    }

    fn identity(&self) -> Identity {
        Identity::new(self.kept.id, Identity::FIRST_LOCAL).unwrap()
    }

    fn pod_address(&self, n: u8) -> Address {
        let prefix: tombolo_model::Prefix = self.kept.pods.parse().unwrap();
        let mut octets = prefix.address().octets();
        octets[15] = n;
        Address::from_octets(octets)
    }

    fn populate(&self) {
        let labels = [(label::CLUSTER.to_owned(), self.kept.name.to_string())].into_iter().collect();
        let node = NodeRecord {
            cluster: self.kept.id,
            name: "n1".to_owned(),
            addresses: vec![HOST.parse().unwrap()],
            pod_prefixes: vec![self.kept.pods.parse().unwrap()],
            zone: String::new(),
            tunnel: None,
        };
        let backend = Backend {
            address: self.pod_address(1),
            port: 8080,
            cluster: self.kept.id,
            node: "n1".to_owned(),
            zone: String::new(),
            state: BackendState::Ready,
        };
        let port =
            ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, backends: vec![backend] };
        let service = ServiceRecord {
            cluster: self.kept.id,
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            frontends: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![port],
            global: true,
            shared: true,
            affinity: Affinity::None,
            on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        };
        let identity = IdentityRecord { id: self.identity(), labels };
        let records = [Record::Identity(identity), Record::Node(node), Record::Service(service)];
        assert!(self.exporter.apply(records.map(Into::into)).refused.is_empty());
        for n in 1..=3 {
            self.add_pod(&format!("web-{n}"), &self.pod_address(n).to_string());
        }
    }
}

impl Kept {
    /// A certificate for the daemon, and who is trusted to vouch for it.
    fn introduce(&self, trust: &TrustStore, credentials: &Credentials) {
        trust.set_pem(&self.name, self.authority.bundle_pem()).unwrap();
        let daemon = SpiffeId::Daemon(self.name.clone());
        self.authority.introduce(credentials, &daemon, SystemTime::now(), DAY).unwrap();
    }
}

async fn accept(mut listener: Listener, mesh: Mesh) {
    let mut sessions = JoinSet::new();
    while let Some(accepted) = listener.accept().await {
        let mesh = mesh.clone();
        sessions.spawn(async move {
            match accepted.service {
                Service::Peer => drop(mesh.serve_peer(accepted).await),
                Service::Join => mesh.serve_join(accepted).await,
                Service::Replica => drop(mesh.serve_replica(accepted).await),
                other => panic!("{other:?}"),
            }
        });
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..800 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} does not come about")
}
