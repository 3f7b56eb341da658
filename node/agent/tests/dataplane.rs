//! The CNI manager, the reconciler and the real BPF programs together: pods that talk, are refused, and go on talking
//! without an agent. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it did not expect")]

use std::{
    collections::BTreeSet,
    future::Future,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
    unistd::{getpid, gettid},
};
use tombolo_abi::{FlowFlags, NatPorts, NatTimeouts, SnatValue, forward_key, reverse_key, v4_mapped};
use tombolo_cni::protocol::{Attachment, Pod, Request, Response};
use tombolo_fixture::describe_as_another_layout;
use tombolo_loader::{Datapath as Loaded, Table};
use tombolo_model::{
    Backend, BackendState, ClusterId, EndpointRecord, Identity, IdentityRecord, Labels, Policy, PolicyKey,
    PolicyKind, Protocol, Record, Requirement, Selector, ServicePort, ServiceRecord, label,
};
use tombolo_node::{
    cni::{Manager, ManagerConfig},
    dataplane::{Dataplane, NodeFacts},
    engine::Engine,
    intent::Intent,
    nat::Nat,
    netlink::{self, Netlink},
    store::Store,
    targets::map,
    underlay,
};
use tombolo_node_core::{
    policy::SelectorBits,
    state::{Change, OwnNode, State},
};

const NODE: &str = "192.0.2.1";

/// A node with a BPF filesystem; all of it vanishes with the test.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bpf = dir.path().join("bpf");
        std::fs::create_dir(&bpf).unwrap();
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF filesystem");
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name eth0-peer",
            "address add 192.0.2.1/24 dev eth0",
            "link set eth0 up",
            "link set eth0-peer up",
            "route add default via 192.0.2.254",
        ] {
            let output = Command::new("ip").args(command.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {command}");
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(test(dir.path().to_owned()));
        drop(runtime);
        let _ = nix::mount::umount2(&bpf, nix::mount::MntFlags::MNT_DETACH);
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

struct Agent {
    intent: Arc<Intent>,
    engine: Engine,
    dataplane: Arc<Dataplane>,
    manager: Manager,
}

/// The agent without API server, daemon and tunnel: what those would tell is told by the test.
async fn agent(dir: &std::path::Path, records: &[Record]) -> Agent {
    let own = OwnNode {
        cluster: cluster(),
        name: "node".into(),
        addresses: vec![NODE.parse().unwrap(), "169.254.1.1".parse().unwrap()],
    };
    let endpoints = Store::new(dir).load().unwrap();
    let intent = Arc::new(Intent::new(State::new(own, endpoints, SelectorBits::default())));
    intent.write(|state| {
        state.begin_sync();
        records.iter().for_each(|record| state.apply(Change::Upsert(record.clone())));
        state.complete_sync();
        state.refresh();
    });
    let netlink = Netlink::new().unwrap();
    let loaded = Loaded::load(&dir.join("bpf/tombolo")).unwrap();
    let lanes = map::lanes(&loaded.maps()).unwrap();
    let maps = loaded.maps();
    let advance_epoch = Box::new(move || maps.advance_policy_epoch());
    let engine = Engine::start(Arc::clone(&intent), lanes, Box::new(|_| Ok(())), advance_epoch).unwrap();
    let dataplane = Arc::new(Dataplane::new(loaded, engine.clone()));
    let addresses = [NODE.parse().unwrap()];
    let underlay = underlay::find(&netlink, &[], "tombolo-wg0", &addresses).await.unwrap();
    let nat = Nat::new(true, NatPorts::DEFAULT, NatTimeouts::DEFAULT);
    let facts = NodeFacts { addresses: &addresses, nat: &nat, connection_limit: 0, tunnel: None };
    dataplane.begin_handover().unwrap();
    dataplane.refresh(&underlay, &facts).unwrap();
    let config = ManagerConfig {
        runtime_dir: dir.to_owned(),
        del_queue: dir.join("queue"),
        prefixes: vec!["10.99.0.0/24".parse().unwrap()],
        host_addresses: addresses.to_vec(),
        mtu: 1500,
        route_mtu: 1420,
        identity_wait: Duration::from_millis(200),
    };
    let manager = Manager::new(config, netlink, Arc::clone(&intent), dataplane.clone()).unwrap();
    assert_eq!(manager.adopt().await.unwrap(), 0);
    dataplane.open_connections().await.unwrap();
    dataplane.end_handover().unwrap();
    Agent { intent, engine, dataplane, manager }
}

fn cluster() -> ClusterId {
    ClusterId::try_from(1).unwrap()
}

fn identity(app: &str) -> Identity {
    Identity::new(cluster(), 256 + u32::from(app.as_bytes()[0])).unwrap()
}

/// A pod with label `app`, and the identity for it.
fn pod_records(app: &str) -> [Record; 2] {
    let labels: Labels = [
        (label::pod("app"), app.to_owned()),
        (label::NAMESPACE.to_owned(), "default".to_owned()),
        (label::CLUSTER.to_owned(), "east".to_owned()),
    ]
    .into_iter()
    .collect();
    [
        Record::Identity(IdentityRecord { id: identity(app), labels }),
        Record::Endpoint(EndpointRecord {
            cluster: cluster(),
            namespace: "default".into(),
            name: app.into(),
            uid: format!("uid-{app}"),
            node: "node".into(),
            addresses: Vec::new(),
            identity: identity(app),
        }),
    ]
}

/// Nobody but pods of `from` may talk to pods of `to`.
fn policy(to: &str, from: &str) -> Record {
    let select = |app: &str| -> Selector {
        [Requirement::equals(label::NAMESPACE, "default"), Requirement::equals(label::pod("app"), app)]
            .into_iter()
            .collect()
    };
    let peers = tombolo_model::Peers::Of(vec![tombolo_model::Peer::Pods(select(from))]);
    Record::Policy(Policy {
        key: PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: "default".into(), name: "p".into() },
        subject: select(to),
        ingress: Some(vec![tombolo_model::Rule { peers, ports: Vec::new() }]),
        egress: None,
    })
}

fn service(address: &str, backend: &str) -> Record {
    let backend = Backend {
        address: backend.parse().unwrap(),
        port: 80,
        cluster: cluster(),
        node: "node".into(),
        zone: String::new(),
        state: BackendState::Ready,
    };
    Record::Service(ServiceRecord {
        cluster: cluster(),
        namespace: "default".into(),
        name: "web".into(),
        frontends: vec![address.parse().unwrap()],
        global: false,
        shared: false,
        affinity: tombolo_model::Affinity::None,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
            backends: vec![backend],
        }],
    })
}

