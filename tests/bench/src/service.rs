//! Connecting to a service against connecting to its pod.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use tombolo_playground::Cluster;

use crate::{
    Benchmark, Context,
    client::{client, runtime},
    inside::Connects,
    measure::{Comparison, Result, summarize},
    netns::{finish, this_program},
    scope::{Scope, eventually},
    throughput::listening,
};

const PORT: u16 = 15202;
/// Connects to each side per sample.
const CONNECTS: &str = "2000";
const MEASURES: &str = "connect() of TCP by a process of a pod to a ClusterIP service with one endpoint, p50 of 2000, \
    against connect() to that endpoint, in turn";
const LEAVES_OUT: &str = "choosing among many endpoints (the other services have none), other nodes, UDP, changes while \
    it runs";

/// `svc.connect.100`.
pub const CONNECT_100: Benchmark = Benchmark {
    names: &["svc.connect.100"],
    measures: MEASURES,
    leaves_out: LEAVES_OUT,
    run: |context| connect(context, &COMPARISON_100, 100),
};

/// `svc.connect.10k`.
pub const CONNECT_10K: Benchmark = Benchmark {
    names: &["svc.connect.10k"],
    measures: MEASURES,
    leaves_out: LEAVES_OUT,
    run: |context| connect(context, &COMPARISON_10K, 10_000),
};

const COMPARISON_100: Comparison = Comparison {
    name: "svc.connect.100",
    unit: "µs",
    peer_name: "pod address",
    higher_is_better: false,
    goal: Some(1.05),
};
const COMPARISON_10K: Comparison = Comparison { name: "svc.connect.10k", ..COMPARISON_100 };

fn connect(context: &Context, what: &Comparison, services: usize) -> anyhow::Result<Vec<Result>> {
    let cluster = context.first_cluster()?;
    let [node, _] = context.two_nodes(&cluster)?;
    let scope = Scope::new(&cluster)?;
    let (client, server) = (scope.pod("client", &node)?, scope.pod("server", &node)?);
    let program = this_program()?;
    let listen = format!("{}:{PORT}", server.address);
    let _server = listening(&server.netns, &[&program, "accept", &listen], "ready")?;
    let before = count(&cluster, &node)?;
    let target = service(&scope)?;
    fill(&scope, services)?;
    // The target and the others; services of others may come and go by a few meanwhile.
    eventually(Duration::from_secs(120), || {
        let now = count(&cluster, &node)?;
        ensure!(
            now >= before + services,
            "the agent of {node} has {now} services, not {}",
            before + services
        );
        Ok(())
    })?;
    let target = format!("{target}:{PORT}");
    let mut runs = Vec::new();
    for _ in 0..context.rounds {
        let mut command = client.netns.command(0, &[&program, "connect"]);
        command.arg("--cgroup").arg(&client.cgroup).args(["--netns", &client.netns.path()]);
        command.args(["--service", &target, "--pod", &listen, "--count", CONNECTS]);
        let times: Connects = serde_json::from_str(&finish(&mut command, "bench connect")?)?;
        runs.push((times.service.p50, times.pod.p50));
    }
    Ok(vec![summarize(what, runs)])
}

/// The service in front of the server; returns when it can be connected to.
fn service(scope: &Scope) -> anyhow::Result<Ipv4Addr> {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "target"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": PORT}]},
    });
    scope.kubectl(&["create", "-f", "-"], &manifest)?;
    let address = ["get", "service", "target", "-o", "jsonpath={.spec.clusterIP}"];
    let address = String::from_utf8(scope.kubectl(&address, &Value::Null)?)?;
    Ok(address.parse()?)
}

/// Makes so many services, several at a time, as the API server takes milliseconds for each.
fn fill(scope: &Scope, services: usize) -> anyhow::Result<()> {
    const LANES: usize = 16;
    let made = runtime()?.block_on(async {
        let api = Api::<Service>::namespaced(client(&scope.cluster.kubeconfig()).await?, &scope.namespace);
        let make = async |i| {
            let filler =
                json!({"metadata": {"name": format!("filler-{i}")}, "spec": {"ports": [{"port": 80}]}});
            api.create(&PostParams::default(), &serde_json::from_value(filler)?).await?;
            anyhow::Ok(())
        };
        stream::iter(1..services).map(make).buffer_unordered(LANES).try_collect::<()>().await
    });
    made.context("cannot make the services")
}

/// How many services the datapath of a node has: the agent says so on the socket that only root can open.
fn count(cluster: &Cluster, node: &str) -> anyhow::Result<usize> {
    let holder = cluster.place(node)?.holder().context("the node does not run")?;
    let mut stream = UnixStream::connect(format!("/proc/{holder}/root/run/tombolo/agent.sock"))
        .with_context(|| format!("no agent answers on {}/{node}", cluster.name()))?;
    stream.write_all(b"GET /v1/bpf/service HTTP/1.0\r\nHost: agent\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the agent's answer is cut short")?;
    ensure!(head.contains(" 200 "), "the agent answered {head}: {body}");
    Ok(serde_json::from_str::<Vec<Value>>(body)?.len())
}
