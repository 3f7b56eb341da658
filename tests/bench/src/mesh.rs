//! Pods of two clusters against another user-space WireGuard.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, compare},
    netns::{Netns, Path, Witness, witnessed},
    process::cpu,
    scope::{self, Scope, eventually, processes},
    throughput::{both_ways, datagrams, four_streams, stream},
    wireguard::{self, Pair},
};

const TUNNEL: &str = "tombolo-wg0";

const LEAVES_OUT: &str = "IPv6, a wire: all share this machine, and both ends its CPUs. Ours also passes the pods' devices and \
    the datapath, which the peer has not; clusters that rest are beside both";

/// `mesh.throughput`.
pub const THROUGHPUT: Benchmark = Benchmark {
    names: &["mesh.throughput"],
    measures: "one TCP stream (iperf3) from a pod to a pod of another cluster, against the same through wireguard-go \
        between two network namespaces with a router between them",
    leaves_out: LEAVES_OUT,
    run: |context| against_wireguard(context, &GIGABITS, |side, seconds| stream(&side.path, seconds)),
};

/// `mesh.throughput.4`.
pub const FOUR: Benchmark = Benchmark {
    names: &["mesh.throughput.4"],
    measures: "four TCP streams at the same time on the paths of mesh.throughput, their sum",
    leaves_out: LEAVES_OUT,
    run: |context| {
        let what = Comparison { name: "mesh.throughput.4", goal: Some(1.0), ..GIGABITS };
        against_wireguard(context, &what, |side, seconds| four_streams(&side.path, seconds))
    },
};

/// `mesh.throughput.both`.
pub const BOTH: Benchmark = Benchmark {
    names: &["mesh.throughput.both"],
    measures: "two TCP streams at the same time, one in each direction, on the paths of mesh.throughput, their sum",
    leaves_out: LEAVES_OUT,
    run: |context| {
        let what = Comparison { name: "mesh.throughput.both", goal: Some(1.0), ..GIGABITS };
        against_wireguard(context, &what, |side, seconds| both_ways(&side.path, seconds))
    },
};

/// `mesh.throughput.udp`.
pub const UDP: Benchmark = Benchmark {
    names: &["mesh.throughput.udp"],
    measures: "UDP datagrams of 1392 bytes that arrive on the paths of mesh.throughput when one process sends as many as \
        it can",
    leaves_out: "how many are lost, which is what the sender has sent too much; IPv6, a wire. The sender takes CPU time \
        from the tunnel that it overruns",
    run: |context| {
        let what = Comparison { name: "mesh.throughput.udp", goal: Some(1.0), ..GIGABITS };
        against_wireguard(context, &what, |side, seconds| datagrams(&side.path, seconds))
    },
};

/// `mesh.cpu`.
pub const CPU: Benchmark = Benchmark {
    names: &["mesh.cpu"],
    measures: "CPU time of both ends' tunnel processes, in the kernel too, per GB that the sender's tunnel device carries \
        in both directions, during the stream of mesh.throughput",
    leaves_out: "what the kernel does for packets in nobody's name (softirq), iperf3, the datapath's programs; IPv6, a wire",
    run: |context| {
        let what =
            Comparison { name: "mesh.cpu", unit: "s/GB", higher_is_better: false, goal: None, ..GIGABITS };
        against_wireguard(context, &what, cpu_per_gigabyte)
    },
};

const GIGABITS: Comparison = Comparison {
    name: "mesh.throughput",
    unit: "Gbit/s",
    peer_name: "wireguard-go",
    higher_is_better: true,
    goal: Some(1.5),
};

/// One of the two tunnels.
struct Side<'a> {
    path: Path<'a>,
    /// The tunnel's device at the client.
    device: Witness<'a>,
    /// The processes of both ends.
    processes: Vec<u32>,
}

/// Takes one sample of a tunnel for so many seconds: the figure and the bytes.
type Sample = fn(&Side, u64) -> anyhow::Result<(f64, u64)>;

fn against_wireguard(context: &Context, what: &Comparison, sample: Sample) -> anyhow::Result<Vec<Result>> {
    let program = wireguard::program()?;
    let [east, west] = &context.two_clusters()?;
    let ([here, _], [there, _]) = (context.two_nodes(east)?, context.two_nodes(west)?);
    let (near, far) = (scope::node(east, &here)?, scope::node(west, &there)?);
    let (scope, other) = (Scope::new(east)?, Scope::new(west)?);
    let (client, server) = (scope.pod("client", &here)?, other.pod("server", &there)?);
    // A mesh that was joined a moment ago takes a moment to reach the nodes.
    let address = server.address.to_string();
    eventually(Duration::from_secs(15), || is_connected(&near, &address)).with_context(|| {
        let (east, west) = (east.name(), west.name());
        format!("{east} and {west} are not connected; `tombolo connect` joins them")
    })?;
    let tunnels =
        [processes(east, &here, "tombolo-tunnel")?, processes(west, &there, "tombolo-tunnel")?].concat();
    ensure!(tunnels.len() == 2, "there are {} tunnels on two nodes", tunnels.len());
    let ours = Side {
        path: Path { client: &client.netns, server: &server.netns, address: server.address.into() },
        device: Witness(&near, TUNNEL),
        processes: tunnels,
    };
    let witnesses = [
        Witness(&client.netns, "eth0"),
        Witness(&near, TUNNEL),
        Witness(&far, TUNNEL),
        Witness(&server.netns, "eth0"),
    ];
    let pair = Pair::new(&program)?;
    let [at_client, at_server] = &pair.devices;
    let peer = Side {
        path: Path { client: &pair.client, server: &pair.server, address: pair.address.into() },
        device: Witness(&pair.client, at_client),
        processes: pair.processes(),
    };
    let peer_witnesses = [Witness(&pair.client, at_client), Witness(&pair.server, at_server)];
    let result = compare(
        what,
        context.rounds,
        || witnessed(&witnesses, || sample(&ours, context.seconds)),
        || witnessed(&peer_witnesses, || sample(&peer, context.seconds)),
    )?;
    Ok(vec![result])
}

/// Seconds of CPU time per GB, and the bytes of the stream.
fn cpu_per_gigabyte(side: &Side, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let used = || side.processes.iter().map(|pid| cpu(*pid)).sum::<anyhow::Result<f64>>();
    let Witness(netns, device) = side.device;
    let (cpu_before, bytes_before) = (used()?, netns.bytes(device)?);
    let (_, moved) = stream(&side.path, seconds)?;
    let (cpu, bytes) = (used()? - cpu_before, netns.bytes(device)?.saturating_sub(bytes_before));
    #[expect(clippy::cast_precision_loss, reason = "bytes of seconds")]
    Ok((cpu / (bytes as f64 / 1e9), moved))
}

/// Fails unless the node's way to the address is the tunnel.
fn is_connected(node: &Netns, address: &str) -> anyhow::Result<()> {
    let route = node.ip(&format!("route get {address}"))?;
    ensure!(route.contains(&format!("dev {TUNNEL} ")), "the route to {address} is {:?}", route.trim());
    Ok(())
}
