//! Two clusters as one mesh: global services, and policies that name clusters, by packets.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tombolo_api::MeshNetworkPolicy;
use tombolo_e2e::{
    Cluster, GLOBAL, Output, Scope, Web, answers, command, eventually,
    machine::{self, machines},
    web_url,
};

const LIMIT: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(2);
const BOTH: [&str; 2] = ["east", "west"];

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn a_global_service_is_answered_by_both_clusters() {
    let web = Web::start("global", &BOTH).await.unwrap();
    web.answered_by(&BOTH).await.unwrap();
    // Not one request fails while west loses all its pods.
    let west = &web.scopes[1];
    let target = web_url(west);
    let ask = ["get", &target, "-n", "100", "--interval", "50"];
    let (asked, scaled) = tokio::join!(west.exec("client", &ask), west.scale("web", 0));
    scaled.unwrap();
    asked.and_then(Output::ok).unwrap();
    web.answered_by(&["east"]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn the_spelling_of_cilium_makes_a_service_global() {
    let [east, west] = scopes("spelling").await.unwrap();
    east.deployment("web", 1, &["http", "--port", "8080", "--name", "east"]).await.unwrap();
    for scope in [&east, &west] {
        let annotations = [("service.cilium.io/global", "true")];
        scope.service("web", &[("http", "TCP", 8080)], &annotations).await.unwrap();
    }
    west.pod("client", None, &["pause"]).await.unwrap();
    let by_cluster = eventually(LIMIT, || answers(&west, 10, PATIENCE)).await.unwrap();
    assert!(by_cluster.keys().eq(["east"]), "{by_cluster:?}");
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn a_service_stays_at_home_until_it_is_annotated() {
    let [east, west] = scopes("homely").await.unwrap();
    for scope in [&east, &west] {
        scope.deployment("web", 1, &["http", "--port", "8080", "--name", &scope.cluster.name]).await.unwrap();
        scope.service("web", &[("http", "TCP", 8080)], &[]).await.unwrap();
    }
    west.pod("client", None, &["pause"]).await.unwrap();
    let by_cluster = eventually(LIMIT, || answers(&west, 40, PATIENCE)).await.unwrap();
    assert!(by_cluster.keys().eq(["west"]), "{by_cluster:?}");
    // As `kubectl annotate` does it.
    let (key, value) = GLOBAL;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
    for scope in [&east, &west] {
        scope.api::<Service>().patch("web", &PatchParams::default(), &patch).await.unwrap();
    }
    eventually(LIMIT, || async {
        let by_cluster = answers(&west, 40, PATIENCE).await?;
        ensure!(by_cluster.keys().eq(["east", "west"]), "{by_cluster:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn udp_crosses_clusters() {
    let [east, west] = scopes("udp").await.unwrap();
    east.pod("echo", None, &["udp-echo", "--port", "9000"]).await.unwrap();
    east.service("echo", &[("echo", "UDP", 9000)], &[GLOBAL]).await.unwrap();
    let addresses = west.service("echo", &[("echo", "UDP", 9000)], &[GLOBAL]).await.unwrap();
    west.pod("client", None, &["pause"]).await.unwrap();
    let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 9000).to_string());
    for target in addresses.chain(["echo.udp.svc.cluster.local:9000".to_owned()]) {
        let out = eventually(LIMIT, || async {
            west.exec("client", &["udp-exchange", &target, "-n", "50"]).await.and_then(Output::ok)
        })
        .await
        .unwrap();
        assert!(out.contains("lost=0"), "{target}: {out}");
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn full_packets_cross_clusters_in_one_piece() {
    let [east, west] = scopes("full").await.unwrap();
    east.pod("answer", None, &["tcp-answer", "--port", "9"]).await.unwrap();
    west.pod("client", None, &["pause"]).await.unwrap();
    for address in east.pod_ips("answer").await.unwrap() {
        let target = SocketAddr::new(address, 9).to_string();
        let ask = async |bytes: &str| -> anyhow::Result<String> {
            west.exec("client", &["half-close", &target, "--bytes", bytes]).await?.ok()
        };
        eventually(LIMIT, || async { ask("1000").await }).await.unwrap();
        let before = fragments().unwrap();
        ask("5000000").await.unwrap();
        // What pods send has room for the tunnel's headers, whichever family the nodes talk.
        assert_eq!(fragments().unwrap() - before, 0, "{target}: packets of the tunnel are cut in pieces");
    }
}

/// Pieces that the nodes of both clusters have cut packets of IPv6 into.
fn fragments() -> anyhow::Result<u64> {
    let mut pieces = 0;
    for name in BOTH {
        let machines = machines(name)?;
        for node in machines.nodes() {
            let counters = machine::run(&machines, &node, &["cat", "/proc/net/snmp6"])?;
            let line = counters.lines().find_map(|line| line.strip_prefix("Ip6FragCreates"));
            pieces += line.context("no counter of fragments")?.trim().parse::<u64>()?;
        }
    }
    Ok(pieces)
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn policies_tell_clusters_apart() {
    let [east, west] = scopes("borders").await.unwrap();
    east.pod("web", None, &["http", "--port", "8080"]).await.unwrap();
    let urls = east.urls("web", 8080).await.unwrap();
    for scope in [&east, &west] {
        scope.pod("client", None, &["pause"]).await.unwrap();
        scope.pod("other", None, &["pause"]).await.unwrap();
    }
    allowed(&urls, &[(&east, "client"), (&west, "client"), (&west, "other")]).await.unwrap();
    // What may come in is judged where it comes in, on the node of the server.
    let guard = east.guard("web").await.unwrap();

    // The selector of a NetworkPolicy means pods of its own cluster.
    let from_client = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from_client}]});
    east.network_policy("local", spec).await.unwrap();
    east.allowed("client", &urls).await.unwrap();
    east.denied("other", &urls, &guard).await.unwrap();
    west.denied("client", &urls, &guard).await.unwrap();
    let drops = command::succeeds("east", &["bpf", "drops", "list"]).unwrap();
    assert!(drops.contains("policy-denied"), "{drops}");

    // One more admits the same pods of west, and only them.
    let from_west = json!([{"podSelector": {"matchLabels": {"app": "client"}}, "clusters": ["west"]}]);
    let web = json!({"matchLabels": {"app": "web"}});
    let ports = json!([{"protocol": "TCP", "port": 8080}]);
    let ingress = json!([{"from": from_west, "ports": ports}]);
    mesh_policy(&east, "west-too", json!({"podSelector": web, "ingress": ingress})).await.unwrap();
    allowed(&urls, &[(&east, "client"), (&west, "client")]).await.unwrap();
    west.denied("other", &urls, &guard).await.unwrap();
    accepted(&east, "west-too").await.unwrap();

    // Egress of west towards pods of east.
    let to_east = json!([{"to": [{"podSelector": {"matchLabels": {"app": "other"}}, "clusters": ["east"]}]}]);
    let client = json!({"matchLabels": {"app": "client"}});
    let spec = json!({"podSelector": client, "policyTypes": ["Egress"], "egress": to_east});
    mesh_policy(&west, "not-web", spec).await.unwrap();
    east.allowed("client", &urls).await.unwrap();
    west.denied("client", &urls, &west.guard("client").await.unwrap()).await.unwrap();
    west.api::<MeshNetworkPolicy>().delete("not-web", &DeleteParams::default()).await.unwrap();
    west.allowed("client", &urls).await.unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn what_a_policy_cannot_do_yet_is_closed_and_reported() {
    let east = Cluster::attach("east").await.unwrap().named_scope("unsupported").await.unwrap();
    east.pod("web", None, &["http", "--port", "8080"]).await.unwrap();
    let urls = east.urls("web", 8080).await.unwrap();
    east.pod("client", None, &["pause"]).await.unwrap();
    east.allowed("client", &urls).await.unwrap();
    let from = json!([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]);
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": from});
    east.network_policy("blocks", spec).await.unwrap();
    east.denied("client", &urls, &east.guard("web").await.unwrap()).await.unwrap();
    eventually(LIMIT, || async {
        let events = east.api::<Event>().list(&Default::default()).await?;
        let about = |e: &&Event| e.involved_object.name.as_deref() == Some("blocks");
        let note = events.iter().find(about).and_then(|e| e.message.clone()).unwrap_or_default();
        ensure!(note.contains("ipBlock"), "no event says it: {note:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Namespaces of the same name in east and west.
async fn scopes(name: &str) -> anyhow::Result<[Scope; 2]> {
    let [east, west] = BOTH;
    Ok([
        Cluster::attach(east).await?.named_scope(name).await?,
        Cluster::attach(west).await?.named_scope(name).await?,
    ])
}

/// Waits until each of these pods is answered.
async fn allowed(urls: &[String], clients: &[(&Scope, &str)]) -> anyhow::Result<()> {
    for (scope, client) in clients {
        scope.allowed(client, urls).await?;
    }
    Ok(())
}

async fn mesh_policy(scope: &Scope, name: &str, spec: Value) -> anyhow::Result<()> {
    let policy = MeshNetworkPolicy::new(name, serde_json::from_value(spec)?);
    scope.api::<MeshNetworkPolicy>().create(&PostParams::default(), &policy).await?;
    Ok(())
}

/// Waits until every part of a policy is said to be in force.
async fn accepted(scope: &Scope, name: &str) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        let status = scope.api::<MeshNetworkPolicy>().get(name).await?.status.unwrap_or_default();
        let found = status.conditions.iter().find(|c| c.type_ == "Accepted");
        ensure!(found.is_some_and(|c| c.status == "True"), "{name}: {found:?}");
        Ok(())
    })
    .await
}
