//! Two replicas against a real API server: definitions, records, conditions, identities and fail-over.
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

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use api_server::{ApiServer, free_ports};
use installation::{NAMESPACE, create, daemon_token, install};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tombolo_api::{MeshIdentity, MeshNetworkPolicy, MeshPeer, annotation};
use tombolo_clustermesh::{
    authority::Keeper,
    config::{Config, Flags},
    control::{Request, Response, ask},
    member_store::{STATE, SecretStore},
    run::run,
    status::{Shared, Status},
    token_review::{TokenError, node_of},
};
use tombolo_mesh_core::{
    replication::{Change, Limits},
    wire::{EndpointFact, NodeFacts},
};
use tombolo_mesh_net::{
    enroll::enroll,
    node::{NodeClient, NodeClientConfig},
    session::{Backoff, Local},
    storage::{ObjectStore, StorageError},
    tls::{CertificateAuthority, Credentials, TrustStore},
    transport::{Dialer, Stats},
};
use tombolo_model::{Address, Record, RecordKey, TunnelKey};

struct Replica {
    status: Shared,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    config: Config,
}

impl Replica {
    fn start(client: Client, dir: &Path, name: &str) -> Self {
        let [metrics, listen] = free_ports();
        let flags = Flags {
            cluster_name: Some("east".to_owned()),
            cluster_id: Some(7),
            pod_name: Some(name.to_owned()),
            node_name: Some("n1".to_owned()),
            node_ip: Some("127.0.0.1".to_owned()),
            listen: Some(format!("127.0.0.1:{listen}")),
            metrics: Some(format!("127.0.0.1:{metrics}")),
            socket: Some(dir.join(format!("{name}.sock"))),
            ..Flags::default()
        };
        let config = Config::load(None, &flags).unwrap();
        let status = Shared::new(config.cluster_name.clone(), config.cluster_id, name.to_owned());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(client, config.clone(), status.clone(), shutdown.clone()));
        Self { status, shutdown, task, config }
    }

    async fn until(&self, what: &str, holds: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.status.subscribe();
        let wait = timeout(Duration::from_secs(20), status.wait_for(holds)).await;
        let seen = self.status.get();
        wait.unwrap_or_else(|_| panic!("{what}: still {seen:?}")).unwrap().clone()
    }
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = look().await {
            return found;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} does not come about")
}

async fn populate(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    create(
        &nodes,
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}),
    )
    .await;
    for name in ["web-0", "web-1", "db-0"] {
        create(&Api::<Pod>::namespaced(client.clone(), "shop"), pod(name)).await;
    }
    let services: Api<Service> = Api::namespaced(client.clone(), "shop");
    create(&services, json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})).await;
}

fn pod(name: &str) -> Value {
    let app = name.split('-').next();
    json!({
        "metadata": {"name": name, "labels": {"app": app, "pod-template-hash": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    })
}

/// The prose of this test is its steps; each one builds on the state that the one before left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root; 45 s"]
async fn two_replicas() {
    let server = ApiServer::start().await;
    let client = server.client();
    let dir = tempfile::tempdir().unwrap();
    install(&client).await;
    populate(&client).await;

    // Replicas have the rights of the daemon's service account and no others.
    let daemon = server.client_of(&daemon_token(&client).await);
    let first = Replica::start(daemon.clone(), dir.path(), "first");
    let status = first.until("the first leads", |s| s.complete).await;
    let second = Replica::start(daemon.clone(), dir.path(), "second");
    // The API server's own: Service kubernetes.
    assert_eq!((status.records["nodes"], status.records["endpoints"], status.records["services"]), (1, 3, 2));
    assert_eq!(status.records["identities"], 2, "web and db; the hash of the template does not count");

    identities_and_policies(&client, &first).await;
    validation(&client).await;
    authority_is_made_once(&client).await;
    authority_comes_from_a_secret(&client).await;
    membership_is_fenced(&client).await;
    let token = tokens_are_reviewed(&client).await;
    a_node_is_told_and_tells(&client, &first, &token).await;

    let Response::Status(told) = ask(&first.config.socket, &Request::Status).await.unwrap() else { panic!() };
    assert!(told.leader && told.pod == "first");
    assert!(!second.status.get().leader);
    fail_over(&client, first, second, || Replica::start(daemon, dir.path(), "third")).await;
}

async fn identities_and_policies(client: &Client, leader: &Replica) {
    let identities: Api<MeshIdentity> = Api::all(client.clone());
    let all = identities.list(&Default::default()).await.unwrap().items;
    let numbers: Vec<_> = all.iter().map(|i| i.metadata.name.clone().unwrap()).collect();
    assert_eq!(numbers, [(7u32 << 20 | 256).to_string(), (7u32 << 20 | 257).to_string()]);

    // Deleted behind the daemon's back while in use: it comes back with its number.
    identities.delete(&numbers[0], &DeleteParams::default()).await.unwrap();
    eventually("the identity", async || identities.get_opt(&numbers[0]).await.unwrap()).await;

    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    create(&pods, pod("cache-0")).await;
    leader.until("the new pod", |s| s.records["endpoints"] == 4 && s.records["identities"] == 3).await;

    let mesh: Api<MeshNetworkPolicy> = Api::namespaced(client.clone(), "shop");
    let peer = json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}});
    create(&mesh, json!({"apiVersion": "tombolo.io/v1alpha1", "kind": "MeshNetworkPolicy", "metadata": {"name": "bad"}, "spec": {"ingress": [{"from": [peer]}]}})).await;
    let accepted = eventually("the condition", async || {
        mesh.get("bad").await.unwrap().status?.conditions.into_iter().next()
    })
    .await;
    assert_eq!((accepted.type_.as_str(), accepted.status.as_str()), ("Accepted", "False"));
    assert!(
        accepted.message.contains("ingress[0].from[0].podSelector: operator \"Like\""),
        "{}",
        accepted.message
    );

    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "shop");
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    create(
        &policies,
        json!({"metadata": {"name": "block"}, "spec": {"podSelector": {}, "ingress": [{"from": [block]}]}}),
    )
    .await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), "shop");
    let note = eventually("the event", async || {
        events.list(&Default::default()).await.unwrap().items.into_iter().find_map(|e| e.note)
    })
    .await;
    assert!(note.contains("ipBlock is not supported yet"), "{note}");
    leader.until("the policies", |s| s.records["policies"] == 2).await;
}

