//! Clusters that exist only as what they would say.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tombolo_mesh_core::{
    membership::{ClusterRecord, ClusterState},
    replication::Containment,
    trust::SpiffeId,
};
use tombolo_mesh_net::{
    session::Local,
    tls::{CertificateAuthority, Credentials, TrustStore},
    transport::{Dialer, Listener, Stats},
};
use tombolo_model::{
    Affinity, Backend, BackendState, ClusterId, ClusterName, EndpointRecord, Identity, IdentityRecord,
    Labels, NodeRecord, Prefix, Protocol, Record, ServicePort, ServiceRecord, label,
};

/// How long certificates are valid.
pub const DAY: Duration = Duration::from_secs(86_400);
const NODES: u32 = 10;
const IDENTITIES: u32 = 40;
const SERVICES: u32 = 50;
const BACKENDS: u32 = 4;
/// Services that all clusters have under the same name; the others are their own.
const COMMON_SERVICES: u32 = 5;

/// One of them.
pub struct Cluster {
    /// Its number; 1 to 255, as it is part of its addresses.
    pub id: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// Its authority.
    pub authority: Arc<CertificateAuthority>,
}

impl Cluster {
    /// With a new authority.
    pub fn new(number: u8) -> anyhow::Result<Self> {
        let name: ClusterName = format!("c{number}").parse()?;
        let authority = CertificateAuthority::generate(&name, SystemTime::now(), DAY)?;
        Ok(Self { id: u16::from(number).try_into()?, name, authority: Arc::new(authority) })
    }

    /// With the authority that [`Cluster::save`] has left in a directory.
    pub fn load(number: u8, dir: &Path) -> anyhow::Result<Self> {
        let read = |name| std::fs::read_to_string(dir.join(name)).with_context(|| format!("no {name}"));
        let authority = CertificateAuthority::from_pem(&read("ca.crt")?, &read("ca.key")?)?;
        Ok(Self { authority: Arc::new(authority), ..Self::new(number)? })
    }

