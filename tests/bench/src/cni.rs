//! CNI plugins, called as a container runtime calls them.

mod harness;

use std::{
    cell::{Cell, RefCell},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tombolo_playground::{Cluster, images};

pub use harness::serve;

use crate::{
    Benchmark, Context,
    client::{client, runtime},
    measure::{Comparison, Result, in_turn, summarize},
    netns::this_program,
    process::Process,
    scope::Scope,
    statistics::median,
};
use harness::{READY, Request, Side, Times, Who};

const LEAVES_OUT: &str = "what the container runtime adds, policy (the peer has none), what the kernel still does with devices \
    that are gone when DEL is answered: the next call comes when it is done";

/// `cni.add.1` and `cni.del.1`.
pub const CALLS: Benchmark = Benchmark {
    names: &["cni.add.1", "cni.del.1"],
    measures: "a CNI ADD, and its DEL, as a process in a node with a fresh network namespace and a real pod, p50 of 10, \
        against the bridge and host-local plugins called the same way in turn, for a pod that the cluster has known for \
        long",
    leaves_out: LEAVES_OUT,
    run: one,
};

/// `cni.add.16`.
pub const SIXTEEN: Benchmark = Benchmark {
    names: &["cni.add.16"],
    measures: "sixteen CNI ADDs that begin at the same moment, for sixteen pods, p50 of all of three times sixteen, \
        against the bridge and host-local plugins as in cni.add.1",
    leaves_out: LEAVES_OUT,
    run: sixteen,
};

/// `cni.add.new`.
pub const NEW: Benchmark = Benchmark {
    names: &["cni.add.new"],
    measures: "a CNI ADD that is called as soon as the API server has answered the creation of a pod with labels that no \
        pod had before, so that it waits until the cluster has made an identity and the node knows it, p50 of 5, against \
        the bridge and host-local plugins, which wait for nothing, called at the same moment after another such pod",
    leaves_out: "what the container runtime adds, and what kubelet does before it calls, during which the identity comes; \
        policy (the peer has none)",
    run: new,
};

const ADD: Comparison = Comparison {
    name: "cni.add.1",
    unit: "ms",
    peer_name: "bridge + host-local",
    higher_is_better: false,
    goal: Some(0.5),
};
const DEL: Comparison = Comparison { name: "cni.del.1", ..ADD };
const ADD_16: Comparison = Comparison { name: "cni.add.16", ..ADD };
const ADD_NEW: Comparison = Comparison { name: "cni.add.new", goal: None, ..ADD };

fn one(context: &Context) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let bench = Bench::new(context, &cluster)?;
    let pod = [bench.pending("pending", &json!({}))?];
    let samples =
        bench.samples(context.rounds, 10, 1, &Pods { before: &|| Ok(pod.to_vec()), after: &|_| Ok(()) })?;
    let line = |what, of: fn(&Times) -> &[f64]| {
        let p50 = |times: &Times| median(of(times).to_vec());
        summarize(what, samples.iter().map(|(ours, peer)| (p50(ours), p50(peer))).collect())
    };
    Ok(vec![line(&ADD, |times| &times.add), line(&DEL, |times| &times.del)])
}

fn sixteen(context: &Context) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let bench = Bench::new(context, &cluster)?;
    let pods = (0..16).map(|n| bench.pending(&format!("pending-{n}"), &json!({})));
    let pods = pods.collect::<anyhow::Result<Vec<_>>>()?;
    let samples =
        bench.samples(context.rounds, 3, 16, &Pods { before: &|| Ok(pods.clone()), after: &|_| Ok(()) })?;
    Ok(vec![adds(&ADD_16, samples)])
}

fn new(context: &Context) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let bench = Bench::new(context, &cluster)?;
    let next = Cell::new(0);
    let before = || {
        let name = format!("new-{}", next.replace(next.get() + 1));
        Ok(vec![bench.pending(&name, &json!({"bench": format!("{}-{name}", bench.scope.namespace)}))?])
    };
    let after = |pods: &[Who]| pods.iter().try_for_each(|pod| bench.delete(pod));
    let samples = bench.samples(context.rounds, 5, 1, &Pods { before: &before, after: &after })?;
    Ok(vec![adds(&ADD_NEW, samples)])
}

