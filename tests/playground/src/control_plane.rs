//! The control planes of a cluster: kube-apiserver, kube-controller-manager and kube-scheduler, each in a network
//! namespace of its own so that killing a node leaves them alone. The first one has the etcd of all.
//!
//! Where there are several, whoever needs an API server goes by a forwarder that passes over the dead ones: nodes
//! by their own one, the machine by that of the underlay router. The controller manager and the scheduler use the
//! API server beside them, and those that work are chosen by leases.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::address::ClusterAddresses;
use crate::certificates::{Authority, Identity, token_key};
use crate::cluster::Cluster;
use crate::kubeconfig::write_kubeconfig;
use crate::layout::create_dir;
use crate::place::Place;
use crate::unit::Unit;
use crate::{Error, Result};

/// How long the API servers may take to become ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// The port of API servers and of the forwarders to them.
const PORT: u16 = 6443;
/// Where etcd serves its own host.
const ETCD: &str = "http://127.0.0.1:2379";

/// The keys of a cluster that is coming up.
#[derive(Debug)]
pub struct Keys {
    authority: Authority,
    front_proxy: Authority,
    tokens: Identity,
    directory: PathBuf,
    server: SocketAddr,
    cluster: String,
}

impl Keys {
    /// Makes a cluster's keys and the administrator's kubeconfig.
    pub fn create(cluster: &Cluster) -> Result<Self> {
        let directory = key_directory(cluster);
        create_dir(&directory)?;
        let keys = Self {
            authority: Authority::create(&directory, "ca")?,
            front_proxy: Authority::create(&directory, "front-proxy-ca")?,
            tokens: token_key(&directory)?,
            directory,
            server: inner_address(cluster),
            cluster: cluster.name().to_owned(),
        };
        let admin = keys.authority.client("admin", "kubernetes-admin", Some("system:masters"))?;
        let server = outer_address(cluster);
        write_kubeconfig(&cluster.kubeconfig(), cluster.name(), server, &keys.authority, &admin)?;
        Ok(keys)
    }

    /// The keys that [`Self::create`] has made for this cluster.
    pub fn load(cluster: &Cluster) -> Result<Self> {
        let directory = key_directory(cluster);
        Ok(Self {
            authority: Authority::load(&directory, "ca")?,
            front_proxy: Authority::load(&directory, "front-proxy-ca")?,
            tokens: Identity::at(&directory, "service-account"),
            server: inner_address(cluster),
            cluster: cluster.name().to_owned(),
            directory,
        })
    }

    /// The authority that all parts of the cluster trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Writes a kubeconfig for a part of the cluster.
    pub fn kubeconfig(&self, path: &Path, user: &str, group: Option<&str>) -> Result<()> {
        let file = user.replace(':', "-");
        let identity = self.authority.client(&file, user, group)?;
        write_kubeconfig(path, &self.cluster, self.server, &self.authority, &identity)
    }
}

/// Starts etcd and the API servers, and the machine's way to them.
pub fn start(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let programs = cluster.layout().programs();
    let serving = keys.authority.server("apiserver", "kube-apiserver", &serving_names(cluster))?;
    for (index, name) in cluster.control_planes().iter().enumerate() {
        let (place, directory) = (cluster.place(name)?, cluster.directory(name));
        if index == 0 {
            Unit::new(&programs.join("etcd"), etcd_arguments(cluster, &directory), &directory)
                .start(&place)?;
        }
        let arguments = api_arguments(cluster, index, keys, &serving)?;
        Unit::new(&programs.join("kube-apiserver"), arguments, &directory).start(&place)?;
    }
    if cluster.control_planes().len() > 1 {
        let mut unit = forwarder(cluster, outer_address(cluster), &cluster.layout().underlay());
        unit.name = format!("api-forwarder-{}", cluster.name());
        unit.start(&Place::underlay(cluster.layout())?)?;
    }
    Ok(())
}

