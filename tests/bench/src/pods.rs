//! Pods of one cluster against what is below them.

mod forward;

use std::net::Ipv4Addr;

use anyhow::Context as _;

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, compare},
    netns::{Netns, Path, Witness, witnessed},
    scope::{self, Scope},
    throughput::{four_streams, round_trips, stream},
};
use forward::Forwarded;

/// Takes one sample of a path for so many seconds: the figure and the bytes.
type Sample = fn(&Path, u64) -> anyhow::Result<(f64, u64)>;

const SAME_LEAVES_OUT: &str = "policies, IPv6; the pair has an MTU of 1500, pods that of the agent";
const CROSS_LEAVES_OUT: &str = "policies, IPv6, a wire: both nodes share this machine. The datapath's programs on eth0 of the \
    nodes are in the peer's path too, and the peer has an MTU of 1500, pods what a tunnel leaves of it";

/// `pod.same.throughput`.
pub const SAME_THROUGHPUT: Benchmark = Benchmark {
    names: &["pod.same.throughput"],
    measures: "one TCP stream (iperf3) between two pods of a node, against the same between two network namespaces \
        that a bare pair of veth devices connects",
    leaves_out: SAME_LEAVES_OUT,
    run: |context| same(context, &THROUGHPUT_SAME, stream),
};

/// `pod.same.throughput.4`.
pub const SAME_FOUR: Benchmark = Benchmark {
    names: &["pod.same.throughput.4"],
    measures: "four TCP streams at the same time on the paths of pod.same.throughput, their sum",
    leaves_out: SAME_LEAVES_OUT,
    run: |context| {
        same(context, &Comparison { name: "pod.same.throughput.4", ..THROUGHPUT_SAME }, four_streams)
    },
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
    run: |context| cross(context, &THROUGHPUT_CROSS, stream, &Mtu::AsItIs),
};

/// `pod.cross.throughput.4`.
pub const CROSS_FOUR: Benchmark = Benchmark {
    names: &["pod.cross.throughput.4"],
    measures: "four TCP streams at the same time on the paths of pod.cross.throughput, their sum",
    leaves_out: CROSS_LEAVES_OUT,
    run: |context| {
        let what = Comparison { name: "pod.cross.throughput.4", ..THROUGHPUT_CROSS };
        cross(context, &what, four_streams, &Mtu::AsItIs)
    },
};

/// `pod.cross.throughput.mtu`.
pub const CROSS_MTU: Benchmark = Benchmark {
    names: &["pod.cross.throughput.mtu"],
    measures: "pod.cross.throughput with packets of the same size on both sides: the routes of the two pods have the MTU \
        of the nodes' devices",
    leaves_out: "policies, IPv6, a wire: both nodes share this machine. The datapath's programs on eth0 of the nodes are in \
        the peer's path too; pods are not made so, as what leaves for another cluster has to fit into the tunnel",
    run: |context| {
        let what = Comparison { name: "pod.cross.throughput.mtu", goal: None, ..THROUGHPUT_CROSS };
        cross(context, &what, stream, &Mtu::OfTheNodes)
    },
};

/// `pod.cross.throughput.forward`.
pub const CROSS_FORWARD: Benchmark = Benchmark {
    names: &["pod.cross.throughput.forward"],
    measures: "one TCP stream (iperf3) between pods of two nodes, against the same between two network namespaces, each \
        behind another one that forwards by the kernel's routes, with plain veth devices, the same bridge between them \
        and the pods' MTU",
    leaves_out: "policies, IPv6, a wire: both nodes share this machine. The peer has no netfilter and no programs",
    run: forwarded,
};

