//! Two clusters with an API server each: a MeshPeer joins them, a fail-over keeps them joined, one leaves.
//!
//! Needs etcd and kube-apiserver in the directory that KUBEBUILDER_ASSETS names.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is wrong"
)]

#[path = "cluster/api_server.rs"]
mod api_server;
#[path = "cluster/installation.rs"]
mod installation;

use std::{path::Path, time::Duration};

use api_server::{ApiServer, free_ports};
use installation::{NAMESPACE, create, daemon_token, install};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, Client, api::DeleteParams};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tombolo_api::MeshPeer;
use tombolo_clustermesh::{
    config::{Config, Flags},
    control::{Request, Response, ask},
    run::run,
    status::Shared,
};
use tombolo_model::MeshStatus;

struct Cluster {
    server: ApiServer,
    client: Client,
    daemon: Client,
    name: &'static str,
    id: u16,
    /// Where each of the two replicas listens.
    ports: [u16; 2],
}

struct Replica {
    config: Config,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Cluster {
    async fn start(name: &'static str, id: u16) -> Self {
        let server = ApiServer::start().await;
        let client = server.client();
        install(&client).await;
        let prefix = format!("10.{id}.0.0/24");
        let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": prefix, "podCIDRs": [prefix]}});
        create(&Api::<Node>::all(client.clone()), node).await;
        let pod = json!({
            "metadata": {"name": format!("web-{name}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        });
        create(&Api::<Pod>::namespaced(client.clone(), "shop"), pod).await;
        let daemon = server.client_of(&daemon_token(&client).await);
        Self { client, daemon, server, name, id, ports: free_ports() }
    }

    fn replica(&self, dir: &Path, n: usize) -> Replica {
        let [metrics] = free_ports();
        let pod = format!("{}-{n}", self.name);
        let advertise = self.ports.map(|port| format!("127.0.0.1:{port}")).to_vec();
        let flags = Flags {
            cluster_name: Some(self.name.to_owned()),
            cluster_id: Some(self.id),
            node_name: Some("n1".to_owned()),
            node_ip: Some("127.0.0.1".to_owned()),
            listen: Some(format!("127.0.0.1:{}", self.ports[n])),
            advertise: Some(advertise),
            metrics: Some(format!("127.0.0.1:{metrics}")),
            socket: Some(dir.join(format!("{pod}.sock"))),
            pod_name: Some(pod.clone()),
            ..Flags::default()
        };
        let config = Config::load(None, &flags).unwrap();
        let status = Shared::new(config.cluster_name.clone(), config.cluster_id, pod);
        let task = tokio::spawn(run(self.daemon.clone(), config.clone(), status, CancellationToken::new()));
        Replica { config, task }
    }

    async fn wish(&self, token: &str) {
        let secret = json!({"metadata": {"name": "tombolo-peer"}, "stringData": {"token": token}});
        create(&Api::<Secret>::namespaced(self.client.clone(), NAMESPACE), secret).await;
        let peer = json!({
            "apiVersion": "tombolo.io/v1alpha1", "kind": "MeshPeer", "metadata": {"name": "mesh"},
            "spec": {"secretRef": {"name": "tombolo-peer"}},
        });
        create(&Api::<MeshPeer>::namespaced(self.client.clone(), NAMESPACE), peer).await;
    }

    async fn forget(&self) {
        let delete = DeleteParams::default();
        Api::<MeshPeer>::namespaced(self.client.clone(), NAMESPACE).delete("mesh", &delete).await.unwrap();
        Api::<Secret>::namespaced(self.client.clone(), NAMESPACE)
            .delete("tombolo-peer", &delete)
            .await
            .unwrap();
    }

    async fn decided(&self) -> Condition {
        let peers: Api<MeshPeer> = Api::namespaced(self.client.clone(), NAMESPACE);
        for _ in 0..200 {
            let conditions =
                peers.get("mesh").await.unwrap().status.map(|s| s.conditions).unwrap_or_default();
            if let Some(joined) =
                conditions.into_iter().find(|c| c.type_ == "Joined" && c.status != "Unknown")
            {
                return joined;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("nothing is decided")
    }
}

impl Replica {
    async fn ask(&self, request: Request) -> Result<Response, String> {
        match timeout(Duration::from_secs(30), ask(&self.config.socket, &request)).await {
            Ok(Ok(Response::Error(why))) => Err(why),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    async fn text(&self, request: Request) -> Result<String, String> {
        match self.ask(request).await? {
            Response::Text(text) => Ok(text),
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&MeshStatus) -> bool) {
        let mut seen = None;
        for _ in 0..300 {
            seen = Some(self.ask(Request::Mesh).await);
            if let Some(Ok(Response::Mesh(status))) = &seen
                && holds(status)
            {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{what}: still {seen:?}")
    }
}

fn together(status: &MeshStatus) -> bool {
    let well = |m: &tombolo_model::MemberStatus| {
        m.connected && m.synced && m.state == "active" && m.counts.get("endpoints") == Some(&1)
    };
    status.members.len() == 2 && status.members.iter().all(well) && status.problems.is_empty()
}

/// The pins of west's authorities.
fn pins(status: &MeshStatus) -> Vec<String> {
    status.members.iter().find(|m| m.name.as_str() == "west").map(|m| m.ca_pins.clone()).unwrap_or_default()
}

/// West's authority is replaced by command, east's view follows, and nobody loses the other one.
async fn authorities_change(west: &Cluster, at_west: &Replica, at_east: &Replica) {
    let mut before = None;
    at_east.until("an authority", |s| before.insert(pins(s)).len() == 1).await;
    let before = before.unwrap();
    let said = at_west.text(Request::RotateAuthority).await.unwrap();
    assert!(said.starts_with("a new certificate authority is made"), "{said}");
    let again = at_west.text(Request::RotateAuthority).await.unwrap_err();
    assert!(again.contains("is taking over already"), "{again}");
    at_west.until("the end", |s| s.rotation.is_none() && pins(s).len() == 1 && pins(s) != before).await;
    at_east.until("the end", |s| pins(s).len() == 1 && pins(s) != before && together(s)).await;
    let map: ConfigMap = Api::namespaced(west.client.clone(), NAMESPACE).get("tombolo-ca").await.unwrap();
    let secret: Secret = Api::namespaced(west.client.clone(), NAMESPACE).get("tombolo-ca").await.unwrap();
    let (published, kept) = (map.data.unwrap()["ca.crt"].clone(), secret.data.unwrap());
    assert_eq!(published.trim().as_bytes(), kept["ca.crt"].0.trim_ascii());
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["ca.crt", "ca.key"], "nothing of the old one is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root; 60 s"]
async fn a_mesh_peer_joins_two_clusters() {
    let (east, west) = tokio::join!(Cluster::start("east", 1), Cluster::start("west", 2));
    let dir = tempfile::tempdir().unwrap();
    let at_east = east.replica(dir.path(), 0);
    let at_west = west.replica(dir.path(), 0);
    at_east
        .until("a mesh of its own", |s| s.members.len() == 1 && s.members[0].pod_prefixes.len() == 1)
        .await;
    at_west
        .until("a mesh of its own", |s| s.members.len() == 1 && s.members[0].pod_prefixes.len() == 1)
        .await;

    west.wish("tombolo1.cut").await;
    let refused = west.decided().await;
    assert_eq!((refused.status.as_str(), refused.reason.as_str()), ("False", "Refused"));
    assert!(refused.message.contains("the token is cut short"), "{}", refused.message);
    west.forget().await;

    let token = at_east.text(Request::CreateToken { ttl: "10m".to_owned() }).await.unwrap();
    let checked = at_west.text(Request::CheckToken { token: token.clone() }).await.unwrap();
    assert!(checked.contains("cluster east would let this cluster"), "{checked}");
    west.wish(&token).await;
    let joined = west.decided().await;
    assert_eq!(joined.status, "True", "{}", joined.message);
    assert!(joined.message.starts_with("joined mesh ") && joined.message.ends_with(" with east"));
    at_east.until("together", together).await;
    at_west.until("together", together).await;

    // West's leader is killed; its second replica finds the mesh in the Secret, and east finds the replica.
    let standby = west.replica(dir.path(), 1);
    sleep(Duration::from_millis(500)).await;
    let why = standby.text(Request::CreateToken { ttl: "1h".to_owned() }).await.unwrap_err();
    assert!(why.contains("does not lead"), "{why}");
    at_west.task.abort();
    assert!(at_west.task.await.unwrap_err().is_cancelled());
    standby.until("together again", together).await;
    at_east.until("together again", together).await;

    authorities_change(&west, &standby, &at_east).await;

    let said = standby.text(Request::Leave { cluster: None }).await.unwrap();
    assert_eq!(said, "cluster west has left the mesh of east");
    standby.until("alone", |s| s.members.len() == 1).await;
    at_east.until("alone", |s| s.members.len() == 1 && s.leader.is_some()).await;
    standby.task.abort();
    at_east.task.abort();
    drop((east.server, west.server));
}
