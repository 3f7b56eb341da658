//! The command line.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use tombolo_playground::api_forwarder;
use tombolo_playground::binaries::{Binaries, Extras};
use tombolo_playground::cgroup::Cgroup;
use tombolo_playground::device::{self, Device};
use tombolo_playground::forwarder::{self, Impairment};
use tombolo_playground::image::Builder;
use tombolo_playground::layout::Layout;
use tombolo_playground::place::Place;
use tombolo_playground::progress::Progress;
use tombolo_playground::{
    Cluster, Cni, IpFamily, KubeProxy, LinkState, Playground, Snapshot, Spec, down, leftovers, namespace,
    teardown,
};

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
/// How long the kernel may take to let go of what ended.
const SETTLE: Duration = Duration::from_secs(60);

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
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
struct Up {
    /// How many clusters.
    #[arg(long, default_value_t = 2)]
    clusters: usize,
    /// How many nodes each cluster has.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// The CNI plugin.
    #[arg(long, value_enum, default_value = "bridge")]
    cni: Cni,
    /// The address families of machines, pods and services.
    #[arg(long, value_enum, default_value = "dual")]
    ip_family: IpFamily,
    /// Run kube-proxy on every node, and how it makes services work.
    #[arg(long, value_enum, value_name = "MODE", default_value = "none")]
    kube_proxy: KubeProxy,
    /// Spread the nodes of each cluster over so many zones, in turn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    zones: usize,
    /// How many control planes each cluster has, on one etcd; nodes pass over those that are dead.
    #[arg(long, value_name = "N", default_value_t = 1)]
    control_planes: usize,
    /// Names of the clusters, separated by commas; decides how many there are.
    #[arg(long, value_delimiter = ',')]
    names: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
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
enum DeviceVerb {
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
struct Link {
    /// One cluster.
    a: String,
    /// The other cluster.
    b: String,
    /// Make the link whole.
    #[arg(long, conflicts_with_all = ["down", "loss", "delay", "mtu"])]
    up: bool,
    /// Cut it.
    #[arg(long, conflicts_with_all = ["loss", "delay", "mtu"])]
    down: bool,
    /// Lose this many of a hundred packets in each direction.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<u8>,
    /// Hold each packet for this many milliseconds in each direction.
    #[arg(long, value_name = "MS")]
    delay: Option<u32>,
    /// The largest IP packet that passes, in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
}

#[derive(Debug, Args)]
struct Component {
    /// Where it runs, as CLUSTER/NODE or CLUSTER/control-plane; further ones are CLUSTER/control-plane-2 and so on.
    node: String,
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, containerd, kube-proxy, or
    /// api-forwarder, which nodes have where there are several control planes.
    component: String,
}

#[derive(Debug, Args)]
struct Image {
    /// The image's name.
    #[arg(long)]
    name: String,
    /// The image's tag.
    #[arg(long)]
    tag: String,
    /// A word of the entry point; repeat for arguments.
    #[arg(long)]
    entrypoint: Vec<String>,
    /// A file of this machine and its absolute path in the image, as SOURCE=PATH; the permissions are
    /// the source's.
    #[arg(long)]
    file: Vec<String>,
    /// A symbolic link in the image, as PATH=TARGET.
    #[arg(long)]
    link: Vec<String>,
    /// A label, as KEY=VALUE.
    #[arg(long)]
    label: Vec<String>,
    /// Where to write the archive.
    #[arg(short, long)]
    output: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Internal {
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

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> Result<()> {
    let layout = Layout::from_environment();
    let progress = Progress::start();
    match arguments.verb {
        Verb::Internal(internal) => run_internal(internal),
        Verb::Up(up) => run_up(&up, &layout, progress),
        Verb::Down => run_down(&layout, progress),
        Verb::Status => status(&Playground::attach(&layout)?),
        Verb::Snapshot { since } => snapshot(since.as_deref()),
        Verb::Build { helm, kube_proxy } => {
            let binaries = Binaries::provide(Extras { helm, kube_proxy }, progress)?;
            binaries.all().try_for_each(|(name, path)| say(&format!("{name} {}", path.display())))
        }
        Verb::LoadImage { archive, cluster } => {
            let playground = Playground::attach(&layout)?;
            let clusters = match cluster {
                Some(name) => vec![playground.cluster(&name)?],
                None => playground.clusters(),
            };
            for cluster in clusters {
                progress.say(&format!("loading into {}", cluster.name()));
                cluster.load_image(&archive)?;
            }
            Ok(())
        }
        Verb::Exec { node, command } => {
            let mut inside = if node == "underlay" {
                Playground::attach(&layout)?;
                Place::underlay(&layout)?.command("exec", &command)?
            } else if !node.contains('/') && node.starts_with("outside") {
                Playground::attach(&layout)?.outside(&node)?.command(&command)?
            } else {
                let (cluster, node) = resolve(&layout, &node)?;
                cluster.command(&node, &command)?
            };
            Err(inside.exec()).context("cannot enter the node")
        }
        Verb::Node(verb) => run_node(&layout, &verb, progress),
        Verb::Device(verb) => run_device(&layout, &verb),
        Verb::Link(link) => run_link(&Playground::attach(&layout)?, &link),
        Verb::Kill(c) => component(&layout, &c, Cluster::kill),
        Verb::Freeze(c) => component(&layout, &c, Cluster::freeze),
        Verb::Thaw(c) => component(&layout, &c, Cluster::thaw),
        Verb::Restart(c) => component(&layout, &c, Cluster::restart),
        Verb::Image(image) => write_image(&image),
    }
}

fn run_up(up: &Up, layout: &Layout, progress: Progress) -> Result<()> {
    let spec = Spec::new(up.clusters, up.nodes, up.cni, &up.names)?;
    let (zones, control_planes) = (up.zones, up.control_planes);
    let spec = Spec { ip_family: up.ip_family, kube_proxy: up.kube_proxy, zones, control_planes, ..spec };
    watch_signals(progress)?;
    let result = Playground::up(spec, layout, progress);
    if teardown::is_interrupted() {
        teardown::end(layout, progress).context("cannot clean up; `playground down` tries again")?;
        std::process::exit(INTERRUPTED);
    }
    let playground = result?;
    progress.say("up");
    for cluster in playground.clusters() {
        say(&cluster.kubeconfig().display().to_string())?;
    }
    Ok(())
}

/// On Ctrl-C or SIGTERM, makes `up` fail soon and clean up.
fn watch_signals(progress: Progress) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot watch signals")?;
    thread::spawn(move || {
        let signal = runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result,
                _ = terminate.recv() => Ok(()),
            }
        });
        if signal.is_ok() {
            progress.say("interrupted; removing what has been started");
            teardown::interrupt();
        }
    });
    Ok(())
}