/// What is wrong in itself is refused by the API server.
async fn validation(client: &Client) {
    let mesh: Api<MeshNetworkPolicy> = Api::namespaced(client.clone(), "shop");
    let cases = [
        (json!({"ingress": [{"from": [{}]}]}), "at least one of podSelector"),
        (json!({"ingress": [{"from": [{"clusters": ["*", "west"]}]}]}), "only entry of clusters"),
        (json!({"ingress": [{"from": [{"clusters": ["West"]}]}]}), "should match"),
        (json!({"ingress": [{"ports": [{"port": 9, "endPort": 8}]}]}), "must not be below it"),
        (json!({"ingress": [{"ports": [{"port": 70000}]}]}), "65535"),
        (json!({"policyTypes": []}), "policyTypes"),
        (json!({"policyTypes": ["Sideways"]}), "Sideways"),
    ];
    for (spec, expected) in cases {
        let object = json!({"apiVersion": "tombolo.io/v1alpha1", "kind": "MeshNetworkPolicy", "metadata": {"name": "x"}, "spec": spec});
        let body = serde_json::to_vec(&object).unwrap();
        let request = kube::core::Request::new(mesh.resource_url());
        let request = request.create(&PostParams::default(), body).unwrap();
        let error = client.request::<Value>(request).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{spec}: {error}");
    }
    let identities: Api<MeshIdentity> = Api::all(client.clone());
    let named = MeshIdentity::new("west", tombolo_api::MeshIdentitySpec { labels: Default::default() });
    let error = identities.create(&PostParams::default(), &named).await.unwrap_err().to_string();
    assert!(error.contains("the number of the identity"), "{error}");
    let peers: Api<MeshPeer> = Api::namespaced(client.clone(), NAMESPACE);
    let peer = json!({"apiVersion": "tombolo.io/v1alpha1", "kind": "MeshPeer", "metadata": {"name": "mesh"}, "spec": {"secretRef": {"name": "t"}}});
    assert_eq!(create(&peers, peer).await.spec.secret_ref.key, "token");
}

async fn authority_is_made_once(client: &Client) {
    let secret: Secret = Api::namespaced(client.clone(), NAMESPACE).get("tombolo-ca").await.unwrap();
    let map: ConfigMap = Api::namespaced(client.clone(), NAMESPACE).get("tombolo-ca").await.unwrap();
    assert_eq!(secret.data.unwrap()["ca.crt"].0, map.data.unwrap()["ca.crt"].as_bytes());
    let name = "east".parse().unwrap();
    let again = |client: Client| async move {
        Keeper::new(&client, "shop", "east".parse().unwrap(), None).ensure().await.unwrap().key_pem()
    };
    let keys = futures::future::join_all((0..8).map(|_| again(client.clone()))).await;
    assert!(keys.iter().all(|key| *key == keys[0]), "those who ask at the same time get one authority");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    maps.delete("tombolo-ca", &DeleteParams::default()).await.unwrap();
    let restored = futures::future::join_all((0..8).map(|_| again(client.clone()))).await;
    assert_eq!(restored, keys, "and none minds that another one has just published it");
    let other = Keeper::new(client, NAMESPACE, name, None).ensure().await.unwrap();
    assert_ne!(other.key_pem(), keys[0]);
}