fn adds(what: &Comparison, samples: Vec<(Times, Times)>) -> Result {
    summarize(what, samples.into_iter().map(|(ours, peer)| (median(ours.add), median(peer.add))).collect())
}

/// Whose calls those of a batch are.
struct Pods<'a> {
    /// The pods of a batch, asked for just before it.
    before: &'a dyn Fn() -> anyhow::Result<Vec<Who>>,
    /// What becomes of them.
    after: &'a dyn Fn(&[Who]) -> anyhow::Result<()>,
}

/// A node with pods that kubelet never starts, and the harness in it.
struct Bench<'a> {
    scope: Scope<'a>,
    node: String,
    runtime: tokio::runtime::Runtime,
    pods: Api<Pod>,
    harness: RefCell<Process>,
}

impl<'a> Bench<'a> {
    fn new(context: &Context, cluster: &'a Cluster) -> anyhow::Result<Self> {
        let [node, _] = context.two_nodes(cluster)?;
        let scope = Scope::new(cluster)?;
        let runtime = runtime()?;
        let client = runtime.block_on(client(&cluster.kubeconfig()))?;
        let argv = [this_program()?, "cni".to_owned()];
        let harness = RefCell::new(Process::talking(&mut cluster.command(&node, &argv)?)?);
        let pods = Api::namespaced(client, &scope.namespace);
        Ok(Self { scope, node, runtime, pods, harness })
    }

    /// Makes a pod. Its volume never comes, so kubelet never makes a sandbox: all of its attachments are ours.
    fn pending(&self, name: &str, labels: &Value) -> anyhow::Result<Who> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {
                "nodeName": self.node, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": images::TEST, "imagePullPolicy": "Never"}],
                "volumes": [{"name": "never", "configMap": {"name": "missing"}}],
            }
        });
        let (manifest, options) = (serde_json::from_value(manifest)?, PostParams::default());
        let made = self.runtime.block_on(self.pods.create(&options, &manifest));
        let uid = made.context("cannot make a pod")?.metadata.uid.context("the pod has no uid")?;
        Ok(Who { namespace: self.scope.namespace.clone(), name: name.to_owned(), uid })
    }

    fn delete(&self, pod: &Who) -> anyhow::Result<()> {
        let now = DeleteParams::default().grace_period(0);
        self.runtime.block_on(self.pods.delete(&pod.name, &now)).context("cannot delete a pod")?;
        // The cluster forgets it beside nothing that is timed.
        thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// So many rounds of `batches` of calls of each side, `calls` of a batch at the same time. The first batch of each
    /// side warms up: the bridge is made by its first call.
    fn samples(
        &self,
        rounds: usize,
        batches: usize,
        calls: usize,
        pods: &Pods,
    ) -> anyhow::Result<Vec<(Times, Times)>> {
        let batch = |side| {
            let mut harness = self.harness.borrow_mut();
            harness.tell(&serde_json::to_string(&Request { side, calls })?)?;
            let line = harness.line()?;
            ensure!(line == READY, "the harness says {line:?}");
            let attached = (pods.before)()?;
            harness.tell(&serde_json::to_string(&attached)?)?;
            let times = serde_json::from_str::<Times>(&harness.line()?)?;
            (pods.after)(&attached)?;
            anyhow::Ok(times)
        };
        let pair = |n| in_turn(n, || batch(Side::Ours), || batch(Side::Peer));
        pair(0)?;
        let mut samples = Vec::new();
        for round in 0..rounds.max(5) {
            let (mut ours, mut peer) = (Times::default(), Times::default());
            for n in 0..batches {
                let taken = pair(round + n)?;
                ours.append(taken.0);
                peer.append(taken.1);
            }
            samples.push((ours, peer));
        }
        Ok(samples)
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // It removes the peer's bridge.
        self.harness.borrow_mut().end(Duration::from_secs(30));
    }
}
