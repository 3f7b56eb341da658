//! A Kubernetes namespace that a benchmark owns, and pods in it.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tombolo_playground::{Cluster, images};

use crate::netns::Netns;

/// A namespace; deleted with all in it when this is dropped.
pub struct Scope<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its name.
    pub namespace: String,
}

/// A pod that does nothing: what runs in its namespaces is started from the machine.
pub struct Pod {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network namespace.
    pub netns: Netns,
    /// The cgroup of its container.
    pub cgroup: PathBuf,
}

impl<'a> Scope<'a> {
    /// Makes a namespace.
    pub fn new(cluster: &'a Cluster) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::named(cluster, format!("bench-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes the namespace of the same name in another cluster, so that services in both can be one.
    pub fn twin(&self, cluster: &'a Cluster) -> anyhow::Result<Self> {
        Self::named(cluster, self.namespace.clone())
    }

    fn named(cluster: &'a Cluster, namespace: String) -> anyhow::Result<Self> {
        cluster.kubectl(&["create", "namespace", &namespace], b"")?;
        Ok(Self { cluster, namespace })
    }

    /// Runs kubectl in the namespace.
    pub fn kubectl(&self, arguments: &[&str], input: &Value) -> anyhow::Result<Vec<u8>> {
        let all: Vec<_> =
            ["--namespace", &self.namespace].into_iter().chain(arguments.iter().copied()).collect();
        Ok(self.cluster.kubectl(&all, input.to_string().as_bytes())?)
    }

    /// Starts a pod on a node and waits until it is ready.
    pub fn pod(&self, name: &str, node: &str) -> anyhow::Result<Pod> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main", "image": images::TEST, "imagePullPolicy": "Never", "args": ["pause"],
                }],
            }
        });
        self.kubectl(&["create", "-f", "-"], &manifest)?;
        let pod = format!("pod/{name}");
        self.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", &pod], &Value::Null)
            .with_context(|| format!("pod {name} does not become ready on {}/{node}", self.cluster.name()))?;
        let found: Value =
            serde_json::from_slice(&self.kubectl(&["get", &pod, "-o", "json"], &Value::Null)?)?;
        let field = |pointer| {
            found
                .pointer(pointer)
                .and_then(Value::as_str)
                .with_context(|| format!("the pod has no {pointer}"))
        };
        let container = field("/status/containerStatuses/0/containerID")?;
        let container = container.rsplit('/').next().unwrap_or(container);
        let cgroup = self.cluster.place(node)?.cgroup().child("k8s.io").child(container);
        let pid = *cgroup.processes().first().context("the pod's container has no process")?;
        Ok(Pod {
            address: field("/status/podIP")?.parse()?,
            netns: Netns::of(pid),
            cgroup: cgroup.path().into(),
        })
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        // Waits, so that the next benchmark does not run beside it.
        let delete = ["delete", "namespace", &self.namespace, "--timeout=300s"];
        let _ = self.cluster.kubectl(&delete, b"");
    }
}

/// The network namespace of a node.
pub fn node(cluster: &Cluster, node: &str) -> anyhow::Result<Netns> {
    let place = cluster.place(node)?;
    Ok(Netns::of(place.holder().with_context(|| format!("{}/{node} does not run", cluster.name()))?))
}

/// The processes of a node that run this program.
pub fn processes(cluster: &Cluster, node: &str, program: &str) -> anyhow::Result<Vec<u32>> {
    let runs = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(program));
    let found = cluster.place(node)?.cgroup().all_processes().into_iter().filter(runs);
    Ok(found.filter_map(|pid| pid.try_into().ok()).collect())
}

/// Tries until it succeeds, at most `limit`; the last error when it never does.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > limit => bail!("still so after {limit:?}: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
