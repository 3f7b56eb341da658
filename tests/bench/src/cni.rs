//! CNI plugins, called as a container runtime calls them.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{self, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Benchmark, Context,
    measure::{Comparison, Result, median, summarize},
    netns::{finish, this_program},
    scope::Scope,
};

const BRIDGE: &str = "benchbr0";
/// Calls of each side per sample.
const CALLS_PER_SAMPLE: &str = "10";

/// `cni.add.1` and `cni.del.1`.
pub const CALLS: Benchmark = Benchmark {
    names: &["cni.add.1", "cni.del.1"],
    measures: "a CNI ADD, and its DEL, as a process in a node with a fresh network namespace and a real pod, p50 of 10, \
        against the bridge and host-local plugins called the same way in turn",
    leaves_out: "the wait for a pod that the cluster has made a moment ago (this one is known), calls at the same time, \
        what the container runtime adds, policy (the peer has none), what the kernel still does with devices that are \
        gone when DEL is answered",
    run: calls,
};

const ADD: Comparison = Comparison {
    name: "cni.add.1",
    unit: "ms",
    peer_name: "bridge + host-local",
    higher_is_better: false,
    goal: Some(0.5),
};
const DEL: Comparison = Comparison { name: "cni.del.1", ..ADD };

/// Times of both sides, milliseconds, p50.
#[derive(Serialize, Deserialize)]
pub struct Times {
    add: (f64, f64),
    del: (f64, f64),
}

/// What the harness in the node is told.
#[derive(clap::Args)]
pub struct Calls {
    #[arg(long)]
    namespace: String,
    #[arg(long)]
    pod: String,
    #[arg(long)]
    uid: String,
    #[arg(long)]
    count: usize,
}

fn calls(context: &Context) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [node, _] = context.two_nodes(&cluster)?;
    let scope = Scope::new(&cluster)?;
    // Its volume never comes, so kubelet never makes a sandbox: all of its attachments are ours.
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pending"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "localhost/tombolo-test:1", "imagePullPolicy": "Never"}],
            "volumes": [{"name": "never", "configMap": {"name": "missing"}}],
        }
    });
    scope.kubectl(&["create", "-f", "-"], &manifest)?;
    let uid = scope.kubectl(&["get", "pod", "pending", "-o", "jsonpath={.metadata.uid}"], &Value::Null)?;
    let program = this_program()?;
    let argv = [
        &program,
        "cni",
        "--namespace",
        &scope.namespace,
        "--pod",
        "pending",
        "--uid",
        &String::from_utf8(uid)?,
        "--count",
        CALLS_PER_SAMPLE,
    ]
    .map(str::to_owned);
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for _ in 0..context.rounds {
        let output = finish(&mut cluster.command(&node, &argv)?, "bench cni")?;
        let times: Times = serde_json::from_str(&output)?;
        adds.push(times.add);
        dels.push(times.del);
    }
    Ok(vec![summarize(&ADD, adds), summarize(&DEL, dels)])
}

/// The harness: runs in the mount and network namespaces of a node.
pub fn time_calls(calls: &Calls) -> anyhow::Result<Times> {
    let peer = Peer { data: format!("/run/bench-{}", process::id()) };
    let (ours, bridge) = (our_plugin()?, peer.plugin());
    let [mut our_adds, mut our_dels, mut peer_adds, mut peer_dels] = [const { Vec::new() }; 4];
    // The first of each warms up: the bridge is made by its first call.
    for round in 0..=calls.count {
        let (add, del) = ours.add_and_del(calls, round)?;
        let (peer_add, peer_del) = bridge.add_and_del(calls, round)?;
        if round > 0 {
            our_adds.push(add);
            our_dels.push(del);
            peer_adds.push(peer_add);
            peer_dels.push(peer_del);
        }
    }
    Ok(Times { add: (median(our_adds), median(peer_adds)), del: (median(our_dels), median(peer_dels)) })
}

/// A plugin and its configuration.
struct Plugin {
    name: &'static str,
    config: Value,
}

fn our_plugin() -> anyhow::Result<Plugin> {
    let file = "/etc/cni/net.d/05-tombolo.conflist";
    let list: Value =
        serde_json::from_str(&fs::read_to_string(file).context("tombolo is not installed here")?)?;
    let mut config = list.pointer("/plugins/0").with_context(|| format!("{file} has no plugin"))?.clone();
    for field in ["cniVersion", "name"] {
        config[field] = list[field].clone();
    }
    Ok(Plugin { name: "tombolo-cni", config })
}

/// What the bridge plugin leaves; removed when this is dropped.
struct Peer {
    data: String,
}

impl Peer {
    fn plugin(&self) -> Plugin {
        let ranges = json!([[{"subnet": "198.18.1.0/24"}]]);
        let config = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": BRIDGE, "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": self.data, "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        Plugin { name: "bridge", config }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", BRIDGE]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// A named network namespace; goes away when this is dropped.
struct Named(String);

impl Named {
    fn new(name: String) -> anyhow::Result<Self> {
        finish(Command::new("ip").args(["netns", "add", &name]), "ip netns add")?;
        Ok(Self(name))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Plugin {
    /// Milliseconds of an ADD and of its DEL. What came of them is checked, and is not timed.
    fn add_and_del(&self, calls: &Calls, round: usize) -> anyhow::Result<(f64, f64)> {
        let netns = Named::new(format!("bench-{}-{}-{round}", self.name, process::id()))?;
        let added = self.call("ADD", calls, &netns);
        let checked = added.and_then(|(time, answer)| {
            let ip = answer
                .pointer("/ips/0/address")
                .and_then(Value::as_str)
                .context("ADD answered no address")?;
            let ip = ip.split('/').next().unwrap_or(ip);
            ensure!(addresses(&netns)?.contains(ip), "ADD answered {ip}, which eth0 has not");
            Ok(time)
        });
        let deleted = self.call("DEL", calls, &netns);
        let (add, (del, _)) = (checked?, deleted?);
        ensure!(addresses(&netns)?.is_empty(), "DEL left eth0");
        Ok((add, del))
    }

    fn call(&self, verb: &str, calls: &Calls, netns: &Named) -> anyhow::Result<(f64, Value)> {
        let Calls { namespace, pod, uid, .. } = calls;
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid}");
        let mut command = Command::new(Path::new("/opt/cni/bin").join(self.name));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &netns.0)
            .env("CNI_NETNS", format!("/run/netns/{}", netns.0))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let config = self.config.to_string();
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.name))?;
        child.stdin.take().context("no standard input")?.write_all(config.as_bytes())?;
        let output = child.wait_with_output()?;
        let time = started.elapsed().as_secs_f64() * 1e3;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} {verb}: {}", self.name, text.trim());
        Ok((time, if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text)? }))
    }
}

/// What `ip` says of eth0's IPv4 addresses; empty without the device.
fn addresses(netns: &Named) -> anyhow::Result<String> {
    let argv = ["-n", &netns.0, "-4", "-o", "address", "show", "to", "0.0.0.0/0", "scope", "global"];
    finish(Command::new("ip").args(argv), "ip address")
}
