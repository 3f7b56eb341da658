//! Pods of one cluster against what is below them.

use std::net::Ipv4Addr;

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, compare},
    netns::{Netns, Path, Witness, witnessed},
    scope::{self, Scope},
    throughput::{round_trips, stream},
};

/// Takes one sample of a path for so many seconds: the figure and the bytes.
type Sample = fn(&Path, u64) -> anyhow::Result<(f64, u64)>;

const SAME_LEAVES_OUT: &str =
    "policies, more than one stream, IPv6; the pair has an MTU of 1500, pods that of the agent";
const CROSS_LEAVES_OUT: &str = "policies, more than one stream, IPv6, a wire: both nodes share this machine. The \
    datapath's programs on eth0 of the nodes are in the peer's path too";

/// `pod.same.throughput`.
pub const SAME_THROUGHPUT: Benchmark = Benchmark {
    names: &["pod.same.throughput"],
    measures: "one TCP stream (iperf3) between two pods of a node, against the same between two network namespaces \
        that a bare pair of veth devices connects",
    leaves_out: SAME_LEAVES_OUT,
    run: |context| same(context, &THROUGHPUT_SAME, stream),
};

/// `pod.same.rr`.
pub const SAME_RR: Benchmark = Benchmark {
    names: &["pod.same.rr"],
    measures: "round trips of 64 bytes in one TCP connection, p50, on the paths of pod.same.throughput",
    leaves_out: SAME_LEAVES_OUT,
    run: |context| same(context, &RR_SAME, round_trips),
};

/// `pod.cross.throughput`.
pub const CROSS_THROUGHPUT: Benchmark = Benchmark {
    names: &["pod.cross.throughput"],
    measures: "one TCP stream (iperf3) between pods of two nodes, against the same between the two nodes",
    leaves_out: CROSS_LEAVES_OUT,
    run: |context| cross(context, &THROUGHPUT_CROSS, stream),
};

/// `pod.cross.rr`.
pub const CROSS_RR: Benchmark = Benchmark {
    names: &["pod.cross.rr"],
    measures: "round trips of 64 bytes in one TCP connection, p50, on the paths of pod.cross.throughput",
    leaves_out: CROSS_LEAVES_OUT,
    run: |context| cross(context, &RR_CROSS, round_trips),
};

const THROUGHPUT_SAME: Comparison = Comparison {
    name: "pod.same.throughput",
    unit: "Gbit/s",
    peer_name: "veth pair",
    higher_is_better: true,
    goal: Some(0.98),
};
const RR_SAME: Comparison = Comparison {
    name: "pod.same.rr",
    unit: "µs",
    peer_name: "veth pair",
    higher_is_better: false,
    goal: Some(1.05),
};
const THROUGHPUT_CROSS: Comparison = Comparison {
    name: "pod.cross.throughput",
    peer_name: "node to node",
    goal: Some(0.95),
    ..THROUGHPUT_SAME
};
const RR_CROSS: Comparison = Comparison { name: "pod.cross.rr", peer_name: "node to node", ..RR_SAME };

fn same(context: &Context, what: &Comparison, sample: Sample) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [node, _] = context.two_nodes(&cluster)?;
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &node)?, scope.pod("server", &node)?);
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address };
    let (a, b) = (Netns::fresh()?, Netns::fresh()?);
    a.connect("eth0", &b, "eth0")?;
    a.ip("address add 198.18.0.1/30 dev eth0")?;
    b.ip("address add 198.18.0.2/30 dev eth0")?;
    let peer = Path { client: &a, server: &b, address: Ipv4Addr::new(198, 18, 0, 2) };
    let result = compare(
        what,
        context.rounds,
        || both_ends(&ours, sample, context.seconds),
        || both_ends(&peer, sample, context.seconds),
    )?;
    Ok(vec![result])
}

fn cross(context: &Context, what: &Comparison, sample: Sample) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [first, second] = context.two_nodes(&cluster)?;
    let (a, b) = (scope::node(&cluster, &first)?, scope::node(&cluster, &second)?);
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &first)?, scope.pod("server", &second)?);
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address };
    let peer = Path { client: &a, server: &b, address: cluster.addresses().node(1) };
    let nodes = [Witness(&a, "eth0"), Witness(&b, "eth0")];
    let result = compare(
        what,
        context.rounds,
        || witnessed(&nodes, || both_ends_moved(&ours, sample, context.seconds)),
        || both_ends(&peer, sample, context.seconds),
    )?;
    Ok(vec![result])
}

/// A sample that must have gone through `eth0` of both ends.
fn both_ends(path: &Path, sample: Sample, seconds: u64) -> anyhow::Result<f64> {
    both_ends_moved(path, sample, seconds).map(|(figure, _)| figure)
}

fn both_ends_moved(path: &Path, sample: Sample, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let mut moved = 0;
    let figure = witnessed(&[Witness(path.client, "eth0"), Witness(path.server, "eth0")], || {
        let taken = sample(path, seconds)?;
        moved = taken.1;
        Ok(taken)
    })?;
    Ok((figure, moved))
}
