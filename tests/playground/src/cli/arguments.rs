//! What can be said on the command line, and its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tombolo_playground::device::Device;
use tombolo_playground::{Cni, IpFamily, KubeProxy};

/// Real Kubernetes clusters on this machine, in namespaces.
///
/// Each cluster has etcd, the API server and the rest of the control plane; each node has containerd,
/// runc and kubelet. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "playground",
    version,
    after_help = "Example:\n  playground up --clusters 2 --nodes 2 --cni bridge\n  \
    kubectl --kubeconfig target/playground/east.kubeconfig get nodes\n  playground down"
)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Bring clusters up, or check the ones that run.
    #[command(
        after_help = "Examples:\n  playground up\n  playground up --clusters 3 --nodes 1 --cni none\n  \
        playground up --clusters 1 --nodes 6 --zones 3 --control-planes 3\n  \
        playground up --names paris,oslo --cni bridge --kube-proxy iptables\n  playground up --ip-family ipv6"
    )]
    Up(Up),
    /// End everything that `up` started, also after a crash.
    #[command(after_help = "Example:\n  playground down")]
    Down,
    /// Show what runs; fails when a part does not.
    #[command(after_help = "Example:\n  playground status")]
    Status,
    /// Print what is on this machine that a playground could leave behind.
    #[command(after_help = "Example:\n  playground snapshot >before; playground up; playground down; \\\n  \
        playground snapshot --since before")]
    Snapshot {
        /// Only what was not there when this file was written; fail if there is anything.
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
    /// Find or build the programs of Kubernetes and print where they are.
    #[command(
        after_help = "Example:\n  TOMBOLO_CACHE=/var/cache/tombolo playground build --helm --kube-proxy"
    )]
    Build {
        /// Provide helm too.
        #[arg(long)]
        helm: bool,
        /// Provide kube-proxy too.
        #[arg(long)]
        kube_proxy: bool,
    },
    /// Load an image archive (`docker save` or OCI) into the nodes.
    #[command(after_help = "Example:\n  playground load-image target/images/tombolo.tar --cluster east")]
    LoadImage {
        /// The archive.
        archive: PathBuf,
        /// Only this cluster.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Add, remove or reboot a node while its cluster runs.
    #[command(
        subcommand,
        after_help = "Examples:\n  playground node add east\n  playground node reboot east/node-2\n  \
        playground node remove east/node-3"
    )]
    Node(NodeVerb),
    /// Give a node a further device or address, or take it away; a reboot takes all of them.
    #[command(
        subcommand,
        after_help = "Examples:\n  playground device add east/node-1 second\n  \
        playground device add east/node-1 address\n  playground device remove east/node-1 second"
    )]
    Device(DeviceVerb),
    /// Run a command in a node.
    #[command(after_help = "Examples:\n  playground exec east/node-1 -- ip route\n  \
        playground exec east/control-plane -- ss -tln\n  playground exec outside-1 -- ip route")]
    Exec {
        /// The node, as CLUSTER/NODE; control planes are CLUSTER/control-plane, CLUSTER/control-plane-2 and so on,
        /// `underlay` is the router between the clusters, and outside-1 and outside-2 are hosts that only the
        /// router and the nodes reach.
        node: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Impair the link between two clusters, or make it whole.
    ///
    /// Each call states the whole state of the link: what is not given is unimpaired.
    #[command(
        after_help = "Examples:\n  playground link east west --down\n  playground link east west --mtu 1380 --delay 40 --loss 1\n  \
        playground link east west --up"
    )]
    Link(Link),
    /// Kill a component with SIGKILL; it stays dead.
    #[command(after_help = "Example:\n  playground kill east/node-1 kubelet")]
    Kill(Component),
    /// Stop a component with SIGSTOP.
    #[command(after_help = "Example:\n  playground freeze east/control-plane etcd")]
    Freeze(Component),
    /// Let a frozen component go on.
    #[command(after_help = "Example:\n  playground thaw east/control-plane etcd")]
    Thaw(Component),
    /// Start a component again, killing it first when it runs.
    #[command(after_help = "Examples:\n  playground restart east/control-plane kube-apiserver\n  \
        playground restart east/control-plane-2 kube-scheduler\n  playground restart east/node-1 kube-proxy")]
    Restart(Component),
    /// Write a container image without a container engine.
    #[command(
        after_help = "Example:\n  playground image --name localhost/hello --tag 1 --entrypoint /bin/hello \\\n    \
        --file target/hello=/bin/hello -o hello.tar"
    )]
    Image(Image),
    /// What the playground runs itself.
    #[command(subcommand, hide = true)]
    Internal(Internal),
}

