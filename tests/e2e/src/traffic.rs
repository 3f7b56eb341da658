//! Traffic that runs while something breaks, and what became of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{GLOBAL, IMAGE, Output, Scope, eventually, pod_ip};

/// A long TCP connection, a UDP exchange and requests in connections of their own, each between pods of one node, of
/// two nodes, of two nodes through a ClusterIP, and from and to another cluster through a global service.
pub struct Traffic<'a> {
    clients: Vec<Client<'a>>,
    /// The address of the service in front of the server here.
    pub service: String,
    /// The address here of the service whose server is in the other cluster.
    pub remote: String,
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Which: client and kind.
    pub name: String,
    /// Lines, datagrams or requests sent.
    pub sent: u64,
    /// How many of them got no answer.
    pub failed: u64,
    /// The longest wait for an answer, in milliseconds; none for datagrams, which do not measure it.
    pub longest_ms: Option<u64>,
    /// What went wrong, as the client printed it.
    pub faults: Vec<String>,
}

impl Flow {
    /// Whether it stays in one cluster.
    pub fn is_local(&self) -> bool {
        !self.name.starts_with("in/") && !self.name.starts_with("out/")
    }
}

/// A pod with a client of each kind.
struct Client<'a> {
    scope: &'a Scope,
    name: &'static str,
    node: String,
    target: String,
}

const KINDS: [&str; 3] = ["stream", "udp", "get"];
const PORTS: [(&str, &str, u16); 3] = [("tcp", "TCP", 7), ("udp", "UDP", 7), ("http", "TCP", 8080)];
const FOREVER: &str = "1000000";
const SETTLE: Duration = Duration::from_secs(30);

impl<'a> Traffic<'a> {
    /// Starts servers and clients in `here` and in the namespace of the same name in another cluster, and lets them
    /// get going.
    pub async fn start(here: &'a Scope, away: &'a Scope) -> anyhow::Result<Self> {
        let (nodes, there) = (here.cluster.nodes().await?, away.cluster.nodes().await?);
        let ([near, far, ..], [there, ..]) = (nodes.as_slice(), there.as_slice()) else {
            anyhow::bail!("traffic needs two nodes here and one there: {nodes:?}, {there:?}");
        };
        let (server, _) = tokio::try_join!(serve(here, "server", near), serve(away, "remote", there))?;
        let address = pod_ip(&server)?;
        let service = here.service("server", &PORTS, &[GLOBAL]).await?;
        let incoming = away.service("server", &PORTS, &[GLOBAL]).await?;
        away.service("remote", &PORTS, &[GLOBAL]).await?;
        let remote = here.service("remote", &PORTS, &[GLOBAL]).await?;
        let client = |scope, name, node: &String, target: &String| Client {
            scope,
            name,
            node: node.clone(),
            target: target.clone(),
        };
        let clients = vec![
            client(here, "near", near, &address),
            client(here, "far", far, &address),
            client(here, "service", far, &service),
            client(here, "out", far, &remote),
            client(away, "in", there, &incoming),
        ];
        try_join_all(clients.iter().map(Client::start)).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self { clients, service, remote })
    }

    /// Ends the clients and reads what they counted.
    pub async fn finish(self) -> anyhow::Result<Vec<Flow>> {
        let mut logs = JoinSet::new();
        for client in &self.clients {
            let pods = client.scope.api::<Pod>();
            restarts(&pods.get(client.name).await?)?;
            for kind in KINDS {
                let (pods, name) = (pods.clone(), client.name);
                logs.spawn(async move {
                    let params =
                        LogParams { container: Some(kind.to_owned()), follow: true, ..LogParams::default() };
                    flow(format!("{name}/{kind}"), &pods.logs(name, &params).await?)
                });
            }
        }
        // SIGTERM makes them print their totals, which those who follow the log still see.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in &self.clients {
            client.scope.api::<Pod>().delete(client.name, &DeleteParams::default()).await?;
        }
        let mut flows = logs.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        flows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(flows)
    }
}

