//! What the programs take for a packet.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use tombolo_abi::{
    Address, AddressFlags, AddressKey, Bitmap, Direction, EndpointFlags, EndpointValue, PolicyKey,
    PolicyValue, v4_mapped,
};
use tombolo_fixture::{
    A, B, HOST_MAC, LOOPBACK, NODE, OUTSIDE, POD_MAC, REMOTE, VIP, node, set_owner, set_prefix, set_service,
    tcp,
};
use tombolo_loader::{Datapath, Table};

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, record, summarize},
    netns::{Netns, this_program},
    statistics::median,
};

/// `datapath.ns.*`.
pub const PROGRAMS: Benchmark = Benchmark {
    names: &[
        "datapath.ns.floor",
        "datapath.ns.pod_egress.pod",
        "datapath.ns.pod_egress.service",
        "datapath.ns.pod_egress.policy",
        "datapath.ns.pod_egress.drop",
        "datapath.ns.pod_egress.node",
        "datapath.ns.pod_egress.underlay",
        "datapath.ns.pod_egress.outside",
        "datapath.ns.pod_egress.tunnel",
        "datapath.ns.pod_ingress.node",
        "datapath.ns.net_ingress.pod",
        "datapath.ns.net_ingress.node",
        "datapath.ns.net_ingress.masquerade",
        "datapath.ns.net_egress.node",
        "datapath.ns.net_egress.masquerade",
        "datapath.ns.net_egress.outside",
        "datapath.ns.mesh_ingress.pod",
        "datapath.established.pod",
        "datapath.established.outside",
    ],
    measures: "a program on a TCP packet of a known connection by BPF_PROG_TEST_RUN, p50 of 20000 runs, each on a fresh \
        packet, in programs that are loaded anew for every sample; the last word says where the packet goes, or what is \
        done to it. floor is a program that reads the headers, looks the connection of pod_egress.policy up in the same map and \
        redirects. established.pod is pod_egress.policy against it, and established.outside the sum of \
        pod_egress.outside and net_egress.outside, both with the rules of a pod in force",
    leaves_out: "what the kernel does with the verdict, large maps, cold caches, segmented and cloned packets. Two readings \
        of the clock are in it",
    run: programs,
};

const ESTABLISHED_POD: Comparison = Comparison {
    name: "datapath.established.pod",
    unit: "ns",
    peer_name: "floor",
    higher_is_better: false,
    goal: Some(2.0),
};
const ESTABLISHED_OUTSIDE: Comparison =
    Comparison { name: "datapath.established.outside", goal: Some(3.0), ..ESTABLISHED_POD };

/// Runs of a program per sample, in batches: all drops of a batch fit into the ring of events.
const BATCHES: usize = 10;
const BATCH: usize = 2000;
/// A pod whose rules let it reach one port only; it shares the device of A.
const RESTRICTED: Address = v4_mapped([10, 1, 0, 3]);
/// A pod of another node of the cluster.
const NEIGHBOUR: Address = v4_mapped([10, 1, 1, 1]);

/// `enum tcx_action_base`.
const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// Names with nanoseconds.
type Times = BTreeMap<String, f64>;

fn programs(context: &Context) -> anyhow::Result<Vec<Result>> {
    let netns = Netns::fresh()?;
    netns.ip("link set lo up")?;
    netns.run(0, &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
    for (device, peer, mtu) in [("eth0", "eth1", 1500), ("wg0", "wg1", 1420)] {
        netns.ip(&format!("link add {device} mtu {mtu} type veth peer name {peer}"))?;
        netns.ip(&format!("link set {device} up"))?;
        netns.ip(&format!("link set {peer} up"))?;
    }
    netns.ip("address add 192.168.0.1/24 dev eth0")?;
    netns.ip("neighbour add 192.168.0.2 lladdr 02:00:00:00:00:03 dev eth0")?;
    netns.ip("route add default via 192.168.0.2")?;
    let program = this_program()?;
    let take = |_| anyhow::Ok(serde_json::from_str::<Times>(&netns.run(0, &[&program, "programs"])?)?);
    let samples = (0..context.rounds).map(take).collect::<anyhow::Result<Vec<_>>>()?;
    let names = samples.first().into_iter().flat_map(BTreeMap::keys);
    let line = |name: &String| {
        record(name.clone(), "ns", samples.iter().filter_map(|times| times.get(name).copied()).collect())
    };
    let against_floor = |what: &Comparison, programs: &[&str]| {
        let pair = |times: &Times| {
            let of = |name: &str| times.get(&format!("datapath.ns.{name}")).copied();
            Some((programs.iter().map(|name| of(name)).sum::<Option<f64>>()?, of("floor")?))
        };
        summarize(what, samples.iter().filter_map(pair).collect())
    };
    let established = [
        against_floor(&ESTABLISHED_POD, &["pod_egress.policy"]),
        against_floor(&ESTABLISHED_OUTSIDE, &["pod_egress.outside", "net_egress.outside"]),
    ];
    Ok(names.map(line).chain(established).collect())
}

/// A packet and what must become of it.
struct Case {
    /// The program, and a word for the case.
    name: &'static str,
    packet: Vec<u8>,
    verdict: i32,
}

/// The harness, in a network namespace of its own. The BPF filesystem is in a mount namespace of its own too, so that
/// nothing is left of it, however this ends.
pub fn time_programs() -> anyhow::Result<Times> {
    let at = Path::new("/sys/fs/bpf");
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace: is this root?")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>).context("no BPF filesystem")?;
    let mut datapath = Datapath::load(&at.join("bench"))?;
    datapath.load_floor()?;
    fill(&datapath)?;
    let time = |case: &Case| Ok((format!("datapath.ns.{}", case.name), case.time(&datapath)?));
    cases(&datapath)?.iter().map(time).collect()
}

fn fill(datapath: &Datapath) -> anyhow::Result<()> {
    node(datapath, if_nametoindex("wg0")?, EndpointFlags::NONE, EndpointFlags::NONE)?;
    set_prefix(datapath, v4_mapped([10, 1, 0, 0]), 112, 0, AddressFlags::NO_MASQUERADE)?;
    set_owner(datapath, NEIGHBOUR, (1 << 20) | 304, AddressFlags::NO_MASQUERADE)?;
    set_service(datapath, 1, (VIP, 80, 6), &[(B, 8080)])?;
    let (maps, identity) = (datapath.maps(), (1 << 20) | 303);
    let pod = EndpointValue::new(LOOPBACK, 3, identity, EndpointFlags::EGRESS_ENFORCED, POD_MAC, HOST_MAC);
    maps.endpoint()?.upsert(&AddressKey::new(RESTRICTED), &pod)?;
    // Selector 9 matches B.
    let mut nine = Bitmap::EMPTY;
    nine.set(9);
    maps.identity()?.upsert(&((1 << 20) | 302), &nine)?;
    let mut policy = maps.policy()?;
    policy.upsert(&PolicyKey::port(3, Direction::Egress, 6, 80), &PolicyValue::new(nine, Bitmap::EMPTY))?;
    policy.upsert(
        &PolicyKey::port(3, Direction::Egress, 6, 443),
        &PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY),
    )?;
    // As the agent does: without an epoch each packet would ask the rules.
    Ok(maps.advance_policy_epoch()?)
}