type Work = Box<dyn FnOnce() + Send>;

/// A pod's namespace, held by a thread.
struct PodNetns {
    path: PathBuf,
    work: mpsc::Sender<Work>,
}

impl PodNetns {
    fn new() -> Self {
        let (work, todo) = mpsc::channel::<Work>();
        let (ready, path) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(format!("/proc/{}/task/{}/ns/net", getpid(), gettid()).into()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self { path: path.recv().unwrap(), work }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.work.send(Box::new(move || drop(send.send(job())))).unwrap();
        receive.recv().unwrap()
    }

    /// Echoes on port 80, for ever.
    fn serve(&self) {
        self.run(|| {
            let listener = TcpListener::bind("0.0.0.0:80").unwrap();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut { stream }));
                }
            });
        });
    }

    fn connect(&self, address: &'static str) -> io::Result<TcpStream> {
        self.run(move || connect(address))
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(1500))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)
}

/// Nothing answers, for two attempts of 1.5 s; a server that is gone would answer that it is.
fn dropped(client: &PodNetns, what: &str) {
    for _ in 0..2 {
        let error = client.connect("10.99.0.3:80").expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{what}: {error}");
    }
}

async fn add(agent: &Agent, app: &str, netns: &PodNetns) {
    let attachment = Attachment { container_id: format!("c-{app}"), ifname: "eth0".into() };
    let pod = Pod { namespace: "default".into(), name: app.into(), uid: format!("uid-{app}") };
    let response = agent.manager.handle(Request::Add { attachment, netns: netns.path.clone(), pod }).await;
    assert!(matches!(response, Response::Added(_)), "{response:?}");
}

