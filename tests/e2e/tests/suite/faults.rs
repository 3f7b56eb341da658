//! What runs goes on while parts of the cluster die, and what comes later works too.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    coordination::v1::Lease,
    core::v1::Pod,
    networking::v1::NetworkPolicy,
};
use kube::{Api, api::PostParams};
use serde_json::json;
use tombolo_e2e::{
    Cluster, Flow, Scope, Traffic, eventually,
    machine::{machines, processes, processes_of_all, signal},
    pod_ip,
};

const SYSTEM: &str = "tombolo-system";
const LIMIT: Duration = Duration::from_secs(90);

/// Lets `fault` happen in cluster east under traffic there and to and from west: nothing may break or be lost.
async fn survives(
    title: &str,
    fault: impl AsyncFnOnce(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for flow in &under_traffic(title, fault).await? {
        ensure!(flow.sent > 50 && flow.failed == 0, "{title}: {flow:?}");
    }
    Ok(())
}

/// What became of the traffic. After the fault, new pods on both nodes must connect, in the cluster and to the other
/// one.
async fn under_traffic(
    title: &str,
    fault: impl AsyncFnOnce(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Flow>> {
    let cluster = Cluster::attach("east").await?;
    let here = cluster.scope("fault").await?;
    let away = Cluster::attach("west").await?.named_scope(&here.namespace).await?;
    let traffic = Traffic::start(&here, &away).await?;
    let start = Instant::now();
    fault(&cluster).await?;
    let recovered = start.elapsed();
    newcomers(&here, [&traffic.service, &traffic.remote]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let flows = traffic.finish().await?;
    // Not by println, which the test harness would keep to itself.
    let mut out = std::io::stderr();
    writeln!(out, "{title}: recovered after {recovered:.1?}")?;
    for flow in &flows {
        let (sent, failed) = (flow.sent, flow.failed);
        let longest = flow.longest_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        writeln!(out, "  {:<16} sent {sent:>5} failed {failed} longest wait {longest}", flow.name)?;
    }
    Ok(flows)
}

/// Pods that start after the fault, on every node: they reach the services, and are reached.
async fn newcomers(scope: &Scope, services: [&str; 2]) -> anyhow::Result<()> {
    for (i, node) in scope.cluster.nodes().await?.iter().enumerate() {
        let name = format!("late-{i}");
        let late = scope.pod(&name, Some(node), &["http", "--port", "8080"]).await?;
        for service in services {
            let url = format!("http://{service}:8080/");
            scope.exec(&name, &["get", &url, "-n", "5"]).await?.ok().context("from a new pod")?;
        }
        let own = format!("http://{}:8080/", pod_ip(&late)?);
        for other in (0..i).map(|j| format!("late-{j}")) {
            scope.exec(&other, &["get", &own, "-n", "5"]).await?.ok().context("to a new pod")?;
        }
    }
    Ok(())
}

/// Waits until no process of `dead` is left, every node has others of that program again, and all are Ready.
async fn restarted(cluster: &Cluster, program: &str, dead: &[i32]) -> anyhow::Result<()> {
    let machines = machines(&cluster.name)?;
    eventually(LIMIT, || async {
        for node in machines.nodes() {
            let now = processes(&machines, &node, program)?;
            ensure!(
                !now.is_empty() && !now.iter().any(|pid| dead.contains(pid)),
                "{program} on {node}: {now:?}"
            );
        }
        all_ready(cluster).await
    })
    .await
}

async fn all_ready(cluster: &Cluster) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let status = sets.get("tombolo-node").await?.status.context("no status")?;
    let (up, wanted) = (status.number_ready, status.desired_number_scheduled);
    ensure!(up == wanted, "{up} of {wanted} agents ready");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let status = deployments.get("tombolo-clustermesh").await?.status.context("no status")?;
    ensure!(status.ready_replicas == status.replicas, "daemon: {:?} ready", status.ready_replicas);
    Ok(())
}

#[tokio::test]
async fn agents_are_killed() {
    survives("agents killed", async |cluster| {
        let pids = processes_of_all(&machines(&cluster.name)?, "tombolo-node")?;
        signal(&pids, "KILL")?;
        restarted(cluster, "tombolo-node", &pids).await
    })
    .await
    .unwrap();
}

/// Without its process the tunnel carries nothing, but no connection ends and nothing else is touched.
#[tokio::test]
async fn tunnels_are_killed() {
    let flows = under_traffic("tunnels killed", async |cluster| {
        let pids = processes_of_all(&machines(&cluster.name)?, "tombolo-tunnel")?;
        signal(&pids, "KILL")?;
        restarted(cluster, "tombolo-tunnel", &pids).await
    })
    .await
    .unwrap();
    for flow in flows.iter().filter(|flow| flow.is_local() || flow.name.ends_with("/stream")) {
        assert!(flow.sent > 50 && flow.failed == 0, "{flow:?}");
    }
}

#[tokio::test]
async fn the_leading_daemon_is_killed() {
    survives("leading daemon killed", async |cluster| {
        let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
        let leader = async || -> anyhow::Result<String> {
            let spec = leases.get("tombolo-clustermesh").await?.spec.context("no lease")?;
            spec.holder_identity.filter(|holder| !holder.is_empty()).context("nobody leads")
        };
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
        let node =
            pods.get(&leader().await?).await?.spec.and_then(|s| s.node_name).context("not scheduled")?;
        let pids = processes(&machines(&cluster.name)?, &node, "tombolo-clustermesh")?;
        signal(&pids, "KILL")?;
        restarted(cluster, "tombolo-clustermesh", &pids).await?;
        leader().await.map(drop)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn etcd_is_killed_and_returns() {
    survives("etcd away for 5 s", async |cluster| {
        let machines = machines(&cluster.name)?;
        machines.kill("control-plane", "etcd")?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        machines.restart("control-plane", "etcd")?;
        eventually(LIMIT, || async {
            ensure!(machines.is_api_ready()?, "the API server is not ready");
            all_ready(cluster).await
        })
        .await
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn containerd_restarts() {
    restarts("containerd").await.unwrap();
}

#[tokio::test]
async fn kubelet_restarts() {
    restarts("kubelet").await.unwrap();
}

/// Both nodes' component is killed and started again.
async fn restarts(component: &str) -> anyhow::Result<()> {
    survives(&format!("{component} restarted"), async |cluster| {
        let machines = machines(&cluster.name)?;
        machines.nodes().iter().try_for_each(|node| machines.restart(node, component))?;
        eventually(LIMIT, || all_ready(cluster)).await
    })
    .await
}

/// Lets frozen processes go on, also when the test panics.
struct Thaw(Vec<i32>);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = signal(&self.0, "CONT");
    }
}

#[tokio::test]
async fn policy_is_enforced_without_agents() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("frozen").await.unwrap();
    let server = scope.pod("web", Some(&nodes[0]), &["http", "--port", "8080"]).await.unwrap();
    let url = format!("http://{}:8080/", pod_ip(&server).unwrap());
    for (name, node) in [("good", &nodes[1]), ("bad", &nodes[1]), ("near", &nodes[0])] {
        scope.pod(name, Some(node), &["pause"]).await.unwrap();
    }
    let policy = json!({"metadata": {"name": "only-good"}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "good"}}}]}],
    }});
    let policy = serde_json::from_value(policy).unwrap();
    scope.api::<NetworkPolicy>().create(&PostParams::default(), &policy).await.unwrap();
    let wanted = [("good", true), ("bad", false), ("near", false)];
    eventually(LIMIT, || check(&scope, &url, &wanted)).await.unwrap();

    let pids = processes_of_all(&machines("east").unwrap(), "tombolo-node").unwrap();
    signal(&pids, "STOP").unwrap();
    let thaw = Thaw(pids.clone());
    for _ in 0..3 {
        check(&scope, &url, &wanted).await.unwrap();
    }
    drop(thaw);
    let pids = processes_of_all(&machines("east").unwrap(), "tombolo-node").unwrap();
    signal(&pids, "KILL").unwrap();
    for _ in 0..3 {
        check(&scope, &url, &wanted).await.unwrap();
    }
    restarted(&cluster, "tombolo-node", &pids).await.unwrap();
    check(&scope, &url, &wanted).await.unwrap();
}

async fn check(scope: &Scope, url: &str, wanted: &[(&str, bool)]) -> anyhow::Result<()> {
    for (client, allowed) in wanted {
        let out = scope.exec(client, &["get", url, "-n", "1", "--timeout", "700"]).await?;
        ensure!(out.success == *allowed, "{client}: {out:?}, wanted {allowed}");
    }
    Ok(())
}