fn cases(datapath: &Datapath) -> anyhow::Result<Vec<Case>> {
    let tcp = |from, to| tcp(from, to, 64);
    let case = |name, packet, verdict| Case { name, packet, verdict };
    // Known connections: one to the outside, and one from the node.
    let out = tcp((A, 1007), (OUTSIDE, 443));
    datapath.test_run("pod_egress", &out, 1)?;
    let sent = datapath.test_run("net_egress", &out, 1)?.packet;
    let port = sent.get(34..36).context("a packet has no ports")?;
    let answer = tcp((OUTSIDE, 443), (NODE, u16::from_be_bytes([port[0], port[1]])));
    let restricted = tcp((RESTRICTED, 1003), (OUTSIDE, 443));
    let known = tcp((RESTRICTED, 1001), (B, 80));
    datapath.test_run("pod_egress", &restricted, 1)?;
    datapath.test_run("pod_egress", &known, 1)?;
    let raw = tcp((REMOTE, 1008), (A, 80)).split_off(14);
    Ok(vec![
        case("floor", known.clone(), REDIRECT),
        case("pod_egress.pod", tcp((A, 1001), (B, 80)), REDIRECT),
        case("pod_egress.service", tcp((A, 1002), (VIP, 80)), REDIRECT),
        case("pod_egress.policy", known, REDIRECT),
        case("pod_egress.drop", tcp((RESTRICTED, 1002), (B, 81)), DROP),
        case("pod_egress.node", tcp((A, 1003), (NODE, 80)), NEXT),
        case("pod_egress.underlay", tcp((A, 1004), (NEIGHBOUR, 80)), REDIRECT),
        case("pod_egress.outside", restricted.clone(), REDIRECT),
        case("pod_egress.tunnel", tcp((A, 1005), (REMOTE, 80)), REDIRECT),
        case("pod_ingress.node", tcp((NODE, 1001), (A, 80)), NEXT),
        case("net_ingress.pod", tcp((NEIGHBOUR, 1001), (A, 80)), REDIRECT),
        case("net_ingress.node", tcp((OUTSIDE, 1001), (NODE, 80)), NEXT),
        case("net_ingress.masquerade", answer, REDIRECT),
        case("net_egress.node", tcp((NODE, 1002), (OUTSIDE, 80)), NEXT),
        case("net_egress.masquerade", out, NEXT),
        case("net_egress.outside", restricted, NEXT),
        case("mesh_ingress.pod", raw, REDIRECT),
    ])
}

impl Case {
    /// Nanoseconds of a run, p50.
    fn time(&self, datapath: &Datapath) -> anyhow::Result<f64> {
        let program = self.name.split('.').next().context("a case is named without its program")?;
        let mut events = datapath.maps().events()?;
        let mut times = Vec::new();
        // The first run, which is not counted, makes the connection known.
        datapath.test_run(program, &self.packet, 1)?;
        for _ in 0..BATCHES {
            for _ in 0..BATCH {
                let run = datapath.test_run(program, &self.packet, 1)?;
                ensure!(run.verdict == self.verdict, "{}: verdict {}", self.name, run.verdict);
                times.push(run.duration.as_secs_f64() * 1e9);
            }
            // Or else the next drops would find the ring full, and be faster.
            while events.next_event().is_some() {}
        }
        Ok(median(times))
    }
}