/// Waits until all API servers answer, and starts what needs them.
pub fn finish(cluster: &Cluster, keys: &Keys) -> Result<()> {
    wait_ready(cluster)?;
    let programs = cluster.layout().programs();
    let several = cluster.control_planes().len() > 1;
    for name in cluster.control_planes() {
        let (place, directory) = (cluster.place(&name)?, cluster.directory(&name));
        let config = directory.join("controller-manager.kubeconfig");
        keys.kubeconfig(&config, "system:kube-controller-manager", None)?;
        let arguments = controller_arguments(cluster, keys, &config);
        Unit::new(&programs.join("kube-controller-manager"), arguments, &directory).start(&place)?;
        let config = directory.join("scheduler.kubeconfig");
        keys.kubeconfig(&config, "system:kube-scheduler", None)?;
        let arguments = [option("kubeconfig", config.display()), option("leader-elect", several)];
        Unit::new(&programs.join("kube-scheduler"), arguments, &directory).start(&place)?;
    }
    Ok(())
}

/// Starts a node's own way to the API servers, where there are several.
pub fn start_forwarder(cluster: &Cluster, node: &str) -> Result<()> {
    if cluster.control_planes().len() == 1 {
        return Ok(());
    }
    forwarder(cluster, inner_address(cluster), &cluster.directory(node)).start(&cluster.node(node)?)
}

/// Where the parts of a cluster reach an API server, each in its own place.
pub fn inner_address(cluster: &Cluster) -> SocketAddr {
    match cluster.control_planes().len() {
        1 => outer_address(cluster),
        // On a node it is the forwarder, on a control plane its API server.
        _ => (Ipv4Addr::LOCALHOST, PORT).into(),
    }
}

/// Where the machine, and pods that cannot use services, reach an API server.
pub fn outer_address(cluster: &Cluster) -> SocketAddr {
    let addresses = cluster.addresses();
    let address =
        if cluster.control_planes().len() == 1 { addresses.control_plane(0) } else { addresses.router() };
    (address, PORT).into()
}

fn wait_ready(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let listens =
        |address: &SocketAddr| TcpStream::connect_timeout(address, Duration::from_millis(200)).is_ok();
    while started.elapsed() < PATIENCE {
        // kubectl costs a tenth of a second of a core; it is asked only when all listen.
        if api_servers(cluster).iter().all(listens) && cluster.is_api_ready()? {
            return Ok(());
        }
        cluster.control_plane_alive()?;
        thread::sleep(Duration::from_millis(200));
    }
    Err(Error::Timeout {
        what: format!("the API server of {} was not ready", cluster.name()),
        seconds: PATIENCE.as_secs(),
        hint: format!(
            "see {}",
            cluster.layout().control_plane(cluster.name()).join("kube-apiserver.log").display()
        ),
    })
}

