//! A node as its users see it: no kube-proxy and no packet filter, the way to the outside, the host itself, probes.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tombolo_e2e::{
    Cluster, IMAGE, Output,
    command::succeeds,
    eventually,
    machine::{self, Background, machines, outside, processes, testpod},
    url,
};
use tombolo_playground::{
    address::{ClusterAddresses, Family},
    device::Device,
};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn no_kube_proxy_and_no_rules_of_a_packet_filter() {
    let cluster = Cluster::attach("east").await.unwrap();
    let pods = Api::<Pod>::all(cluster.client.clone()).list(&ListParams::default()).await.unwrap();
    let proxy =
        pods.iter().filter_map(|p| p.metadata.name.as_deref()).find(|name| name.contains("kube-proxy"));
    assert_eq!(proxy, None);
    let machines = machines("east").unwrap();
    for node in machines.nodes() {
        assert_eq!(processes(&machines, &node, "kube-proxy").unwrap(), [0; 0], "{node}");
        let rules = machine::run(&machines, &node, &["nft", "list", "ruleset"]).unwrap();
        // kubelet has chains to see whether somebody flushes the tables, to say which iptables it uses, and against
        // strangers on loopback.
        let chains = rules.lines().filter_map(|line| line.trim().strip_prefix("chain "));
        let foreign: Vec<_> = chains
            .filter(|chain| {
                !["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL", "INPUT", "OUTPUT"]
                    .iter()
                    .any(|k| chain.starts_with(k))
            })
            .collect();
        assert_eq!(foreign, [""; 0], "{node}: {rules}");
        // Tables of the older iptables, which nft does not show.
        let script = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true";
        let tables = machine::run(&machines, &node, &["sh", "-c", script]).unwrap();
        assert_eq!(tables.trim(), "", "{node}");
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn the_outside_sees_the_address_of_the_node() {
    let cluster = Cluster::attach("east").await.unwrap();
    let scope = cluster.scope("outside").await.unwrap();
    scope.pod("outside-anchor", None, &["pause"]).await.unwrap();
    let machines = machines("east").unwrap();
    let program = testpod(&machines, "outside-anchor").unwrap();
    let host = outside("outside-1").unwrap();
    let _server =
        Background::start(&host, &[&program, "http", "--port", "18080", "--name", "outside"]).unwrap();
    for (i, node) in cluster.nodes().await.unwrap().iter().enumerate() {
        let name = format!("client-{i}");
        scope.pod(&name, Some(node), &["pause"]).await.unwrap();
        for plan in machines.plans() {
            let get = ["get", &url(host.addresses(plan.family())[0], 18080), "-n", "3"];
            let out =
                eventually(LIMIT, || async { scope.exec(&name, &get).await.and_then(Output::ok) }).await;
            let (out, own) = (out.unwrap(), plan.node(i));
            assert_eq!(out.matches(&format!("remote={own} ")).count(), 3, "not from {own}: {out}");
        }
    }
}

/// A device that a node has until this is dropped.
struct Further<'c> {
    machines: &'c tombolo_playground::Cluster,
    node: &'c str,
    device: Device,
}

impl<'c> Further<'c> {
    fn new(machines: &'c tombolo_playground::Cluster, node: &'c str, device: Device) -> anyhow::Result<Self> {
        machines.add_device(node, device)?;
        Ok(Self { machines, node, device })
    }
}

impl Drop for Further<'_> {
    fn drop(&mut self) {
        let _ = self.machines.remove_device(self.node, self.device);
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn what_leaves_by_a_device_without_ethernet_is_masqueraded_too() {
    let cluster = Cluster::attach("east").await.unwrap();
    let node = cluster.nodes().await.unwrap().remove(0);
    let scope = cluster.scope("tun").await.unwrap();
    for name in ["client", "closed"] {
        scope.pod(name, Some(&node), &["pause"]).await.unwrap();
    }
    let closed = json!({"matchLabels": {"app": "closed"}});
    let spec = json!({"podSelector": closed, "policyTypes": ["Egress"]});
    scope.network_policy("nowhere", spec).await.unwrap();
    let machines = machines("east").unwrap();
    let program = testpod(&machines, "client").unwrap();
    let host = outside("outside-2").unwrap();
    let _server =
        Background::start(&host, &[&program, "http", "--port", "18081", "--name", "outside"]).unwrap();
    let _tun = Further::new(&machines, &node, Device::Tun).unwrap();
    let guard = scope.guard("closed").await.unwrap();
    for plan in machines.plans() {
        // Nothing else asks this address, whose way leads through the device from now on.
        let target = host.addresses(plan.family())[2];
        machine::run(&machines, &node, &["ip", "route", "add", &target.to_string(), "dev", "tun0"]).unwrap();
        let get = ["get", &url(target, 18081), "-n", "3"];
        let out = eventually(LIMIT, || async { scope.exec("client", &get).await.and_then(Output::ok) }).await;
        let (out, own) = (out.unwrap(), plan.node(0));
        assert_eq!(out.matches(&format!("remote={own} ")).count(), 3, "not from {own}: {out}");
        scope.denied("closed", &[url(target, 18081)], &guard).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 40 s"]
async fn thousands_of_sockets_of_a_pod_reach_one_resolver() {
    let cluster = Cluster::attach("east").await.unwrap();
    // The ports towards this one server stay taken for minutes; no other test asks it.
    let node = cluster.nodes().await.unwrap().pop().unwrap();
    let scope = cluster.scope("sockets").await.unwrap();
    scope.pod("sockets-client", Some(&node), &["pause"]).await.unwrap();
    let machines = machines("east").unwrap();
    let program = testpod(&machines, "sockets-client").unwrap();
    let host = outside("outside-2").unwrap();
    let _server = Background::start(&host, &[&program, "udp-echo", "--port", "18053"]).unwrap();
    let target = SocketAddr::new(host.addresses(Family::V4)[0], 18053).to_string();
    let probe = ["udp-exchange", &target, "-n", "20"];
    eventually(LIMIT, || async { scope.exec("sockets-client", &probe).await.and_then(Output::ok) })
        .await
        .unwrap();
    let guard = scope.guard("sockets-client").await.unwrap();
    let before = guard.dropped("snat-exhausted").unwrap();
    // Two processes, since one may have 20,000 files at most.
    let burst = ["udp-burst", &target, "--sockets", "10000", "--rate", "500"];
    let both = tokio::join!(scope.exec("sockets-client", &burst), scope.exec("sockets-client", &burst));
    let both = [both.0.unwrap(), both.1.unwrap()];
    let dropped = guard.dropped("snat-exhausted").unwrap() - before;
    assert_eq!(dropped, 0, "packets dropped for want of a port");
    for out in both {
        let last = out.stdout.lines().last().unwrap_or(&out.stderr);
        assert!(out.success, "sockets got no answer: {last}");
    }
    let reserved = ["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"];
    let reserved = machine::run(&machines, &node, &reserved).unwrap();
    assert_eq!(
        reserved.trim(),
        "1024-29999,61000-65535",
        "the host's own connections stay away from these ports"
    );
    let shown = eventually(LIMIT, || async {
        let entries = succeeds("east", &["bpf", "snat", "list", "--node", &node])?;
        ensure!(entries.matches("answered").count() >= 20_000, "{} entries", entries.lines().count());
        Ok(())
    });
    shown.await.unwrap();
}

/// A further address on a node's device, which goes when this is dropped.
struct Floating<'c> {
    machines: &'c tombolo_playground::Cluster,
    node: &'c str,
    address: String,
}

impl<'c> Floating<'c> {
    fn new(
        machines: &'c tombolo_playground::Cluster,
        node: &'c str,
        plan: ClusterAddresses,
    ) -> anyhow::Result<Self> {
        let bits = plan.family().segment_bits();
        let it = Self { machines, node, address: format!("{}/{bits}", plan.floating(0)) };
        it.run("add", plan.family().address_options())?;
        Ok(it)
    }

    fn run(&self, verb: &str, options: &str) -> anyhow::Result<String> {
        let words = ["ip", "address", verb, self.address.as_str(), "dev", "eth0"];
        let argv: Vec<&str> = words.into_iter().chain(options.split_whitespace()).collect();
        machine::run(self.machines, self.node, &argv)
    }
}

impl Drop for Floating<'_> {
    fn drop(&mut self) {
        let _ = self.run("del", "");
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 60 s"]
async fn the_own_node_is_always_allowed_by_whichever_address_it_has() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("floating").await.unwrap();
    for (node, name) in nodes.iter().zip(["first", "second"]) {
        let spec = json!({"nodeName": node, "hostNetwork": true});
        scope.pod_with(name, &["http", "--port", "8080", "--name", name], spec).await.unwrap();
    }
    scope.pod("client", Some(&nodes[0]), &["pause"]).await.unwrap();
    scope.pod("free", Some(&nodes[0]), &["pause"]).await.unwrap();
    let client = json!({"matchLabels": {"app": "client"}});
    let spec = json!({"podSelector": client, "policyTypes": ["Egress"]});
    scope.network_policy("nowhere", spec).await.unwrap();
    let machines = machines("east").unwrap();
    let guard = scope.guard("client").await.unwrap();
    for plan in machines.plans() {
        let of = |address| vec![url(address, 8080)];
        let (own, other, floating) = (of(plan.node(0)), of(plan.node(1)), of(plan.floating(0)));
        scope.denied("client", &other, &guard).await.unwrap();
        scope.allowed("client", &own).await.unwrap();
        let here = Floating::new(&machines, &nodes[0], plan).unwrap();
        scope.allowed("client", &floating).await.unwrap();
        drop(here);
        let _there = Floating::new(&machines, &nodes[1], plan).unwrap();
        scope.allowed("free", &floating).await.unwrap();
        scope.denied("client", &floating, &guard).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn the_node_itself_reaches_pods_and_services() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("host").await.unwrap();
    scope.pod("host-web", Some(&nodes[0]), &["http", "--name", "web"]).await.unwrap();
    let pod = scope.pod_ips("host-web").await.unwrap();
    let service = scope.service("host-web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    let machines = machines("east").unwrap();
    let program = testpod(&machines, "host-web").unwrap();
    for node in &nodes {
        for &target in pod.iter().chain(&service) {
            let argv = [program.as_str(), "get", &url(target, 8080), "-n", "3"];
            eventually(LIMIT, || async {
                let out = machine::run(&machines, node, &argv)?;
                ensure!(out.contains("name=web"), "{out}");
                Ok(())
            })
            .await
            .unwrap();
        }
        let name = format!("host-{node}");
        let spec = json!({"nodeName": node, "hostNetwork": true});
        scope.pod_with(&name, &["pause"], spec).await.unwrap();
        for &address in &service {
            let get = ["get", &url(address, 8080), "-n", "5"];
            let out = scope.exec(&name, &get).await.unwrap().ok().unwrap();
            assert!(out.contains("failed=0"), "{out}");
        }
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn a_pod_of_the_same_name_comes_back_whole() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("again").await.unwrap();
    let service = scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    scope.pod("client", Some(&nodes[1]), &["pause"]).await.unwrap();
    for life in ["first", "second", "third"] {
        let args = ["http", "--port", "8080", "--name", life];
        scope.pod("web", Some(&nodes[0]), &args).await.unwrap();
        for &target in scope.pod_ips("web").await.unwrap().iter().chain(&service) {
            let url = url(target, 8080);
            let answered = format!("name={life} ");
            eventually(LIMIT, || async {
                let out = scope.exec("client", &["get", &url, "-n", "5"]).await?.ok()?;
                ensure!(out.matches(&answered).count() == 5, "{out}");
                Ok(())
            })
            .await
            .unwrap();
        }
        scope.api::<Pod>().delete("web", &DeleteParams::default()).await.unwrap();
        eventually(LIMIT, || async {
            ensure!(scope.api::<Pod>().get_opt("web").await?.is_none(), "still there");
            Ok(())
        })
        .await
        .unwrap();
    }
    for address in service {
        let get = ["get", &url(address, 8080), "-n", "1", "--timeout", "700"];
        let out = scope.exec("client", &get).await.unwrap();
        assert!(!out.success, "{out:?}");
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters; 30 s"]
async fn probes_keep_a_live_pod_and_restart_a_dead_one() {
    let scope = Cluster::attach("east").await.unwrap().scope("probes").await.unwrap();
    let probed = |port: u16| {
        json!({"containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "args": ["http", "--port", "8080"],
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1, "failureThreshold": 2,
            },
        }]})
    };
    scope.pod_with("live", &[], probed(8080)).await.unwrap();
    scope.pod_with("dead", &[], probed(8081)).await.unwrap();
    let restarts = async |name: &str| -> anyhow::Result<i32> {
        let status = scope.api::<Pod>().get(name).await?.status.unwrap_or_default();
        Ok(status.container_statuses.unwrap_or_default().first().map_or(0, |c| c.restart_count))
    };
    eventually(LIMIT, || async {
        ensure!(restarts("dead").await? > 0, "not restarted");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(restarts("live").await.unwrap(), 0);
    let out = scope.exec("live", &["get", "http://127.0.0.1:8080/"]).await.unwrap();
    assert!(out.success, "{out:?}");
    assert!(scope.logs("live").await.unwrap().contains("listening port=8080"));
}