#[test]
#[ignore = "needs root; 20 s"]
fn pods_talk_by_policy_and_outlive_the_agent() {
    on_a_node(|dir| async move {
        let mut records: Vec<Record> = ["a", "b", "c"].iter().flat_map(|app| pod_records(app)).collect();
        records.push(service("10.96.0.10", "10.99.0.3"));
        let node = agent(&dir, &records).await;
        let (a, b, c) = (PodNetns::new(), PodNetns::new(), PodNetns::new());
        add(&node, "a", &a).await;
        add(&node, "b", &b).await;
        add(&node, "c", &c).await;
        b.serve();

        echo(&mut a.connect("10.99.0.3:80").unwrap()).expect("pod to pod");
        echo(&mut connect("10.99.0.3:80").unwrap()).expect("node to pod");
        echo(&mut a.connect("10.96.0.10:8080").unwrap()).expect("pod to service, per packet");

        node.intent.write(|state| state.apply(Change::Upsert(policy("b", "a"))));
        assert!(node.engine.flush().await.unwrap().is_empty());
        let mut long = a.connect("10.99.0.3:80").unwrap();
        echo(&mut long).expect("who is let in");
        dropped(&c, "who is not let in");

        // The agent is gone, and comes back.
        drop(node);
        echo(&mut long).expect("established, without an agent");
        echo(&mut a.connect("10.99.0.3:80").unwrap()).expect("new, without an agent");
        dropped(&c, "still refused, without an agent");
        records.push(policy("b", "a"));
        drop(agent(&dir, &records).await);
        echo(&mut long).expect("established, after the restart");
        // And once more, as an agent with another layout of maps.
        describe_as_another_layout(&dir.join("bpf/tombolo/generation-1/LAYOUT")).unwrap();
        let node = agent(&dir, &records).await;
        assert!(!dir.join("bpf/tombolo/generation-1").exists(), "it has taken over");
        echo(&mut long).expect("established, over another layout");
        echo(&mut a.connect("10.99.0.3:80").unwrap()).expect("new, over another layout");
        dropped(&c, "still refused, after the restart");

        let attachment = Attachment { container_id: "c-b".into(), ifname: "eth0".into() };
        assert_eq!(node.manager.handle(Request::Del { attachment }).await, Response::Done);
        let left: BTreeSet<String> =
            node.manager.endpoints().iter().map(|e| e.wiring.pod.name.clone()).collect();
        assert_eq!(left, BTreeSet::from(["a".to_owned(), "c".to_owned()]));
    });
}

