//! The control plane of a cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in a
//! network namespace of their own so that killing a node leaves them alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::address::ClusterAddresses;
use crate::certificates::{Authority, Identity, token_key};
use crate::cluster::Cluster;
use crate::kubeconfig::write_kubeconfig;
use crate::layout::create_dir;
use crate::unit::Unit;
use crate::{Error, Result};

/// How long the API server may take to become ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// The keys of a cluster that is coming up.
#[derive(Debug)]
pub struct Keys {
    authority: Authority,
    front_proxy: Authority,
    tokens: Identity,
    directory: std::path::PathBuf,
    server: SocketAddr,
    cluster: String,
}

impl Keys {
    /// Makes a cluster's keys and the administrator's kubeconfig.
    pub fn create(cluster: &Cluster) -> Result<Self> {
        let directory = cluster.layout().control_plane(cluster.name()).join("pki");
        create_dir(&directory)?;
        let keys = Self {
            authority: Authority::create(&directory, "ca")?,
            front_proxy: Authority::create(&directory, "front-proxy-ca")?,
            tokens: token_key(&directory)?,
            directory,
            server: api_address(cluster),
            cluster: cluster.name().to_owned(),
        };
        let admin = keys.authority.client("admin", "kubernetes-admin", Some("system:masters"))?;
        write_kubeconfig(&cluster.kubeconfig(), cluster.name(), keys.server, &keys.authority, &admin)?;
        Ok(keys)
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

/// Starts etcd and the API server.
pub fn start(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let directory = cluster.layout().control_plane(cluster.name());
    let place = cluster.control_plane()?;
    let programs = cluster.layout().programs();
    Unit::new(&programs.join("etcd"), etcd_arguments(&directory), &directory).start(&place)?;
    Unit::new(&programs.join("kube-apiserver"), api_arguments(cluster, keys)?, &directory).start(&place)
}

/// Waits until the API server answers from the machine, and starts what needs it.
pub fn finish(cluster: &Cluster, keys: &Keys) -> Result<()> {
    wait_ready(cluster)?;
    let directory = cluster.layout().control_plane(cluster.name());
    let place = cluster.control_plane()?;
    let programs = cluster.layout().programs();
    let config = directory.join("controller-manager.kubeconfig");
    keys.kubeconfig(&config, "system:kube-controller-manager", None)?;
    let arguments = controller_arguments(cluster, keys, &config);
    Unit::new(&programs.join("kube-controller-manager"), arguments, &directory).start(&place)?;
    let config = directory.join("scheduler.kubeconfig");
    keys.kubeconfig(&config, "system:kube-scheduler", None)?;
    let arguments = [option("kubeconfig", config.display()), option("leader-elect", false)];
    Unit::new(&programs.join("kube-scheduler"), arguments, &directory).start(&place)
}

fn wait_ready(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let address = api_address(cluster);
    while started.elapsed() < PATIENCE {
        // kubectl costs a tenth of a second of a core; it is asked only when somebody listens.
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
            && cluster.is_api_ready()?
        {
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

fn etcd_arguments(directory: &Path) -> Vec<String> {
    vec![
        option("data-dir", directory.join("etcd").display()),
        option("listen-client-urls", "http://127.0.0.1:2379"),
        option("advertise-client-urls", "http://127.0.0.1:2379"),
        option("listen-peer-urls", "http://127.0.0.1:2380"),
        option("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        option("initial-cluster", "default=http://127.0.0.1:2380"),
        // A playground does not survive the machine, so its database need not either.
        option("unsafe-no-fsync", true),
    ]
}

fn api_arguments(cluster: &Cluster, keys: &Keys) -> Result<Vec<String>> {
    let own = cluster.plans().flat_map(|plan| [plan.control_plane(), plan.family().api_service()]);
    let names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .into_iter()
        .map(str::to_owned)
        .chain(["kubernetes.default.svc.cluster.local".to_owned()])
        .chain(own.chain([Ipv4Addr::LOCALHOST.into()]).map(|address: IpAddr| address.to_string()))
        .collect();
    let serving = keys.authority.server("apiserver", "kube-apiserver", &names)?;
    let kubelet =
        keys.authority.client("apiserver-kubelet-client", "kube-apiserver", Some("system:masters"))?;
    let proxy = keys.front_proxy.client("front-proxy-client", "front-proxy-client", None)?;
    let ca = keys.authority.certificate();
    Ok(vec![
        option("advertise-address", cluster.addresses().control_plane()),
        option("secure-port", 6443),
        option("etcd-servers", "http://127.0.0.1:2379"),
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
        option("leader-elect", false),
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

/// Where the API server is reached, also from the machine.
fn api_address(cluster: &Cluster) -> SocketAddr {
    SocketAddr::new(cluster.addresses().control_plane(), 6443)
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
