//! Pods, services and DNS of one cluster, by packets.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde_json::json;
use tombolo_e2e::{Cluster, Output, eventually, machine::machines, url, web_url};

const LIMIT: Duration = Duration::from_secs(20);

async fn east() -> anyhow::Result<Cluster> {
    Cluster::attach("east").await
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn pods_reach_each_other_on_one_node_and_across_nodes() {
    let cluster = east().await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("pods").await.unwrap();
    scope.pod("server", Some(&nodes[0]), &["http", "--port", "8080", "--name", "server"]).await.unwrap();
    let server = scope.pod_ips("server").await.unwrap();
    for (name, node) in [("near", &nodes[0]), ("far", &nodes[1])] {
        scope.pod(name, Some(node), &["pause"]).await.unwrap();
        let client = scope.pod_ips(name).await.unwrap();
        for (&server, client) in server.iter().zip(client) {
            let get = ["get", &url(server, 8080), "-n", "5"];
            let out = scope.exec(name, &get).await.unwrap().ok().unwrap();
            let answer = format!("name=server cluster= node={} remote={client} local={server}", nodes[0]);
            assert_eq!(out.lines().filter(|line| line.contains(&answer)).count(), 5, "{name}: {out}");
        }
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn dns_answers_and_kubernetes_default_has_its_address() {
    let scope = east().await.unwrap().scope("dns").await.unwrap();
    scope.pod("client", None, &["pause"]).await.unwrap();
    let out = eventually(LIMIT, || async {
        scope.exec("client", &["resolve", "kubernetes.default.svc.cluster.local"]).await.and_then(Output::ok)
    })
    .await
    .unwrap();
    let api = machines("east").unwrap().addresses().family().api_service();
    assert_eq!(out.trim(), format!("address ip={api}"));
    // A service has an address of each family.
    let mut service = scope.service("nobody", &[("http", "TCP", 80)], &[]).await.unwrap();
    service.sort();
    let wanted: String = service.iter().map(|address| format!("address ip={address}\n")).collect();
    let name = format!("nobody.{}.svc.cluster.local", scope.namespace);
    eventually(LIMIT, || async {
        let out = scope.exec("client", &["resolve", &name]).await?.ok()?;
        ensure!(out == wanted, "{out}, not {wanted}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn a_service_balances_tcp_and_udp() {
    let cluster = east().await.unwrap();
    let scope = cluster.scope("service").await.unwrap();
    scope.deployment("web", 3, &["http", "--port", "8080"]).await.unwrap();
    let web = scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    scope.pod("echo", None, &["udp-echo", "--port", "9000"]).await.unwrap();
    let echo = scope.service("echo", &[("echo", "UDP", 9000)], &[]).await.unwrap();
    scope.pod("client", None, &["pause"]).await.unwrap();

    for url in web.iter().map(|&address| url(address, 8080)).chain([web_url(&scope)]) {
        let out = eventually(LIMIT, || async {
            scope.exec("client", &["get", &url, "-n", "60"]).await.and_then(Output::ok)
        })
        .await
        .unwrap();
        let names: BTreeSet<_> = out.split_whitespace().filter(|w| w.contains("name=web-")).collect();
        assert_eq!(names.len(), 3, "all three backends answer at {url}: {out}");
    }

    let name = format!("echo.{}.svc.cluster.local:9000", scope.namespace);
    let addresses = echo.iter().map(|&address| SocketAddr::new(address, 9000).to_string());
    for target in addresses.chain([name]) {
        let out = scope.exec("client", &["udp-exchange", &target, "-n", "20"]).await.unwrap().ok().unwrap();
        assert!(out.contains("lost=0"), "{target}: {out}");
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 20 s"]
async fn a_udp_socket_keeps_its_backend() {
    let scope = east().await.unwrap().scope("socket").await.unwrap();
    let service = scope.service("echo", &[("echo", "UDP", 9000)], &[]).await.unwrap();
    for name in ["one", "two", "three"] {
        let args = ["udp-echo", "--port", "9000", "--name", name];
        scope.pod_with(name, &args, json!({"labels": {"app": "echo"}})).await.unwrap();
    }
    scope.pod("client", None, &["pause"]).await.unwrap();
    let target = SocketAddr::new(service[0], 9000).to_string();
    // Connections of their own see all three before one socket is looked at.
    eventually(LIMIT, || async {
        let burst = ["udp-burst", &target, "--sockets", "30", "--rate", "300"];
        let out = scope.exec("client", &burst).await?.ok()?;
        ensure!(backends(&out) == 3, "not all three answer: {out}");
        Ok(())
    })
    .await
    .unwrap();
    for kind in ["udp-exchange", "udp-unconnected"] {
        let out = scope.exec("client", &[kind, &target, "-n", "60"]).await.unwrap().ok().unwrap();
        assert!(backends(&out) > 0, "{kind}: nobody answers: {out}");
        assert_eq!(backends(&out), 1, "{kind}: a UDP socket gets another backend at every datagram: {out}");
    }
}

/// How many servers answered, by what a client of the test program printed.
fn backends(out: &str) -> usize {
    out.lines().filter(|line| line.starts_with("answers ")).count()
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn a_service_without_backends_refuses_at_once() {
    let scope = east().await.unwrap().scope("empty").await.unwrap();
    let addresses = scope.service("nobody", &[("http", "TCP", 80)], &[]).await.unwrap();
    scope.pod("client", None, &["pause"]).await.unwrap();
    for address in addresses {
        eventually(LIMIT, || async {
            let out = scope.exec("client", &["get", &url(address, 80), "-n", "1"]).await?;
            let refused = !out.success && format!("{}{}", out.stdout, out.stderr).contains("refused");
            if refused { Ok(()) } else { anyhow::bail!("not refused at {address}: {out:?}") }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn a_pod_reaches_itself_through_its_service() {
    let scope = east().await.unwrap().scope("hairpin").await.unwrap();
    scope.pod("web", None, &["http", "--port", "8080", "--name", "me"]).await.unwrap();
    for address in scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap() {
        let get = ["get", &url(address, 8080), "-n", "3"];
        eventually(LIMIT, || async { scope.exec("web", &get).await.and_then(Output::ok) }).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv4, also ipv6; 20 s"]
async fn logs_and_exec_work() {
    let scope = east().await.unwrap().scope("logs").await.unwrap();
    scope.pod("web", None, &["http", "--port", "8080", "--name", "me"]).await.unwrap();
    assert!(scope.logs("web").await.unwrap().contains("8080"));
    let failed = scope.exec("web", &["get", "http://127.0.0.1:1/", "-n", "1"]).await.unwrap();
    assert!(!failed.success);
}