    /// Leaves the authority in a directory.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::write(dir.join("ca.crt"), self.authority.bundle_pem())?;
        Ok(std::fs::write(dir.join("ca.key"), self.authority.key_pem())?)
    }

    /// Who its daemon says it is.
    pub fn local(&self) -> Local {
        Local { cluster: self.name.clone(), cluster_id: self.id, software: "generated".to_owned() }
    }

    /// Listens on loopback, with a certificate of its own, for those that `trust` knows; itself among them from now on.
    pub fn listen(
        &self,
        address: SocketAddr,
        trust: &Arc<TrustStore>,
        stats: &Arc<Stats>,
    ) -> anyhow::Result<(Listener, Dialer)> {
        trust.set_pem(&self.name, self.authority.bundle_pem())?;
        let credentials = Credentials::none();
        let daemon = SpiffeId::Daemon(self.name.clone());
        self.authority.introduce(&credentials, &daemon, SystemTime::now(), DAY)?;
        let own = self.name.clone();
        let listener = Listener::bind(address, own, credentials.clone(), trust.clone(), stats.clone())?;
        let dialer = Dialer::from_listener(&listener, credentials, trust.clone());
        Ok((listener, dialer))
    }

    /// What it may speak about.
    pub fn containment(&self) -> Containment {
        Containment {
            cluster: self.id,
            name: self.name.clone(),
            node_prefixes: vec![self.node_prefix()],
            pod_prefixes: vec![self.pod_prefix()],
        }
    }

    /// What membership knows of it, when it answers at this address.
    pub fn record(&self, address: SocketAddr) -> ClusterRecord {
        ClusterRecord {
            id: self.id,
            name: self.name.clone(),
            ca: vec![self.authority.certificate().to_vec()],
            endpoints: vec![address],
            node_prefixes: vec![self.node_prefix()],
            pod_prefixes: vec![self.pod_prefix()],
            features: [].into(),
            incarnation: 1,
            state: ClusterState::Active,
            revision: 0,
            signature: Vec::new(),
        }
    }

    /// So many objects: nodes, identities, services with four backends, the rest endpoints.
    pub fn records(&self, objects: u32) -> Vec<Record> {
        let endpoints = objects.saturating_sub(NODES + IDENTITIES + SERVICES);
        let nodes = (0..NODES).map(|n| self.node(n));
        let identities = (0..IDENTITIES).map(|n| self.identity(n));
        let services = (0..SERVICES).map(|n| self.service(n));
        nodes.chain(identities).chain(services).chain((0..endpoints).map(|n| self.endpoint(n, 0))).collect()
    }

    /// A pod; another version of it has another identity.
    pub fn endpoint(&self, number: u32, version: u32) -> Record {
        Record::Endpoint(EndpointRecord {
            cluster: self.id,
            namespace: format!("namespace-{}", number % 20),
            name: format!("deployment-{}-7c9d8b5f6d-{number:05}", number % 97),
            uid: format!("{number:08x}-1111-4222-8333-444455556666"),
            node: format!("node-{}", number % NODES),
            addresses: vec![self.pod(number).into()],
            identity: self.identity_of(number.wrapping_add(version) % IDENTITIES),
        })
    }

    fn node(&self, number: u32) -> Record {
        Record::Node(NodeRecord {
            cluster: self.id,
            name: format!("node-{number}"),
            addresses: vec![std::net::IpAddr::V4(Ipv4Addr::from(self.node_base() + number + 1)).into()],
            pod_prefixes: vec![],
            zone: "zone-a".to_owned(),
            tunnel: None,
        })
    }

    fn identity(&self, number: u32) -> Record {
        let labels = [
            (label::CLUSTER.to_owned(), self.name.to_string()),
            ("k8s:app".to_owned(), format!("deployment-{number}")),
            ("k8s:app.kubernetes.io/version".to_owned(), "1.27.3".to_owned()),
        ];
        Record::Identity(IdentityRecord {
            id: self.identity_of(number),
            labels: Labels(labels.into_iter().collect()),
        })
    }

    fn service(&self, number: u32) -> Record {
        let backend = |n: u32| Backend {
            address: self.pod(number * BACKENDS + n).into(),
            port: 8080,
            cluster: self.id,
            node: format!("node-{}", n % NODES),
            zone: "zone-a".to_owned(),
            state: BackendState::Ready,
        };
        let port = ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: (0..BACKENDS).map(backend).collect(),
        };
        let owner = if number < COMMON_SERVICES { String::new() } else { format!("-of-{}", self.name) };
        Record::Service(ServiceRecord {
            cluster: self.id,
            namespace: "shop".to_owned(),
            name: format!("service-{number}{owner}"),
            frontends: vec![std::net::IpAddr::from([10, 255, 0, 1]).into()],
            global: true,
            shared: true,
            affinity: Affinity::None,
            on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
            ports: vec![port],
        })
    }

    fn identity_of(&self, number: u32) -> Identity {
        // The range of a cluster is far larger.
        Identity::new(self.id, Identity::FIRST_LOCAL + number).unwrap_or(Identity::UNKNOWN)
    }

    fn pod(&self, number: u32) -> std::net::IpAddr {
        Ipv4Addr::from((10 << 24) + (u32::from(self.id.get()) << 16) + number + 1).into()
    }

    fn node_base(&self) -> u32 {
        (172 << 24) + (16 << 16) + (u32::from(self.id.get()) << 8)
    }

    fn pod_prefix(&self) -> Prefix {
        Prefix::new(std::net::IpAddr::from([10, self.octet(), 0, 0]).into(), 96 + 16)
    }

    fn node_prefix(&self) -> Prefix {
        Prefix::new(std::net::IpAddr::V4(Ipv4Addr::from(self.node_base())).into(), 96 + 24)
    }

    fn octet(&self) -> u8 {
        self.id.get().try_into().unwrap_or(u8::MAX)
    }
}