#[derive(Debug, Args)]
pub(super) struct Up {
    /// How many clusters.
    #[arg(long, default_value_t = 2)]
    pub(super) clusters: usize,
    /// How many nodes each cluster has.
    #[arg(long, default_value_t = 2)]
    pub(super) nodes: usize,
    /// The CNI plugin.
    #[arg(long, value_enum, default_value = "bridge")]
    pub(super) cni: Cni,
    /// The address families of machines, pods and services.
    #[arg(long, value_enum, default_value = "dual")]
    pub(super) ip_family: IpFamily,
    /// Run kube-proxy on every node, and how it makes services work.
    #[arg(long, value_enum, value_name = "MODE", default_value = "none")]
    pub(super) kube_proxy: KubeProxy,
    /// Spread the nodes of each cluster over so many zones, in turn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) zones: usize,
    /// How many control planes each cluster has, on one etcd; nodes pass over those that are dead.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) control_planes: usize,
    /// Names of the clusters, separated by commas; decides how many there are.
    #[arg(long, value_delimiter = ',')]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeVerb {
    /// Add a node, and print its name when it is Ready.
    #[command(after_help = "Example:\n  playground node add east")]
    Add {
        /// The cluster.
        cluster: String,
    },
    /// Take a node away as if its power had failed, with its disk and its Node object.
    #[command(after_help = "Example:\n  playground node remove east/node-3")]
    Remove {
        /// The node, as CLUSTER/NODE.
        node: String,
    },
    /// Let a node's power fail and come back: its network, its /run and all processes are gone, its disk is kept.
    #[command(after_help = "Example:\n  playground node reboot east/node-2")]
    Reboot {
        /// The node, as CLUSTER/NODE.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceVerb {
    /// Add it, and print the device with each address that the node got by it.
    #[command(after_help = "Examples:\n  playground device add east/node-1 second\n  \
        playground device add east/node-1 tun")]
    Add {
        /// The node, as CLUSTER/NODE.
        node: String,
        /// What to add.
        #[arg(value_enum)]
        device: Device,
    },
    /// Take it away.
    #[command(after_help = "Example:\n  playground device remove east/node-1 address")]
    Remove {
        /// The node, as CLUSTER/NODE.
        node: String,
        /// What to take away.
        #[arg(value_enum)]
        device: Device,
    },
}

#[derive(Debug, Args)]
pub(super) struct Link {
    /// One cluster.
    pub(super) a: String,
    /// The other cluster.
    pub(super) b: String,
    /// Make the link whole.
    #[arg(long, conflicts_with_all = ["down", "loss", "delay", "mtu"])]
    pub(super) up: bool,
    /// Cut it.
    #[arg(long, conflicts_with_all = ["loss", "delay", "mtu"])]
    pub(super) down: bool,
    /// Lose this many of a hundred packets in each direction.
    #[arg(long, value_name = "PERCENT")]
    pub(super) loss: Option<u8>,
    /// Hold each packet for this many milliseconds in each direction.
    #[arg(long, value_name = "MS")]
    pub(super) delay: Option<u32>,
    /// The largest IP packet that passes, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(super) mtu: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Component {
    /// Where it runs, as CLUSTER/NODE or CLUSTER/control-plane; further ones are CLUSTER/control-plane-2 and so on.
    pub(super) node: String,
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, containerd, kube-proxy, or
    /// api-forwarder, which nodes have where there are several control planes.
    pub(super) component: String,
}

#[derive(Debug, Args)]
pub(super) struct Image {
    /// The image's name.
    #[arg(long)]
    pub(super) name: String,
    /// The image's tag.
    #[arg(long)]
    pub(super) tag: String,
    /// A word of the entry point; repeat for arguments.
    #[arg(long)]
    pub(super) entrypoint: Vec<String>,
    /// A file of this machine and its absolute path in the image, as SOURCE=PATH; the permissions are
    /// the source's.
    #[arg(long)]
    pub(super) file: Vec<String>,
    /// A symbolic link in the image, as PATH=TARGET.
    #[arg(long)]
    pub(super) link: Vec<String>,
    /// A label, as KEY=VALUE.
    #[arg(long)]
    pub(super) label: Vec<String>,
    /// Where to write the archive.
    #[arg(short, long)]
    pub(super) output: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Internal {
    /// Make and hold namespaces.
    Hold { cgroup: PathBuf, isolation: String },
    /// Enter the namespaces of a process.
    Enter {
        holder: i32,
        cgroup: PathBuf,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Join a cgroup.
    Join {
        cgroup: PathBuf,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Forward the packets of an impaired link.
    Forward { device: String, loss_percent: u8, delay_ms: u64 },
    /// Forward connections to an API server that is alive.
    ForwardApi { listen: SocketAddr, servers: Vec<SocketAddr> },
    /// Connect two TUN devices, one here and one in the network namespace of another process.
    Tunnel { here: String, other: i32, there: String },
}