impl Client<'_> {
    async fn start(&self) -> anyhow::Result<()> {
        let (echo, url) = (format!("{}:7", self.target), format!("http://{}:8080/", self.target));
        // A service takes a moment to lead anywhere, which is no fault.
        let probe = format!("probe-{}", self.name);
        self.scope.pod(&probe, Some(&self.node), &["pause"]).await?;
        let get = || async { self.scope.exec(&probe, &["get", &url, "-n", "3"]).await.and_then(Output::ok) };
        eventually(SETTLE, get).await.with_context(|| format!("{} reaches nothing", self.name))?;
        let containers = [
            container("stream", &["stream", &echo]),
            container("udp", &["udp-exchange", &echo]),
            container("get", &["get", &url, "-n", FOREVER, "--interval", "50"]),
        ];
        let spec =
            json!({"nodeName": self.node, "containers": containers, "terminationGracePeriodSeconds": 10});
        self.scope.pod_with(self.name, &[], spec).await?;
        Ok(())
    }
}

/// A pod that answers on all of [`PORTS`].
async fn serve(scope: &Scope, name: &str, node: &str) -> anyhow::Result<Pod> {
    let servers = [
        container("tcp", &["tcp-echo", "--port", "7"]),
        container("udp", &["udp-echo", "--port", "7"]),
        container("http", &["http", "--port", "8080"]),
    ];
    scope.pod_with(name, &[], json!({"nodeName": node, "containers": servers})).await
}

/// A client that ended and began again has forgotten what failed.
fn restarts(pod: &Pod) -> anyhow::Result<()> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    for status in statuses {
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        ensure!(status.restart_count == 0, "client {} ended: {last:?}", status.name);
    }
    Ok(())
}

fn container(name: &str, args: &[&str]) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never", "args": args})
}

/// Reads the output of a client: its last line has the totals.
fn flow(name: String, log: &str) -> anyhow::Result<Flow> {
    let total = log.lines().rev().find(|line| line.starts_with("total "));
    let total = total.with_context(|| format!("{name} printed no total: {:?}", log.lines().next_back()))?;
    let sent = number(total, "sent").or_else(|| number(total, "requests"));
    let sent = sent.with_context(|| format!("{name}: {total}"))?;
    let failed = number(total, "failed").or_else(|| number(total, "lost"));
    let failed = failed.or_else(|| number(total, "broken")).with_context(|| format!("{name}: {total}"))?;
    let waits = log.lines().filter(|line| line.starts_with("ok ")).filter_map(|line| number(line, "ms"));
    let longest_ms = number(total, "longest_ms").or(waits.max());
    let bad = |line: &&str| ["gap ", "break ", "lost ", "fail "].iter().any(|word| line.starts_with(word));
    let faults = log.lines().filter(bad).take(5).map(str::to_owned).collect();
    Ok(Flow { name, sent, failed, longest_ms, faults })
}

/// The whole part of `key=number` in a line.
fn number(line: &str, key: &str) -> Option<u64> {
    let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    value.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_each_kind_are_read() {
        let stream =
            "connected local=a remote=b\ngap seq=3 ms=700\ntotal sent=9 received=9 longest_ms=700 broken=0\n";
        let read = flow("far/stream".into(), stream).unwrap();
        assert_eq!((read.sent, read.failed, read.longest_ms), (9, 0, Some(700)));
        assert_eq!(read.faults, ["gap seq=3 ms=700"]);
        let udp = flow("u".into(), "lost seq=2\ntotal sent=4 received=3 lost=1\n").unwrap();
        assert_eq!((udp.sent, udp.failed, udp.longest_ms), (4, 1, None));
        let get = "ok status=200 ms=1.5 body=x\nok status=200 ms=12.9 body=x\ntotal requests=2 failed=0\n";
        let get = flow("g".into(), get).unwrap();
        assert_eq!((get.sent, get.failed, get.longest_ms), (2, 0, Some(12)));
        assert!(flow("x".into(), "ok status=200 ms=1 body=\n").is_err());
    }
}
