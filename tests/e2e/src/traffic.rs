//! Traffic that runs while something breaks, and what became of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{IMAGE, Output, Scope, eventually, pod_ip};

/// A long TCP connection, a UDP exchange and requests in connections of their own, each between pods of one node, of
/// two nodes, and of two nodes through a ClusterIP.
pub struct Traffic<'a> {
    scope: &'a Scope,
    /// The address of the service in front of the server.
    pub service: String,
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

const CLIENTS: [&str; 3] = ["near", "far", "service"];
const KINDS: [&str; 3] = ["stream", "udp", "get"];
const FOREVER: &str = "1000000";

impl<'a> Traffic<'a> {
    /// Starts the servers on `near`, the clients on both nodes, and lets them get going.
    pub async fn start(scope: &'a Scope, near: &str, far: &str) -> anyhow::Result<Self> {
        let servers = [
            container("tcp", &["tcp-echo", "--port", "7"]),
            container("udp", &["udp-echo", "--port", "7"]),
            container("http", &["http", "--port", "8080"]),
        ];
        let server = scope.pod_with("server", &[], json!({"nodeName": near, "containers": servers})).await?;
        let ports = [("tcp", "TCP", 7), ("udp", "UDP", 7), ("http", "TCP", 8080)];
        let service = scope.service("server", &ports, &[]).await?;
        let address = pod_ip(&server)?;
        for (client, node, target) in
            [("near", near, &address), ("far", far, &address), ("service", far, &service)]
        {
            let (echo, url) = (format!("{target}:7"), format!("http://{target}:8080/"));
            if client == "service" {
                // A service takes a moment to lead anywhere, which is no fault.
                let get = || async {
                    scope.exec_in("far", "get", &["get", &url, "-n", "3"]).await.and_then(Output::ok)
                };
                eventually(Duration::from_secs(20), get).await?;
            }
            let clients = [
                container("stream", &["stream", &echo]),
                container("udp", &["udp-exchange", &echo]),
                container("get", &["get", &url, "-n", FOREVER, "--interval", "50"]),
            ];
            let spec = json!({"nodeName": node, "containers": clients, "terminationGracePeriodSeconds": 10});
            scope.pod_with(client, &[], spec).await?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self { scope, service })
    }

    /// Ends the clients and reads what they counted.
    pub async fn finish(self) -> anyhow::Result<Vec<Flow>> {
        let pods = self.scope.api::<Pod>();
        let mut logs = JoinSet::new();
        for client in CLIENTS {
            restarts(&pods.get(client).await?)?;
            for kind in KINDS {
                let pods = pods.clone();
                logs.spawn(async move {
                    let params =
                        LogParams { container: Some(kind.to_owned()), follow: true, ..LogParams::default() };
                    let text = pods.logs(client, &params).await?;
                    flow(format!("{client}/{kind}"), &text)
                });
            }
        }
        // SIGTERM makes them print their totals, which those who follow the log still see.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in CLIENTS {
            pods.delete(client, &DeleteParams::default()).await?;
        }
        let mut flows = logs.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        flows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(flows)
    }
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