fn run_down(layout: &Layout, progress: Progress) -> Result<()> {
    down(layout, progress)?;
    let left = leftovers(layout);
    if left.is_empty() {
        progress.say("nothing is left");
        return Ok(());
    }
    bail!("still there:\n{}", left.join("\n"))
}

fn status(playground: &Playground) -> Result<()> {
    for cluster in playground.clusters() {
        say(&format!("{} {}", cluster.name(), cluster.kubeconfig().display()))?;
        for (place, component, runs) in cluster.components()? {
            say(&format!("  {place:<16} {component:<24} {}", if runs { "running" } else { "not running" }))?;
        }
    }
    let failures = playground.failures()?;
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

fn snapshot(since: Option<&Path>) -> Result<()> {
    let Some(file) = since else { return say(Snapshot::take()?.to_string().trim_end()) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the snapshot {}", file.display()))?;
    let before = Snapshot::parse(&text);
    let started = Instant::now();
    loop {
        let left = Snapshot::take()?.since(&before);
        if left.is_empty() {
            return say("nothing is left");
        }
        // The kernel lets go of namespaces and BPF objects a moment after their last user.
        if started.elapsed() > SETTLE {
            bail!("came since {} was written:\n{}", file.display(), left.join("\n"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn run_node(layout: &Layout, verb: &NodeVerb, progress: Progress) -> Result<()> {
    match verb {
        NodeVerb::Add { cluster } => {
            let name = Playground::attach(layout)?.cluster(cluster)?.add_node(progress)?;
            say(&format!("{cluster}/{name}"))
        }
        NodeVerb::Remove { node } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.remove_node(&node)?)
        }
        NodeVerb::Reboot { node } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.reboot_node(&node)?)
        }
    }
}

fn run_device(layout: &Layout, verb: &DeviceVerb) -> Result<()> {
    match verb {
        DeviceVerb::Add { node, device } => {
            let (cluster, node) = resolve(layout, node)?;
            let addresses = cluster.add_device(&node, *device)?;
            addresses.iter().try_for_each(|address| say(&format!("{} {address}", device.link())))
        }
        DeviceVerb::Remove { node, device } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.remove_device(&node, *device)?)
        }
    }
}

fn run_link(playground: &Playground, link: &Link) -> Result<()> {
    if !link.up && !link.down && link.loss.is_none() && link.delay.is_none() && link.mtu.is_none() {
        bail!("no state given; add --up, --down, --loss, --delay or --mtu");
    }
    let state = LinkState {
        down: link.down,
        loss_percent: link.loss.unwrap_or(0),
        delay_ms: link.delay.unwrap_or(0),
        mtu: link.mtu,
    };
    Ok(playground.set_link(&link.a, &link.b, state)?)
}

fn component(
    layout: &Layout,
    what: &Component,
    action: fn(&Cluster, &str, &str) -> tombolo_playground::Result<()>,
) -> Result<()> {
    let (cluster, node) = resolve(layout, &what.node)?;
    Ok(action(&cluster, &node, &what.component)?)
}

fn resolve(layout: &Layout, name: &str) -> Result<(Cluster, String)> {
    let (cluster, node) = name
        .split_once('/')
        .ok_or_else(|| anyhow!("node is {name:?}; give it as CLUSTER/NODE, for example east/node-1"))?;
    Ok((Playground::attach(layout)?.cluster(cluster)?, node.to_owned()))
}

fn write_image(image: &Image) -> Result<()> {
    let mut builder =
        Builder::new(&format!("{}:{}", image.name, image.tag))?.entrypoint(image.entrypoint.clone());
    for file in &image.file {
        let (source, path) = pair("file", file)?;
        let mode = std::os::unix::fs::MetadataExt::mode(
            &std::fs::metadata(source).with_context(|| format!("cannot read {source}"))?,
        );
        builder = builder.file(source, path, mode & 0o7777)?;
    }
    for link in &image.link {
        let (path, target) = pair("link", link)?;
        builder = builder.link(path, target)?;
    }
    for label in &image.label {
        let (key, value) = pair("label", label)?;
        builder = builder.label(key, value);
    }
    Ok(builder.write(&image.output)?)
}

fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').ok_or_else(|| anyhow!("{option} is {text:?}; give two values with = between them"))
}

fn run_internal(internal: Internal) -> Result<()> {
    match internal {
        Internal::Hold { cgroup, isolation } => {
            let isolation = serde_json::from_str(&isolation).context("cannot read the isolation")?;
            Ok(namespace::hold(&Cgroup::at(cgroup), &isolation)?)
        }
        Internal::Enter { holder, cgroup, command } => {
            let new_session = std::env::var_os("TOMBOLO_NEW_SESSION").is_some();
            Ok(namespace::enter(holder, &Cgroup::at(cgroup), new_session, &command)?)
        }
        Internal::Join { cgroup, command } => Ok(namespace::join(&Cgroup::at(cgroup), &command)?),
        Internal::Forward { device, loss_percent, delay_ms } => {
            let delay = Duration::from_millis(delay_ms);
            Ok(forwarder::run(&device, Impairment { loss_percent, delay })?)
        }
        Internal::ForwardApi { listen, servers } => Ok(api_forwarder::run(listen, servers)?),
        Internal::Tunnel { here, other, there } => Ok(device::tunnel(&here, other, &there)?),
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