/// Answers a datagram with one each 10 ms, which nothing but the network stops.
fn stream(server: &PodNetns) {
    server.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:81").unwrap();
        thread::spawn(move || {
            let (_, client) = socket.recv_from(&mut [0; 8]).unwrap();
            loop {
                // Refused or not, the next one is sent.
                let _ = socket.send_to(b"more", client);
                thread::sleep(Duration::from_millis(10));
            }
        });
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn a_policy_that_closes_ends_a_stream_of_answers_within_a_second() {
    on_a_node(|dir| async move {
        let records: Vec<Record> =
            ["a", "b", "c"].iter().flat_map(|app| pod_records(app)).chain([policy("b", "a")]).collect();
        let node = agent(&dir, &records).await;
        let (a, b) = (PodNetns::new(), PodNetns::new());
        add(&node, "a", &a).await;
        add(&node, "b", &b).await;
        stream(&b);
        let client = a.run(|| {
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            client.send_to(b"begin", "10.99.0.3:81").unwrap();
            client
        });
        let came = |client: &UdpSocket| client.recv(&mut [0; 8]);
        (0..100).for_each(|_| assert_eq!(came(&client).expect("it streams"), 4));
        // What concerns others changes nothing.
        node.intent.write(|state| state.apply(Change::Upsert(pod_records("d")[0].clone())));
        assert!(node.engine.flush().await.unwrap().is_empty());
        (0..100).for_each(|_| assert_eq!(came(&client).expect("it still streams"), 4));
        node.intent.write(|state| state.apply(Change::Upsert(policy("b", "c"))));
        let changed = Instant::now();
        while came(&client).is_ok() {
            assert!(changed.elapsed() < Duration::from_secs(1), "it goes on");
        }
        assert!(came(&client).is_err());
    });
}

#[test]
#[ignore = "needs root; 10 s"]
fn ports_of_connections_that_have_expired_are_given_back() {
    on_a_node(|dir| async move {
        let loaded = Loaded::load(&dir.join("bpf/tombolo")).unwrap();
        let mut snat = loaded.maps().snat().unwrap();
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos();
        let now = u64::try_from(now).unwrap();
        let ip = |last| v4_mapped([192, 0, 2, last]);
        let mut connection = |port: u16, last_seen: u64| {
            let flags = FlowFlags::FROM_SOURCE.with(FlowFlags::REPLIED);
            let forward = forward_key((ip(9), port), (ip(53), 4000), 17);
            let reverse = reverse_key((ip(53), 4000), ip(1), port, false, 17);
            snat.upsert(&forward, &SnatValue::new(last_seen, ip(1), port, FlowFlags::FROM_SOURCE, 1))
                .unwrap();
            snat.upsert(&reverse, &SnatValue::new(last_seen, ip(9), port, flags, 1)).unwrap();
            [forward, reverse]
        };
        let old = connection(2000, now - 12_000_000_000);
        let live = connection(2001, now);
        let timeouts = NatTimeouts { udp: 11, ..NatTimeouts::DEFAULT };
        let nat = Arc::new(Nat::new(false, NatPorts::DEFAULT, timeouts));
        let watch = tokio::spawn(Arc::clone(&nat).watch(loaded.maps()));
        let there = |keys: [_; 2]| keys.map(|key| snat.get(&key).unwrap().is_some());
        for _ in 0..50 {
            if nat.usage().connections > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!((there(old), there(live)), ([false; 2], [true; 2]));
        assert_eq!(nat.usage().connections, 1);
        watch.abort();
    });
}

fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root; 10 s"]
fn programs_that_others_remove_are_back_at_once() {
    on_a_node(|dir| async move {
        let node = agent(&dir, &pod_records("a")).await;
        let a = PodNetns::new();
        add(&node, "a", &a).await;
        let interface = node.manager.endpoints().iter().next().unwrap().wiring.host_interface.clone();
        let mut removals = netlink::watch_removals().unwrap();
        let netlink = Netlink::new().unwrap();
        node.dataplane.restore_pods(&netlink).await.unwrap();
        assert_eq!((node.dataplane.guard().put_back(), node.dataplane.guard().problem()), (0, None));
        for (removal, total) in [
            (format!("filter del dev {interface} ingress"), 1),
            (format!("qdisc del dev {interface} clsact"), 3),
        ] {
            tc(&removal);
            // A pod that nobody judges can say so.
            a.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                (0..10).for_each(|_| _ = socket.send_to(b"?", "192.0.2.1:9").unwrap());
            });
            let told = tokio::time::timeout(Duration::from_secs(1), removals.recv()).await;
            assert_eq!(told, Ok(Some(())), "{removal}");
            node.dataplane.restore_pods(&netlink).await.unwrap();
            assert_eq!(node.dataplane.guard().put_back(), total, "{removal}");
            for direction in ["ingress", "egress"] {
                let shown = tc(&format!("filter show dev {interface} {direction}"));
                assert_eq!(shown.matches("direct-action").count(), 1, "{shown}");
            }
        }
        assert!(node.dataplane.guard().unjudged() >= 20, "{}", node.dataplane.guard().unjudged());
        assert!(node.dataplane.guard().problem().unwrap().contains("3 programs"));
        // A pod that goes takes its programs along, and that is nobody's fault.
        let attachment = Attachment { container_id: "c-a".into(), ifname: "eth0".into() };
        assert_eq!(node.manager.handle(Request::Del { attachment }).await, Response::Done);
        node.dataplane.restore_pods(&netlink).await.unwrap();
        assert_eq!(node.dataplane.guard().put_back(), 3);
    });
}
