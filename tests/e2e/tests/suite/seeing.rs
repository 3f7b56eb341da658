//! What users see: status, lists, metrics and reasons of drops tell what is so. Kills an agent of cluster east.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tombolo_e2e::{
    Cluster, Scope,
    command::{succeeds, tombolo},
    eventually,
    machine::{machines, processes, signal, text},
};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 40 s"]
async fn lists_and_metrics_show_pods_services_and_drops() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("seeing").await.unwrap();
    scope.pod("web", Some(&nodes[0]), &["http", "--port", "8080"]).await.unwrap();
    let addresses = scope.pod_ips("web").await.unwrap();
    let services = scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    scope.pod("client", Some(&nodes[0]), &["pause"]).await.unwrap();

    let namespace = &scope.namespace;
    eventually(LIMIT, || async {
        let list = succeeds("east", &["service", "list"])?;
        for &service in &services {
            let frontend = format!("{}/TCP", SocketAddr::new(service, 8080));
            line(&list, &[namespace, &frontend, "1 in cluster 1"])?;
        }
        Ok(())
    })
    .await
    .unwrap();
    let endpoints = succeeds("east", &["endpoint", "list"]).unwrap();
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut words = vec![nodes[0].as_str(), namespace, "web"];
    words.extend(texts.iter().map(String::as_str));
    let endpoint = line(&endpoints, &words).unwrap();
    let identity = endpoint.split_whitespace().nth(4).unwrap();
    line(&succeeds("east", &["identity", "list"]).unwrap(), &[identity, "app=web"]).unwrap();
    let bpf = |map: &str| succeeds("east", &["bpf", map, "list"]).unwrap();
    for address in &texts {
        line(&bpf("endpoint"), &[&nodes[0], address, identity]).unwrap();
        line(&bpf("address"), &[&nodes[1], address, identity]).unwrap();
    }
    for service in services {
        let frontend = SocketAddr::new(service, 8080).to_string();
        line(&bpf("service"), &[&nodes[1], &frontend, "backends=1"]).unwrap();
    }

    drops_are_shown(&scope, &nodes[0]).await.unwrap();
}

/// The line of a list that has all of these words.
fn line(list: &str, words: &[&str]) -> anyhow::Result<String> {
    let line = list.lines().find(|line| words.iter().all(|word| line.contains(word)));
    line.with_context(|| format!("no line with {words:?} in:\n{list}")).map(str::to_owned)
}

/// What a policy stops is shown as a drop of its node, whether it is not let in or not let out.
async fn drops_are_shown(scope: &Scope, node: &str) -> anyhow::Result<()> {
    let urls = scope.urls("web", 8080).await?;
    deny(scope, "web", "Ingress").await?;
    scope.denied("client", &urls, &scope.guard("web").await?).await?;
    line(&succeeds("east", &["bpf", "drops", "list"])?, &[node, "policy-denied"])?;
    deny(scope, "client", "Egress").await?;
    let guard = scope.guard("client").await?;
    scope.denied("client", &urls, &guard).await?;
    eventually(LIMIT, || async {
        let counted = guard.dropped("policy-denied")?;
        let status: Value = serde_json::from_str(&succeeds("east", &["status", "-o", "json"])?)?;
        let node = status["nodes"].as_array().and_then(|all| all.iter().find(|n| n["node"] == *guard.node));
        let shown = node.and_then(|node| node["drops"]["policy-denied"].as_u64());
        let shown = shown.with_context(|| format!("no drops of {}: {status}", guard.node))?;
        ensure!(shown >= counted, "the status shows {shown} drops, the metrics {counted}");
        Ok(())
    })
    .await
}

/// A policy that lets nothing into a pod, or nothing out of it.
async fn deny(scope: &Scope, pod: &str, direction: &str) -> anyhow::Result<()> {
    let spec = json!({"podSelector": {"matchLabels": {"app": pod}}, "policyTypes": [direction]});
    scope.network_policy(pod, spec).await
}

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 30 s"]
async fn status_says_which_part_does_not_work() {
    succeeds("east", &["status", "--wait"]).unwrap();
    let machines = machines("east").unwrap();
    let agents = processes(&machines, "node-2", "tombolo-node").unwrap();
    signal(&agents, "STOP").unwrap();
    let frozen = tokio::task::spawn_blocking(|| tombolo("east", &["status"])).await.unwrap();
    signal(&agents, "KILL").unwrap();
    let frozen = frozen.unwrap();
    assert!(!frozen.status.success() && text(&frozen).contains("node-2"), "{}", text(&frozen));
    let well = succeeds("east", &["status", "--wait", "--timeout", "60"]).unwrap();
    assert!(well.contains("2 of 2 ready") && well.contains("2 of 2 replicas ready"), "{well}");
    let json: Value = serde_json::from_str(&succeeds("east", &["status", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(json["problems"], json!([]), "{json}");
}

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 30 s"]
async fn status_names_a_node_without_an_agent() {
    succeeds("east", &["status", "--wait"]).unwrap();
    let nodes: Api<Node> = Api::all(Cluster::attach("east").await.unwrap().client);
    // A node that no machine stands behind.
    let ghost = json!({"metadata": {"name": "ghost"}, "spec": {"unschedulable": true}});
    nodes.create(&PostParams::default(), &serde_json::from_value(ghost).unwrap()).await.unwrap();
    let said = tokio::task::spawn_blocking(|| tombolo("east", &["status"])).await;
    nodes.delete("ghost", &DeleteParams::default()).await.unwrap();
    let said = said.unwrap().unwrap();
    let words = "node ghost: no agent runs on it";
    assert!(!said.status.success() && text(&said).contains(words), "{}", text(&said));
    succeeds("east", &["status", "--wait", "--timeout", "60"]).unwrap();
}
