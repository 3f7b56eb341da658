//! Pods of two clusters against another user-space WireGuard.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, compare},
    netns::{Netns, Path, Witness, witnessed},
    scope::{self, Scope, eventually},
    throughput::stream,
    wireguard::Pair,
};

const TUNNEL: &str = "tombolo-wg0";

/// `mesh.throughput`.
pub const THROUGHPUT: Benchmark = Benchmark {
    names: &["mesh.throughput"],
    measures: "one TCP stream (iperf3) from a pod to a pod of another cluster, against the same through wireguard-go \
        between two network namespaces with a router between them",
    leaves_out: "more than one stream, IPv6, a wire: all share this machine. Ours also passes the pods' devices and the \
        datapath, which the peer has not",
    run: throughput,
};

const COMPARISON: Comparison = Comparison {
    name: "mesh.throughput",
    unit: "Gbit/s",
    peer_name: "wireguard-go",
    higher_is_better: true,
    goal: Some(1.5),
};

fn throughput(context: &Context) -> anyhow::Result<Vec<Result>> {
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
    let ours = Path { client: &client.netns, server: &server.netns, address: server.address };
    let witnesses = [
        Witness(&client.netns, "eth0"),
        Witness(&near, TUNNEL),
        Witness(&far, TUNNEL),
        Witness(&server.netns, "eth0"),
    ];
    let pair = Pair::new()?;
    let peer = Path { client: &pair.client, server: &pair.server, address: pair.address };
    let (a, b) = (Witness(&pair.client, &pair.devices[0]), Witness(&pair.server, &pair.devices[1]));
    let peer_witnesses = [a, b];
    let result = compare(
        &COMPARISON,
        context.rounds,
        || witnessed(&witnesses, || stream(&ours, context.seconds)),
        || witnessed(&peer_witnesses, || stream(&peer, context.seconds)),
    )?;
    Ok(vec![result])
}

/// Fails unless the node's way to the address is the tunnel.
fn is_connected(node: &Netns, address: &str) -> anyhow::Result<()> {
    let route = node.ip(&format!("route get {address}"))?;
    ensure!(route.contains(&format!("dev {TUNNEL} ")), "the route to {address} is {:?}", route.trim());
    Ok(())
}
