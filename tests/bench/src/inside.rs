//! What this program does when it runs itself inside of a namespace.

use std::{
    fs,
    io::{Read, Write, stdout},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Subcommand;
use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};
use tombolo_playground::cgroup::Cgroup;

use crate::{
    cni, datapath,
    measure::in_turn,
    propagation, scale,
    statistics::{median, percentile},
};

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;

/// Times in microseconds.
#[derive(Serialize, Deserialize)]
pub struct Times {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// How many there are.
    pub count: u64,
}

impl Times {
    fn of(samples: Vec<f64>) -> Self {
        let count = u64::try_from(samples.len()).unwrap_or(u64::MAX);
        Self { p50: median(samples.clone()), p99: percentile(samples, 0.99), count }
    }
}

/// Times of connecting to a service and to its pod.
#[derive(Serialize, Deserialize)]
pub struct Connects {
    /// To the service.
    pub service: Times,
    /// To the pod.
    pub pod: Times,
}

/// The verbs, which are no interface to people.
#[derive(Subcommand)]
#[command(hide = true)]
pub enum Command {
    /// Send back what comes.
    #[command(hide = true)]
    Echo { address: SocketAddr },
    /// Time round trips to an echo.
    #[command(hide = true)]
    Ping {
        address: SocketAddr,
        #[arg(long)]
        seconds: u64,
    },
    /// Accept connections.
    #[command(hide = true)]
    Accept { address: SocketAddr },
    /// Time connecting to a service and to its pod in turn, as a process of a pod.
    #[command(hide = true)]
    Connect {
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(long)]
        netns: PathBuf,
        #[arg(long)]
        service: SocketAddr,
        #[arg(long)]
        pod: SocketAddr,
        #[arg(long)]
        count: usize,
    },
    /// Time calls of CNI plugins, in a node.
    #[command(hide = true)]
    Cni,
    /// Time the programs on packets in memory.
    #[command(hide = true)]
    Programs,
    /// Say when a backend is in the maps of this node.
    #[command(hide = true)]
    Backend(propagation::Wanted),
    /// Say whenever backends come or go in the maps of this node.
    #[command(hide = true)]
    Backends(propagation::Many),
    /// Be the other clusters of a mesh.
    #[command(hide = true)]
    MeshPeers(scale::Peers),
    /// Be the daemon of a mesh.
    #[command(hide = true)]
    MeshDaemon(scale::Daemon),
    /// Be the daemon of many nodes.
    #[command(hide = true)]
    MeshHub(scale::Hub),
    /// Be many nodes.
    #[command(hide = true)]
    MeshNodes(scale::Nodes),
    /// Be a large cluster that joins the playground.
    #[command(hide = true)]
    MeshBig(scale::Big),
    /// Be a part of the peer of `mesh.propagation`.
    #[command(hide = true)]
    Chain {
        #[command(subcommand)]
        hop: propagation::Hop,
    },
}

/// Does it and prints the result.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Echo { address } => echo(address),
        Command::Ping { address, seconds } => print(&ping(address, Duration::from_secs(seconds))?),
        Command::Accept { address } => accept(address),
        Command::Connect { cgroup, netns, service, pod, count } => {
            Cgroup::at(cgroup).join()?;
            let file = fs::File::open(&netns).with_context(|| format!("cannot open {}", netns.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the pod's network")?;
            print(&connect(service, pod, count)?)
        }
        Command::Cni => cni::serve(),
        Command::Programs => print(&datapath::time_programs()?),
        Command::Backend(wanted) => wanted.report(),
        Command::Backends(many) => many.report(),
        Command::Chain { hop } => hop.run(),
        Command::MeshPeers(peers) => peers.run(),
        Command::MeshDaemon(daemon) => daemon.run(),
        Command::MeshHub(hub) => hub.run(),
        Command::MeshNodes(nodes) => nodes.run(),
        Command::MeshBig(big) => big.run(),
    }
}

fn print(result: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{}", serde_json::to_string(result)?)?)
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    writeln!(stdout(), "ready")?;
    Ok(listener)
}

fn echo(address: SocketAddr) -> anyhow::Result<()> {
    let (mut stream, _) = listen(address)?.accept()?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

fn ping(address: SocketAddr, time: Duration) -> anyhow::Result<Times> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut samples, mut message) = (Vec::new(), [7; MESSAGE]);
    // The first tenth warms up.
    let (started, warm) = (Instant::now(), time / 10);
    while started.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if started.elapsed() > warm {
            samples.push(micros(sent));
        }
    }
    Ok(Times::of(samples))
}

fn accept(address: SocketAddr) -> anyhow::Result<()> {
    let listener = listen(address)?;
    loop {
        drop(listener.accept()?);
    }
}

fn connect(service: SocketAddr, pod: SocketAddr, count: usize) -> anyhow::Result<Connects> {
    is_translated(service, pod)?;
    let (mut to_service, mut to_pod) = (Vec::new(), Vec::new());
    for round in 0..count {
        let times = in_turn(round, || connect_once(service), || connect_once(pod))?;
        to_service.push(times.0);
        to_pod.push(times.1);
    }
    is_translated(service, pod)?;
    Ok(Connects { service: Times::of(to_service), pod: Times::of(to_pod) })
}

fn connect_once(address: SocketAddr) -> anyhow::Result<f64> {
    let started = Instant::now();
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let time = micros(started);
    // Closed by RST: otherwise the local ports run out, as they wait for the network to forget them.
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(time)
}

/// Fails unless the kernel's own socket is connected to the pod: that is, translated by `connect`, and not packet by
/// packet on its way.
fn is_translated(service: SocketAddr, pod: SocketAddr) -> anyhow::Result<()> {
    let stream = TcpStream::connect(service).with_context(|| format!("cannot connect to {service}"))?;
    let local = stream.local_addr()?.port();
    thread::sleep(Duration::from_millis(10));
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    let remote = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.split_once(':')?.1, words.next()?))
        })
        .find(|(port, _)| u16::from_str_radix(port, 16) == Ok(local))
        .map(|(_, remote)| remote)
        .context("the connection is not in /proc/net/tcp")?;
    let IpAddr::V4(ip) = pod.ip() else { anyhow::bail!("pod is {pod}; give an IPv4 address") };
    // The table has addresses as the machine's numbers.
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), pod.port());
    ensure!(
        remote == wanted,
        "{service} was connected to {remote} and not to {wanted}: not translated by connect"
    );
    Ok(())
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