/// Somebody else, like cert-manager, keeps the authority.
async fn authority_comes_from_a_secret(client: &Client) {
    let name = "east".parse().unwrap();
    let keeper = |source: &str| Keeper::new(client, "kept", "east".parse().unwrap(), Some(source.to_owned()));
    create(&Api::<Namespace>::all(client.clone()), json!({"metadata": {"name": "kept"}})).await;
    let error = keeper("ca-pair").ensure().await.unwrap_err().to_string();
    assert!(error.contains("Secret ca-pair (caSecret) cannot be used: it does not exist"), "{error}");
    let hour = std::time::Duration::from_secs(3600);
    let theirs = CertificateAuthority::generate(&name, std::time::SystemTime::now(), hour).unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kept");
    let pair = json!({"tls.crt": theirs.bundle_pem(), "tls.key": theirs.key_pem()});
    create(&secrets, json!({"metadata": {"name": "ca-pair"}, "stringData": pair})).await;
    assert_eq!(keeper("ca-pair").ensure().await.unwrap().pin().unwrap(), theirs.pin().unwrap());
    let broken = json!({"tls.crt": theirs.bundle_pem(), "tls.key": "none"});
    create(&secrets, json!({"metadata": {"name": "broken"}, "stringData": broken})).await;
    secrets.delete("tombolo-ca", &DeleteParams::default()).await.unwrap();
    let error = keeper("broken").ensure().await.unwrap_err().to_string();
    assert!(error.contains("tls.key, its key in PEM (PKCS #8)"), "{error}");
}

async fn membership_is_fenced(client: &Client) {
    // In a namespace where no replica runs.
    let store = || SecretStore::new(client.clone(), "shop", STATE);
    let (mut old, mut new) = (store(), store());
    assert!(old.load().await.unwrap().is_none());
    let first = old.save(b"1", None).await.unwrap();
    assert!(matches!(new.save(b"x", None).await, Err(StorageError::Deposed)));
    let (bytes, version) = new.load().await.unwrap().unwrap();
    assert_eq!((bytes.as_slice(), &version), (&b"1"[..], &first));
    let second = new.save(b"2", Some(&version)).await.unwrap();
    assert!(matches!(old.save(b"3", Some(&first)).await, Err(StorageError::Deposed)));
    assert_eq!(store().load().await.unwrap().unwrap(), (b"2".to_vec(), second));
}

/// Gives the token of the agent on n1.
async fn tokens_are_reviewed(client: &Client) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    create(&accounts, json!({"metadata": {"name": "tombolo-node"}})).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut agent = pod("agent-0");
    agent["spec"]["serviceAccountName"] = json!("tombolo-node");
    agent["spec"]["hostNetwork"] = json!(true);
    let uid = create(&pods, agent).await.metadata.uid.unwrap();
    let token = async |audience: &str, bound: bool| {
        let mut spec = json!({"audiences": [audience]});
        if bound {
            spec["boundObjectRef"] =
                json!({"kind": "Pod", "apiVersion": "v1", "name": "agent-0", "uid": uid});
        }
        let request: TokenRequest = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let made =
            accounts.create_token_request("tombolo-node", &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token.unwrap()
    };
    assert_eq!(node_of(client, NAMESPACE, &token("tombolo", true).await).await.unwrap(), "n1");
    let unbound = node_of(client, NAMESPACE, &token("tombolo", false).await).await;
    assert!(matches!(unbound, Err(TokenError::Unbound)), "{unbound:?}");
    let audience = node_of(client, NAMESPACE, &token("https://kubernetes.default.svc", true).await).await;
    assert!(matches!(audience, Err(TokenError::Invalid(_))), "{audience:?}");
    let forged = node_of(client, NAMESPACE, "forged").await;
    assert!(matches!(forged, Err(TokenError::Invalid(_))), "{forged:?}");
    token("tombolo", true).await
}

