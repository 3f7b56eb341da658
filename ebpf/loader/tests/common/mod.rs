//! A node to test on: a mount namespace with a BPF filesystem, network namespaces, a cgroup. All vanish with the
//! threads and processes that hold them, also when a test panics.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::allow_attributes, reason = "a part that one binary uses is dead in another")]

pub mod link;
pub mod node;
pub mod talk;
pub mod tun;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tombolo_abi::{Address, AddressFlags, AddressKey, AddressValue, EndpointFlags, EndpointValue, v4_mapped};
use tombolo_loader::{Datapath, Table};

pub fn ip(a: u8, b: u8, c: u8, d: u8) -> Address {
    v4_mapped([a, b, c, d])
}

/// Runs `test` in a thread with mount and network namespaces of its own and a BPF filesystem at the path it gets.
pub fn on_a_node(test: impl FnOnce(&Path) + Send + 'static) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().to_owned();
    let result = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("namespaces (needs root)");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private /");
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).expect("BPF filesystem");
        run("ip link set lo up");
        test(&path.join("tombolo"));
    })
    .join();
    drop(directory);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command of words in the namespaces of the calling thread.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace and a thread in it that runs what it is given.
pub struct Namespace {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    pub tid: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tid, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespace (needs root)");
            run("ip link set lo up");
            tid.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in received {
                job();
            }
        });
        Self { jobs, tid: told.recv().expect("thread in a network namespace") }
    }

    /// Runs a closure inside and waits for what it returns.
    pub fn within<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        self.start(f).recv().expect("the closure did not panic")
    }

    /// Runs a closure inside; the result comes later.
    pub fn start<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> mpsc::Receiver<R> {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || {
            let _ = tell.send(f());
        });
        self.jobs.send(job).expect("thread in the namespace");
        told
    }

    pub fn run(&self, command: &str) -> String {
        let command = command.to_owned();
        self.within(move || run(&command))
    }
}

/// Index of a device in the calling thread's network namespace.
pub fn ifindex(name: &str) -> u32 {
    let line = run(&format!("ip -o link show dev {name}"));
    line.split(':').next().unwrap().trim().parse().unwrap()
}

pub fn mac(name: &str) -> [u8; 6] {
    let line = run(&format!("ip -o link show dev {name}"));
    let text = line.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A pod with a veth to the calling thread's namespace, wired as the CNI plugin does it.
pub struct Pod {
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    pub ifindex: u32,
    pub value: EndpointValue,
}

impl Pod {
    pub fn new(
        datapath: &Datapath,
        name: &str,
        address: Ipv4Addr,
        endpoint: u32,
        flags: EndpointFlags,
    ) -> Self {
        let namespace = Namespace::new();
        run(&format!("ip link add {name} type veth peer name eth0 netns {}", namespace.tid));
        run(&format!("ip link set {name} up"));
        let host_mac = mac(name);
        let m = host_mac.map(|b| format!("{b:02x}")).join(":");
        namespace.run("ip link set eth0 up");
        namespace.run(&format!("ip addr add {address}/32 dev eth0"));
        namespace.run("ip route add 169.254.1.1 dev eth0 scope link");
        namespace.run("ip route add default via 169.254.1.1 dev eth0");
        namespace.run(&format!("ip neigh replace 169.254.1.1 lladdr {m} dev eth0 nud permanent"));
        let pod_mac = namespace.within(|| mac("eth0"));
        run(&format!("ip route add {address}/32 dev {name}"));
        let ifindex = ifindex(name);
        let value =
            EndpointValue::new(ifindex, endpoint, 1 << 20 | (1000 + endpoint), flags, pod_mac, host_mac);
        let pod = Self { namespace, address, ifindex, value };
        datapath.maps().endpoint().unwrap().upsert(&AddressKey::new(pod.key()), &value).unwrap();
        let owner = AddressValue::new(value.identity(), AddressFlags::NO_MASQUERADE);
        datapath.maps().address().unwrap().upsert(&AddressKey::new(pod.key()), &owner).unwrap();
        datapath.attach_pod(ifindex).unwrap();
        pod
    }

    pub fn key(&self) -> Address {
        v4_mapped(self.address.octets())
    }
}

/// A cgroup of the unified hierarchy that goes away with the value.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then(|| path.to_owned())
        });
        let path = Path::new(&root.expect("a cgroup2 mount")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("cgroup (needs root)");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