fn etcd_arguments(cluster: &Cluster, directory: &Path) -> Vec<String> {
    let clients = match cluster.control_planes().len() {
        1 => ETCD.to_owned(),
        _ => format!("{ETCD},{}", etcd_address(cluster)),
    };
    vec![
        option("data-dir", directory.join("etcd").display()),
        option("listen-client-urls", &clients),
        option("advertise-client-urls", &clients),
        option("listen-peer-urls", "http://127.0.0.1:2380"),
        option("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        option("initial-cluster", "default=http://127.0.0.1:2380"),
        // A playground does not survive the machine, so its database need not either.
        option("unsafe-no-fsync", true),
    ]
}

fn etcd_address(cluster: &Cluster) -> String {
    format!("http://{}", SocketAddr::new(cluster.addresses().control_plane(0), 2379))
}

/// All names and addresses by which API servers are reached.
fn serving_names(cluster: &Cluster) -> Vec<String> {
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let mut all = names.map(str::to_owned).to_vec();
    all.extend(["kubernetes.default.svc.cluster.local".to_owned(), Ipv4Addr::LOCALHOST.to_string()]);
    for plan in cluster.plans() {
        let own = (0..cluster.control_planes().len()).map(|index| plan.control_plane(index));
        let addresses = own.chain([plan.router(), plan.family().api_service()]);
        all.extend(addresses.map(|address| address.to_string()));
    }
    all
}

fn api_arguments(cluster: &Cluster, index: usize, keys: &Keys, serving: &Identity) -> Result<Vec<String>> {
    let kubelet =
        keys.authority.client("apiserver-kubelet-client", "kube-apiserver", Some("system:masters"))?;
    let proxy = keys.front_proxy.client("front-proxy-client", "front-proxy-client", None)?;
    let ca = keys.authority.certificate();
    Ok(vec![
        option("advertise-address", cluster.addresses().control_plane(index)),
        option("secure-port", PORT),
        option("etcd-servers", if index == 0 { ETCD.to_owned() } else { etcd_address(cluster) }),
        option("service-cluster-ip-range", service_ranges(cluster)),
        option("allow-privileged", true),
        option("authorization-mode", "Node,RBAC"),
        option("enable-admission-plugins", "NodeRestriction"),
        option("enable-bootstrap-token-auth", true),
        option("client-ca-file", ca.display()),
        option("tls-cert-file", serving.certificate.display()),
        option("tls-private-key-file", serving.key.display()),
        option("kubelet-certificate-authority", ca.display()),
        option("kubelet-client-certificate", kubelet.certificate.display()),
        option("kubelet-client-key", kubelet.key.display()),
        option("kubelet-preferred-address-types", "InternalIP"),
        option("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        option("service-account-key-file", keys.tokens.certificate.display()),
        option("service-account-signing-key-file", keys.tokens.key.display()),
        option("requestheader-client-ca-file", keys.front_proxy.certificate().display()),
        option("requestheader-allowed-names", "front-proxy-client"),
        option("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        option("requestheader-group-headers", "X-Remote-Group"),
        option("requestheader-username-headers", "X-Remote-User"),
        option("proxy-client-cert-file", proxy.certificate.display()),
        option("proxy-client-key-file", proxy.key.display()),
    ])
}

fn controller_arguments(cluster: &Cluster, keys: &Keys, kubeconfig: &Path) -> Vec<String> {
    let ca = keys.authority.certificate();
    let mut arguments = vec![
        option("kubeconfig", kubeconfig.display()),
        option("bind-address", Ipv4Addr::LOCALHOST),
        option("leader-elect", cluster.control_planes().len() > 1),
        option("use-service-account-credentials", true),
        option("controllers", "*,bootstrapsigner,tokencleaner"),
        option("allocate-node-cidrs", true),
        option("cluster-cidr", each(cluster, ClusterAddresses::pods)),
        option("service-cluster-ip-range", service_ranges(cluster)),
        option("root-ca-file", ca.display()),
        option("service-account-private-key-file", keys.tokens.key.display()),
        option("cluster-signing-cert-file", ca.display()),
        option("cluster-signing-key-file", keys.directory.join("ca.key").display()),
    ];
    arguments.extend(
        cluster
            .plans()
            .map(ClusterAddresses::family)
            .map(|family| option(&format!("node-cidr-mask-size-{}", family.name()), family.node_pods_bits())),
    );
    arguments
}

fn key_directory(cluster: &Cluster) -> PathBuf {
    cluster.layout().control_plane(cluster.name()).join("pki")
}

fn api_servers(cluster: &Cluster) -> Vec<SocketAddr> {
    let address = |index| SocketAddr::new(cluster.addresses().control_plane(index), PORT);
    (0..cluster.control_planes().len()).map(address).collect()
}

fn forwarder(cluster: &Cluster, listen: SocketAddr, directory: &Path) -> Unit {
    let servers = api_servers(cluster).into_iter().map(|server| server.to_string());
    let arguments =
        ["internal".to_owned(), "forward-api".to_owned(), listen.to_string()].into_iter().chain(servers);
    let mut unit = Unit::new(&cluster.layout().programs().join("playground"), arguments, directory);
    unit.name = "api-forwarder".into();
    unit
}

fn service_ranges(cluster: &Cluster) -> String {
    each(cluster, |plan| plan.family().service_cidr().to_owned())
}

/// What the plans say, separated by commas, the first family first.
pub fn each(cluster: &Cluster, value: impl Fn(ClusterAddresses) -> String) -> String {
    cluster.plans().map(value).collect::<Vec<_>>().join(",")
}

/// Formats one long option.
pub fn option(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
