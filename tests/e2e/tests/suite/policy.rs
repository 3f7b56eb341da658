//! Network policies of one cluster, by packets.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DeleteParams;
use serde_json::json;
use tombolo_e2e::Cluster;

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn ingress_by_pod_label_and_port_on_both_nodes() {
    let cluster = Cluster::attach("east").await.unwrap();
    let nodes = cluster.nodes().await.unwrap();
    let scope = cluster.scope("ingress").await.unwrap();
    let args = ["http", "--port", "8080", "--name", "web"];
    scope.pod("web", Some(&nodes[0]), &args).await.unwrap();
    scope.pod("good", Some(&nodes[1]), &["pause"]).await.unwrap();
    scope.pod("bad", Some(&nodes[1]), &["pause"]).await.unwrap();
    scope.pod("near", Some(&nodes[0]), &["pause"]).await.unwrap();
    let urls = scope.urls("web", 8080).await.unwrap();
    for client in ["good", "bad", "near"] {
        scope.allowed(client, &urls).await.unwrap();
    }

    let web = json!({"matchLabels": {"app": "web"}});
    scope.network_policy("deny", json!({"podSelector": web, "policyTypes": ["Ingress"]})).await.unwrap();
    // What may come into a pod is judged on its node.
    let guard = scope.guard("web").await.unwrap();
    for client in ["good", "bad", "near"] {
        scope.denied(client, &urls, &guard).await.unwrap();
    }
    let good = json!([{"podSelector": {"matchLabels": {"app": "good"}}}]);
    let port = |port: u16| json!([{"protocol": "TCP", "port": port}]);
    let rule = json!({"from": good, "ports": port(8080)});
    scope.network_policy("allow", json!({"podSelector": web, "ingress": [rule]})).await.unwrap();
    scope.allowed("good", &urls).await.unwrap();
    scope.denied("bad", &urls, &guard).await.unwrap();
    scope.denied("near", &urls, &guard).await.unwrap();
    // The kubelet of the node still probes it.
    scope.ready("web").await.unwrap();

    scope.api::<NetworkPolicy>().delete("allow", &DeleteParams::default()).await.unwrap();
    scope.denied("good", &urls, &guard).await.unwrap();
    scope.api::<NetworkPolicy>().delete("deny", &DeleteParams::default()).await.unwrap();
    scope.allowed("bad", &urls).await.unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters, also ipv6; 40 s"]
async fn egress_by_namespace() {
    let cluster = Cluster::attach("east").await.unwrap();
    let (home, other) = (cluster.scope("egress").await.unwrap(), cluster.scope("target").await.unwrap());
    let args = ["http", "--port", "8080", "--name", "web"];
    home.pod("web", None, &args).await.unwrap();
    other.pod("web", None, &args).await.unwrap();
    home.pod("client", None, &["pause"]).await.unwrap();
    let (inside, outside) = (home.urls("web", 8080).await.unwrap(), other.urls("web", 8080).await.unwrap());
    home.allowed("client", &inside).await.unwrap();
    home.allowed("client", &outside).await.unwrap();

    let to = json!([{"to": [{"namespaceSelector": {"matchLabels": {"team": other.namespace}}}]}]);
    let client = json!({"matchLabels": {"app": "client"}});
    home.network_policy("away", json!({"podSelector": client, "policyTypes": ["Egress"], "egress": to}))
        .await
        .unwrap();
    // What may leave a pod is judged on its own node.
    home.denied("client", &inside, &home.guard("client").await.unwrap()).await.unwrap();
    home.allowed("client", &outside).await.unwrap();
}
