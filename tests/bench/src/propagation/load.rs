//! The same way under load: a hundred endpoints a second change, and each change is timed.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    PORT,
    chain::Chain,
    make_service, make_slice, pods_of,
    reporter::{Reporter, Seen, monotonic},
    slices,
};
use crate::{
    Benchmark, Context,
    client::runtime,
    measure::{Comparison, Result, pairs, summarize},
    netns::this_program,
    scope::Scope,
    statistics::percentile,
};

/// `mesh.latency`.
pub const LATENCY: Benchmark = Benchmark {
    names: &["mesh.latency"],
    measures: "a hundred times a second an endpoint of one of 50 global services is written as ready, or as not, into its \
        EndpointSlice in one cluster's API server; from the API server's answer until the pinned BPF maps of a node of \
        another cluster have it (0 if they had it before), p50 and p99 of all changes of a sample, against the limits that \
        are set; and from just before each write, against the etcd watch chain of mesh.propagation with as many writes to \
        slices without services",
    leaves_out: "the way from a pod's probe to its slice. The maps are looked at every 50 µs or so; all other nodes of both \
        clusters take the changes in at the same time, which the peer's single receiver does not",
    run: latency,
};

const SERVICES: usize = 50;
/// Between two changes.
const PERIOD: Duration = Duration::from_millis(10);
/// After the last change all must have arrived.
const SETTLE: Duration = Duration::from_secs(1);
/// Milliseconds.
const LIMITS: [(&str, f64, f64); 2] = [("p50", 0.5, 5.0), ("p99", 0.99, 25.0)];

fn latency(context: &Context) -> anyhow::Result<Vec<Result>> {
    let [east, west] = &context.two_clusters()?;
    let [node, _] = context.two_nodes(west)?;
    let here = Scope::new(east)?;
    let there = here.twin(west)?;
    // Of the first node's range, behind what it gives to pods first.
    let [a, b, ..] = pods_of(east)?.octets();
    let mut argv = vec![this_program()?, "backends".to_owned()];
    for n in 0..SERVICES {
        let (name, endpoint) = (format!("target-{n}"), endpoint(a, b, n));
        let frontend = SocketAddr::from((make_service(&there, &name)?, PORT));
        make_service(&here, &name)?;
        let label = json!({"kubernetes.io/service-name": name});
        make_slice(&here, &slice("ours", n), endpoint, &label)?;
        make_slice(&here, &slice("peer", n), endpoint, &json!({"bench": "load"}))?;
        argv.push(format!("{frontend}={}", SocketAddr::from((endpoint, PORT))));
    }
    let runtime = runtime()?;
    let slices = runtime.block_on(slices(&east.kubeconfig(), &here.namespace))?;
    let maps = Reporter::start(&mut west.command(&node, &argv)?)?;
    let chain = Chain::start(east, &here.namespace, "load")?;
    let sample = |side, reporter| runtime.block_on(times(&slices, side, [a, b], context.seconds, reporter));
    let ours = || sample("ours", &maps).context("tombolo");
    let peer = || sample("peer", &chain.end).context("the etcd watch chain");
    // The first sample of each makes connections and fills caches.
    ours()?;
    peer()?;
    let samples = pairs(context.rounds, ours, peer)?;
    let mut results = Vec::new();
    for (name, p, limit) in LIMITS {
        let of = |times: &[Taken], what: fn(&Taken) -> f64| percentile(times.iter().map(what).collect(), p);
        let line = |suffix: &str, peer_name, runs| {
            let what =
                Comparison { name: "", unit: "ms", peer_name, higher_is_better: false, goal: Some(1.0) };
            Result { name: format!("mesh.latency.{name}{suffix}"), ..summarize(&what, runs) }
        };
        results.push(line(
            "",
            "limit",
            samples.iter().map(|(ours, _)| (of(ours, |t| t.answered), limit)).collect(),
        ));
        let runs =
            samples.iter().map(|(ours, peer)| (of(ours, |t| t.written), of(peer, |t| t.written))).collect();
        results.push(line(".chain", "etcd watch chain", runs));
    }
    Ok(results)
}

