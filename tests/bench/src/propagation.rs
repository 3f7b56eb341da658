//! How long an endpoint of one cluster takes to be known on the nodes of another.

mod backend;
mod chain;
mod load;
mod reporter;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tombolo_playground::Cluster;

pub use backend::Wanted;
pub use chain::Hop;
pub use load::{LATENCY, Many};

use crate::{
    Benchmark, Context,
    client::{client, runtime},
    measure::{Comparison, Result, compare},
    netns::this_program,
    scope::Scope,
    statistics::median,
};
use chain::Chain;
use reporter::Reporter;
pub use reporter::monotonic;

/// `mesh.propagation`.
pub const PROPAGATION: Benchmark = Benchmark {
    names: &["mesh.propagation"],
    measures: "from just before an endpoint of a global service is written as ready into the EndpointSlice in one \
        cluster's API server until the pinned BPF maps of a node of another cluster have it, p50 of 20, against an etcd \
        watch chain: the same write to another slice, seen by a process that watches the API server and puts the slice \
        into an etcd, from where a second process copies it into a second etcd, until a third process has it from the \
        watch of that one",
    leaves_out: "the way from a pod's probe to its slice. Ours includes TLS, the merge of both clusters' services and \
        maps that all four nodes write at the same time, and the maps are looked at every 50 µs or so; the peer's own \
        hops have no TLS, its etcds work in memory and never sync, it has one receiver, and that one does nothing with \
        what it gets. The peer's slice names no service, so that ours rests meanwhile",
    run: propagation,
};

const COMPARISON: Comparison = Comparison {
    name: "mesh.propagation",
    unit: "ms",
    peer_name: "etcd watch chain",
    higher_is_better: false,
    goal: Some(1.0),
};

const PORT: u16 = 15203;
/// Times that an endpoint becomes ready per sample.
const FLIPS: usize = 20;
/// What a change sets in motion behind its end has this long to finish.
const PAUSE: Duration = Duration::from_millis(50);

fn propagation(context: &Context) -> anyhow::Result<Vec<Result>> {
    let [east, west] = &context.two_clusters()?;
    let [node, _] = context.two_nodes(west)?;
    let here = Scope::new(east)?;
    let there = here.twin(west)?;
    let frontend = SocketAddr::from((make_service(&there, "target")?, PORT));
    make_service(&here, "target")?;
    // Of the first node's range, behind what it gives to pods first.
    let [a, b, ..] = pods_of(east)?.octets();
    let endpoint = Ipv4Addr::new(a, b, 0, 250);
    make_slice(&here, "ours", endpoint, &json!({"kubernetes.io/service-name": "target"}))?;
    make_slice(&here, "peer", endpoint, &json!({"bench": "one"}))?;
    let writer = Writer::new(east, &here.namespace, endpoint)?;

    let program = this_program()?;
    let (service, backend) = (frontend.to_string(), SocketAddr::from((endpoint, PORT)).to_string());
    let argv = [&program, "backend", &service, &backend].map(str::to_owned);
    let mut maps = Reporter::start(&mut west.command(&node, &argv)?)?;
    let mut chain = Chain::start(east, &here.namespace, "one")?;
    let mut ours = Side { writer: &writer, slice: "ours", reporter: &mut maps };
    let mut peer = Side { writer: &writer, slice: "peer", reporter: &mut chain.end };
    // The first sample of each makes connections and fills caches.
    ours.sample().context("tombolo")?;
    peer.sample().context("the etcd watch chain")?;
    compare(&COMPARISON, context.rounds, || ours.sample(), || peer.sample()).map(|result| vec![result])
}

/// A global service without selector: who its endpoints are is for others to say. Returns its address.
fn make_service(scope: &Scope, name: &str) -> anyhow::Result<Ipv4Addr> {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "annotations": {"service.tombolo.io/global": "true"}},
        "spec": {"ports": [{"port": PORT}]},
    });
    scope.kubectl(&["create", "-f", "-"], &manifest)?;
    let address = ["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"];
    Ok(String::from_utf8(scope.kubectl(&address, &Value::Null)?)?.parse()?)
}

fn pods_of(cluster: &Cluster) -> anyhow::Result<Ipv4Addr> {
    let range = cluster.addresses().pods();
    let (address, _) = range.split_once('/').context("the range of pods has no length")?;
    Ok(address.parse()?)
}

fn make_slice(scope: &Scope, name: &str, endpoint: Ipv4Addr, labels: &Value) -> anyhow::Result<()> {
    let manifest = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4", "ports": [{"port": PORT}],
        "endpoints": [{"addresses": [endpoint], "conditions": {"ready": false}}],
    });
    scope.kubectl(&["create", "-f", "-"], &manifest).map(drop)
}

/// Changes slices over a connection that is open already.
struct Writer {
    runtime: tokio::runtime::Runtime,
    slices: Api<EndpointSlice>,
    endpoint: Ipv4Addr,
}

impl Writer {
    fn new(cluster: &Cluster, namespace: &str, endpoint: Ipv4Addr) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let slices = runtime.block_on(slices(&cluster.kubeconfig(), namespace))?;
        Ok(Self { runtime, slices, endpoint })
    }

    fn set_ready(&self, slice: &str, ready: bool) -> anyhow::Result<()> {
        let endpoint = json!({"addresses": [self.endpoint], "conditions": {"ready": ready}});
        let patch = Patch::Merge(json!({"endpoints": [endpoint]}));
        let options = PatchParams::default();
        let written = self.runtime.block_on(self.slices.patch(slice, &options, &patch));
        written.with_context(|| format!("cannot write slice {slice}"))?;
        Ok(())
    }
}

async fn slices(kubeconfig: &Path, namespace: &str) -> anyhow::Result<Api<EndpointSlice>> {
    Ok(Api::namespaced(client(kubeconfig).await?, namespace))
}

/// One of the two ways that a change can go.
struct Side<'a> {
    writer: &'a Writer,
    slice: &'static str,
    reporter: &'a mut Reporter,
}

impl Side<'_> {
    /// Milliseconds until an endpoint that becomes ready is known at the other end, p50.
    fn sample(&mut self) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..FLIPS {
            times.push(self.flip(true)?);
            self.flip(false)?;
        }
        Ok(median(times))
    }

    fn flip(&mut self, ready: bool) -> anyhow::Result<f64> {
        self.reporter.expect(ready)?;
        let started = monotonic()?;
        self.writer.set_ready(self.slice, ready)?;
        let seen = self.reporter.wait_for(ready)?;
        thread::sleep(PAUSE);
        Ok(seen.saturating_sub(started).as_secs_f64() * 1e3)
    }
}
