//! A node in a network namespace of its own: an agent's CNI server, pods to connect, and the real plugin binary.
//!
//! The namespaces belong to threads and have no names, so they vanish with the test, whatever way it ends.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, gettid},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, task::JoinHandle};
use tombolo_model::{ClusterId, EndpointRecord, Identity, Record};
use tombolo_node::{
    cni::{self, Datapath, Manager, ManagerConfig},
    intent::Intent,
    netlink::Netlink,
    store::Store,
};
use tombolo_node_core::{
    endpoints::{Endpoints, LocalEndpoint},
    policy::SelectorBits,
    state::{Change, OwnNode, State},
};

/// The node's own address.
pub const NODE: &str = "192.0.2.1";

/// The node's own IPv6 address.
pub const NODE_V6: &str = "2001:db8::1";

/// Runs a test on a node of its own. Fails when namespaces cannot be made: these tests need root.
pub fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send + 'static) {
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "add", &format!("{NODE}/32"), "dev", "lo"]);
        ip(&["address", "add", &format!("{NODE_V6}/128"), "dev", "lo", "nodad"]);
        runtime.block_on(async { test(World::new()).await });
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the namespace of this thread.
pub fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Packets go by the kernel's routes alone. `refuse` makes the last step of ADD fail.
#[derive(Default)]
pub struct KernelRoutes {
    pub refuse: Mutex<bool>,
}

#[async_trait]
impl Datapath for KernelRoutes {
    async fn connect(&self, _: &LocalEndpoint) -> anyhow::Result<()> {
        anyhow::ensure!(!*self.refuse.lock().unwrap(), "no room");
        Ok(())
    }

    async fn disconnect(&self, _: &LocalEndpoint) {}
}

/// What the agent knows: these endpoints, and what the cluster tells it.
fn intent(endpoints: Endpoints) -> Arc<Intent> {
    let own =
        OwnNode { cluster: ClusterId::try_from(1).unwrap(), name: "node".into(), addresses: Vec::new() };
    Arc::new(Intent::new(State::new(own, endpoints, SelectorBits::default())))
}

/// What the cluster tells about a pod in namespace `default`.
fn record(name: &str) -> Record {
    Record::Endpoint(EndpointRecord {
        cluster: ClusterId::try_from(1).unwrap(),
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        node: "node".into(),
        addresses: Vec::new(),
        identity: Identity::INIT,
    })
}

pub struct World {
    pub dir: tempfile::TempDir,
    pods: Mutex<Vec<String>>,
    intent: Arc<Intent>,
    pub datapath: Arc<KernelRoutes>,
    pub prefixes: &'static [&'static str],
    server: Option<JoinHandle<()>>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            pods: Mutex::default(),
            intent: intent(Endpoints::default()),
            datapath: Arc::default(),
            prefixes: &["10.99.0.0/24"],
            server: None,
        }
    }

    /// Starts an agent, or the next one on the same state.
    pub async fn start(&mut self) -> Arc<Manager> {
        let config = ManagerConfig {
            runtime_dir: self.dir.path().join("run"),
            del_queue: self.dir.path().join("queue"),
            prefixes: self.prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            host_addresses: [NODE, NODE_V6].map(|address| address.parse().unwrap()).to_vec(),
            mtu: 1500,
            route_mtu: 1420,
            identity_wait: Duration::from_millis(200),
        };
        self.intent = intent(Store::new(&config.runtime_dir).load().unwrap());
        self.intent.write(|state| {
            state.begin_sync();
            self.pods.lock().unwrap().iter().for_each(|pod| state.apply(Change::Upsert(record(pod))));
            state.complete_sync();
            state.refresh();
        });
        let (intent, datapath) = (Arc::clone(&self.intent), Arc::clone(&self.datapath));
        let manager = Manager::new(config, Netlink::new().unwrap(), intent, datapath).unwrap();
        manager.adopt().await.unwrap();
        let manager = Arc::new(manager);
        let (served, socket) = (Arc::clone(&manager), self.socket());
        let before = std::fs::metadata(&socket).ok().and_then(|m| m.modified().ok());
        let path = socket.clone();
        self.server =
            Some(tokio::spawn(async move { cni::serve(&path, served, Arc::default()).await.unwrap() }));
        while std::fs::metadata(&socket).ok().and_then(|m| m.modified().ok()) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        manager
    }

    /// The agent is gone, as after a `kill -9`: its socket stays behind.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    pub fn config(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "tombolo", "type": "tombolo-cni",
               "socket": self.socket(), "delQueue": self.dir.path().join("queue")})
    }

    /// A pod that the cluster knows, with a namespace for it.
    pub fn pod(&self, name: &str) -> PodNetns {
        self.pods.lock().unwrap().push(name.into());
        self.intent.write(|state| state.apply(Change::Upsert(record(name))));
        PodNetns::new(name)
    }

    /// Calls the plugin as a runtime does.
    pub async fn call(&self, command: &str, pod: &PodNetns, config: &Value) -> Output {
        self.call_as(command, &pod.name, "eth0", &pod.path, config).await
    }

    pub async fn call_as(
        &self,
        command: &str,
        pod: &str,
        ifname: &str,
        netns: &Path,
        config: &Value,
    ) -> Output {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_tombolo-cni"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("container-{pod}"))
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A call that fails early does not read its input.
        let _ = stdin.write_all(config.to_string().as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await.unwrap()
    }

    /// An ADD that must succeed.
    pub async fn add(&self, pod: &PodNetns) -> Value {
        let output = self.call("ADD", pod, &self.config()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The error that the plugin printed.
pub fn error(output: &Output) -> (u64, String) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}

/// Names of the devices on the node that belong to pods.
pub fn pod_devices() -> Vec<String> {
    let links: Value = serde_json::from_str(&ip(&["-json", "link"])).unwrap();
    let names = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("tmb")).collect()
}

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace held by a thread; gone when dropped.
pub struct PodNetns {
    pub name: String,
    pub path: PathBuf,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PodNetns {
    pub fn new(name: &str) -> Self {
        let (work, todo) = mpsc::channel::<Work>();
        let (ready, path) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(format!("/proc/{}/task/{}/ns/net", getpid(), gettid()).into()).unwrap();
            for job in todo {
                job();
            }
        });
        Self { name: name.into(), path: path.recv().unwrap(), work: Some(work), thread: Some(thread) }
    }

    /// Runs `job` inside.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        let job: Work = Box::new(move || drop(send.send(job())));
        self.work.as_ref().unwrap().send(job).unwrap();
        receive.recv().unwrap()
    }

    /// Answers one TCP connection on `address` with the address of the other side.
    pub fn listen(&self, address: String) -> io::Result<()> {
        self.run(move || {
            let listener = std::net::TcpListener::bind(address)?;
            thread::spawn(move || {
                if let Ok((mut stream, peer)) = listener.accept() {
                    let _ = io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes());
                }
            });
            Ok(())
        })
    }
}

impl Drop for PodNetns {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects, and returns what a [`PodNetns::listen`] says.
pub fn ask(address: &str) -> io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(3))?;
    let mut text = String::new();
    io::Read::read_to_string(&mut stream, &mut text)?;
    Ok(text)
}