async fn a_node_is_told_and_tells(client: &Client, leader: &Replica, token: &str) {
    let cluster = leader.config.cluster_name.clone();
    let map: ConfigMap = Api::namespaced(client.clone(), NAMESPACE).get("tombolo-ca").await.unwrap();
    let (trust, credentials, stats) = (TrustStore::new(), Credentials::none(), Arc::<Stats>::default());
    trust.set_pem(&cluster, &map.data.unwrap()["ca.crt"]).unwrap();
    let dialer = Dialer::bind("127.0.0.1:0".parse().unwrap(), credentials.clone(), trust).unwrap();
    let server = leader.config.listen;
    assert!(enroll(&dialer, server, &cluster, "forged", &stats).await.is_err());
    enroll(&dialer, server, &cluster, token, &stats).await.unwrap().install(&credentials).unwrap();

    let pod = Api::<Pod>::namespaced(client.clone(), "shop").get("web-0").await.unwrap();
    let address: Address = "10.1.0.5".parse().unwrap();
    let fact = EndpointFact {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: pod.metadata.uid.unwrap(),
        addresses: vec![address],
    };
    let tunnel = TunnelKey { public_key: [7; 32], port: 51871 };
    let (_facts, facts) =
        watch::channel(NodeFacts { tunnel: Some(tunnel), endpoints: vec![fact], ..NodeFacts::default() });
    let config = NodeClientConfig {
        local: Local { cluster, cluster_id: leader.config.cluster_id, software: "test".to_owned() },
        dialer,
        servers: watch::channel(vec![server]).1,
        facts,
        limits: Limits::default(),
        backoff: Backoff::default(),
    };
    let (sender, mut deltas) = mpsc::channel(16);
    let session = tokio::spawn(NodeClient::new(config, sender, stats).run());
    let mut records = BTreeMap::new();
    let told = |records: &BTreeMap<RecordKey, Arc<Record>>| {
        let node = records.values().any(|r| matches!(&**r, Record::Node(n) if n.tunnel == Some(tunnel)));
        let pod = records.values().any(|r| matches!(&**r, Record::Endpoint(e) if e.addresses == [address]));
        node && pod && records.keys().any(|key| matches!(key, RecordKey::Policy(_)))
    };
    while !told(&records) {
        let delta = timeout(Duration::from_secs(20), deltas.recv()).await.unwrap().unwrap();
        for change in delta.changes {
            match change {
                Change::Upsert(record) => drop(records.insert(record.key(), record)),
                Change::Remove(key) => drop(records.remove(&key)),
            }
        }
    }
    leader.until("the session", |s| s.sessions.contains("n1")).await;
    session.abort();
    leader.until("the end of the session", |s| s.sessions.is_empty()).await;
}

async fn fail_over(client: &Client, first: Replica, second: Replica, third: impl FnOnce() -> Replica) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let before: Vec<_> = identity_names(client).await;

    // Killed without a word: the second waits for the lease to expire.
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    let silent = Instant::now();
    let status = second.until("the second leads", |s| s.complete).await;
    assert!(silent.elapsed() > Duration::from_secs(3), "took over after {:?}", silent.elapsed());
    assert_eq!(status.records["endpoints"], 4);
    assert_eq!(identity_names(client).await, before, "numbers are taken over, not given anew");
    let lease = leases.get("tombolo-clustermesh").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("second"));
    let address = &lease.metadata.annotations.unwrap()[annotation::ADDRESS];
    assert_eq!(*address, format!("127.0.0.1:{}", second.config.listen.port()));

    // Ended by SIGTERM: the lease is free at once.
    let third = third();
    sleep(Duration::from_millis(500)).await;
    let released = Instant::now();
    second.shutdown.cancel();
    second.task.await.unwrap().unwrap();
    third.until("the third leads", |s| s.leader).await;
    assert!(released.elapsed() < Duration::from_secs(3), "took over after {:?}", released.elapsed());

    // Taken by another: the leader stops, and leads again only after the other is silent.
    let mut lease = leases.get("tombolo-clustermesh").await.unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("intruder".to_owned());
    let taken = Instant::now();
    leases.replace("tombolo-clustermesh", &PostParams::default(), &lease).await.unwrap();
    third.until("the third stops", |s| !s.leader).await;
    third.until("the third leads again", |s| s.leader).await;
    assert!(taken.elapsed() > Duration::from_secs(4), "leads again after {:?}", taken.elapsed());
    third.shutdown.cancel();
    third.task.await.unwrap().unwrap();
}

async fn identity_names(client: &Client) -> Vec<String> {
    let all = Api::<MeshIdentity>::all(client.clone()).list(&Default::default()).await.unwrap();
    all.items.into_iter().filter_map(|identity| identity.metadata.name).collect()
}