fn slice(side: &str, n: usize) -> String {
    format!("{side}-{n}")
}

fn endpoint(a: u8, b: u8, n: usize) -> Ipv4Addr {
    Ipv4Addr::new(a, b, 0, u8::try_from(200 + n).unwrap_or(u8::MAX))
}

/// A change that was made.
struct Made {
    ready: bool,
    /// Just before it was written.
    at: Duration,
    /// When the API server had answered.
    answered: Duration,
}

/// Milliseconds that a change took to the other end.
struct Taken {
    /// Since before the write.
    written: f64,
    /// Since the answer.
    answered: f64,
}

/// What each change took.
async fn times(
    slices: &Api<EndpointSlice>,
    side: &'static str,
    [a, b]: [u8; 2],
    seconds: u64,
    reporter: &Reporter,
) -> anyhow::Result<Vec<Taken>> {
    let mut made: Vec<VecDeque<Made>> = (0..SERVICES).map(|_| VecDeque::new()).collect();
    let mut writes = JoinSet::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    // Each slice as often, and back to where it began.
    let rounds = usize::try_from(seconds * 2).unwrap_or(usize::MAX).div_ceil(2) * 2;
    for round in 0..rounds {
        for (n, made) in made.iter_mut().enumerate() {
            ticks.tick().await;
            let ready = round % 2 == 0;
            let endpoint = json!({"addresses": [endpoint(a, b, n)], "conditions": {"ready": ready}});
            let patch = Patch::Merge(json!({"endpoints": [endpoint]}));
            made.push_back(Made { ready, at: monotonic()?, answered: Duration::ZERO });
            let (slices, name) = (slices.clone(), slice(side, n));
            writes.spawn(async move {
                slices
                    .patch(&name, &PatchParams::default(), &patch)
                    .await
                    .context("a slice cannot be written")?;
                Ok::<_, anyhow::Error>((n, round, monotonic()?))
            });
        }
    }
    while let Some(written) = writes.join_next().await {
        let (n, round, answered) = written??;
        if let Some(made) = made.get_mut(n).and_then(|made| made.get_mut(round)) {
            made.answered = answered;
        }
    }
    tokio::time::sleep(SETTLE).await;
    let seen = reporter.all();
    let mut all = Vec::new();
    for (n, made) in made.into_iter().enumerate() {
        all.extend(matched(&slice(side, n), made, &seen)?);
    }
    Ok(all)
}

/// Each change of a slice with the moment it was seen.
fn matched(slice: &str, made: VecDeque<Made>, seen: &[Seen]) -> anyhow::Result<Vec<Taken>> {
    let mut of_slice = seen.iter().filter(|seen| seen.slice == slice);
    let mut times = Vec::new();
    for made in made {
        let seen = of_slice.find(|seen| seen.ready == made.ready && seen.time >= made.at);
        let seen = seen.with_context(|| format!("a change of {slice} did not arrive"))?;
        let since = |begin| seen.time.saturating_sub(begin).as_secs_f64() * 1e3;
        times.push(Taken { written: since(made.at), answered: since(made.answered) });
    }
    ensure!(!times.is_empty(), "nothing was changed");
    Ok(times)
}

/// What the harness in the node looks for.
#[derive(clap::Args)]
pub struct Many {
    /// Each as service=backend.
    #[arg(required = true)]
    pairs: Vec<String>,
}

impl Many {
    /// The harness: says whenever one of the backends comes or goes.
    pub fn report(&self) -> anyhow::Result<()> {
        let parse = |pair: &String| {
            let (service, backend) = pair.split_once('=').context("no pair")?;
            Ok(super::Wanted { service: service.parse()?, backend: backend.parse()? })
        };
        let wanted = self.pairs.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        super::backend::follow(&wanted, |n, ready| super::reporter::say_seen(&slice("ours", n), ready))
    }
}
