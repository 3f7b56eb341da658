//! Two clusters as one mesh: global services, policy across clusters, loss of the link.
#![cfg(feature = "cluster")]

use std::{collections::BTreeMap, time::Duration};

use tombolo_e2e::{Cluster, Output, Scope, eventually};

const LIMIT: Duration = Duration::from_secs(30);
const GLOBAL: (&str, &str) = ("service.tombolo.io/global", "true");

/// A service `web` with two pods in each of both clusters, and a pod `client` in each.
async fn both(name: &str) -> anyhow::Result<(Scope, Scope)> {
    let east = Cluster::attach("east").await?.named_scope(name).await?;
    let west = Cluster::attach("west").await?.named_scope(name).await?;
    for scope in [&east, &west] {
        let args = ["http", "--port", "8080", "--name", &scope.cluster.name];
        scope.deployment("web", 2, &args).await?;
        scope.service("web", &[("http", "TCP", 8080)], &[GLOBAL]).await?;
        scope.pod("client", None, &["pause"]).await?;
    }
    Ok((east, west))
}

async fn answers(scope: &Scope, n: u32) -> anyhow::Result<BTreeMap<String, usize>> {
    let url = format!("http://web.{}.svc.cluster.local:8080/", scope.namespace);
    let out = scope.exec("client", &["get", &url, "-n", &n.to_string()]).await?.ok()?;
    let mut by_cluster = BTreeMap::new();
    for body in out.lines().filter_map(|l| l.split_once("body=")).map(|(_, body)| body) {
        let name = body.split_whitespace().find_map(|w| w.strip_prefix("name=")).unwrap_or(body).to_owned();
        *by_cluster.entry(name).or_default() += 1;
    }
    Ok(by_cluster)
}

#[tokio::test]
async fn a_global_service_is_answered_by_both_clusters() {
    let (east, west) = both("global").await.unwrap();
    for scope in [&east, &west] {
        eventually(LIMIT, || async {
            let by_cluster = answers(scope, 40).await?;
            anyhow::ensure!(by_cluster.len() == 2, "{by_cluster:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
    west.scale("web", 0).await.unwrap();
    eventually(LIMIT, || async {
        let by_cluster = answers(&west, 40).await?;
        anyhow::ensure!(by_cluster.keys().eq(["east"]), "{by_cluster:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_service_that_is_not_global_stays_at_home() {
    let west = Cluster::attach("west").await.unwrap().named_scope("homely").await.unwrap();
    let east = Cluster::attach("east").await.unwrap().named_scope("homely").await.unwrap();
    for scope in [&east, &west] {
        scope.deployment("web", 1, &["http", "--port", "8080", "--name", &scope.cluster.name]).await.unwrap();
        scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    }
    west.pod("client", None, &["pause"]).await.unwrap();
    let by_cluster = eventually(LIMIT, || answers(&west, 40)).await.unwrap();
    assert!(by_cluster.keys().eq(["west"]), "{by_cluster:?}");
}

#[tokio::test]
async fn udp_crosses_clusters() {
    let east = Cluster::attach("east").await.unwrap().named_scope("udp").await.unwrap();
    let west = Cluster::attach("west").await.unwrap().named_scope("udp").await.unwrap();
    east.pod("echo", None, &["udp-echo", "--port", "9000"]).await.unwrap();
    for scope in [&east, &west] {
        scope.service("echo", &[("echo", "UDP", 9000)], &[GLOBAL]).await.unwrap();
    }
    west.pod("client", None, &["pause"]).await.unwrap();
    let target = "echo.udp.svc.cluster.local:9000";
    let out = eventually(LIMIT, || async {
        west.exec("client", &["udp-exchange", target, "-n", "50"]).await.and_then(Output::ok)
    })
    .await
    .unwrap();
    assert!(out.contains("lost=0"), "{out}");
}