/// `pod.cross.rr`.
pub const CROSS_RR: Benchmark = Benchmark {
    names: &["pod.cross.rr"],
    measures: "round trips of 64 bytes in one TCP connection, p50, on the paths of pod.cross.throughput",
    leaves_out: CROSS_LEAVES_OUT,
    run: |context| cross(context, &RR_CROSS, round_trips, &Mtu::AsItIs),
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
const THROUGHPUT_FORWARD: Comparison = Comparison {
    name: "pod.cross.throughput.forward",
    peer_name: "veth and forwarding",
    goal: Some(1.0),
    ..THROUGHPUT_SAME
};

/// How large the packets of pods are.
enum Mtu {
    /// As the agent has made the pods' routes.
    AsItIs,
    /// As the devices allow.
    OfTheNodes,
}

fn same(context: &Context, what: &Comparison, sample: Sample) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [node, _] = context.two_nodes(&cluster)?;
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &node)?, scope.pod("server", &node)?);
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address.into() };
    let (a, b) = (Netns::fresh()?, Netns::fresh()?);
    a.connect("eth0", &b, "eth0")?;
    a.ip("address add 198.18.0.1/30 dev eth0")?;
    b.ip("address add 198.18.0.2/30 dev eth0")?;
    let peer = Path { client: &a, server: &b, address: Ipv4Addr::new(198, 18, 0, 2).into() };
    let result = compare(
        what,
        context.rounds,
        || through(&ours, &[], sample, context.seconds),
        || through(&peer, &[], sample, context.seconds),
    )?;
    Ok(vec![result])
}

fn cross(context: &Context, what: &Comparison, sample: Sample, mtu: &Mtu) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [first, second] = context.two_nodes(&cluster)?;
    let (a, b) = (scope::node(&cluster, &first)?, scope::node(&cluster, &second)?);
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &first)?, scope.pod("server", &second)?);
    if let Mtu::OfTheNodes = mtu {
        for pod in [&client, &server] {
            let (route, _) = default_route(&pod.netns)?;
            pod.netns.ip(&format!("route replace {route}"))?;
        }
    }
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address.into() };
    let peer = Path { client: &a, server: &b, address: cluster.addresses().node(1) };
    let nodes = [Witness(&a, "eth0"), Witness(&b, "eth0")];
    let result = compare(
        what,
        context.rounds,
        || through(&ours, &nodes, sample, context.seconds),
        || through(&peer, &[], sample, context.seconds),
    )?;
    Ok(vec![result])
}

fn forwarded(context: &Context) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [first, second] = context.two_nodes(&cluster)?;
    let (a, b) = (scope::node(&cluster, &first)?, scope::node(&cluster, &second)?);
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &first)?, scope.pod("server", &second)?);
    let (_, mtu) = default_route(&client.netns)?;
    let plain = Forwarded::new(mtu)?;
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address.into() };
    let peer = Path { client: &plain.client, server: &plain.server, address: plain.address.into() };
    let nodes = [Witness(&a, "eth0"), Witness(&b, "eth0")];
    let [left, right] = &plain.nodes;
    let peer_nodes = [Witness(left, "eth0"), Witness(right, "eth0")];
    let result = compare(
        &THROUGHPUT_FORWARD,
        context.rounds,
        || through(&ours, &nodes, stream, context.seconds),
        || through(&peer, &peer_nodes, stream, context.seconds),
    )?;
    Ok(vec![result])
}

/// A sample that must have gone through `eth0` of both ends, and by the others.
fn through(path: &Path, others: &[Witness], sample: Sample, seconds: u64) -> anyhow::Result<f64> {
    let ends = [Witness(path.client, "eth0"), Witness(path.server, "eth0")];
    witnessed(&[&ends[..], others].concat(), || sample(path, seconds))
}

/// A pod's default route without its MTU, and its MTU, bytes.
fn default_route(pod: &Netns) -> anyhow::Result<(String, u32)> {
    let route = pod.ip("-4 route show default")?;
    split_mtu(&route).with_context(|| format!("the pod's default route is {:?}", route.trim()))
}

fn split_mtu(route: &str) -> Option<(String, u32)> {
    let mut words: Vec<_> = route.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "mtu")?;
    let mtu = words.get(at + 1)?.parse().ok()?;
    words.drain(at..=at + 1);
    Some((words.join(" "), mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_and_its_mtu() {
        let (route, mtu) = split_mtu("default via 169.254.1.1 dev eth0 mtu 1420 onlink \n").unwrap();
        assert_eq!((&*route, mtu), ("default via 169.254.1.1 dev eth0 onlink", 1420));
        assert_eq!(split_mtu("default via 169.254.1.1 dev eth0"), None);
    }
}
