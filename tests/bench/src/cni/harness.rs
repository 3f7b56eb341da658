//! The harness: runs in the mount and network namespaces of a node and calls plugins.

use std::{
    fs,
    io::{Write, stdin, stdout},
    path::Path,
    process::{self, Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::netns::finish;

const BRIDGE: &str = "benchbr0";
/// What the harness says when the namespaces of a batch are made.
pub const READY: &str = "ready";
/// The kernel clears namespaces that are deleted a moment later.
const PAUSE: Duration = Duration::from_millis(50);

/// Whose plugin is called.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub enum Side {
    /// tombolo's.
    Ours,
    /// bridge with host-local.
    Peer,
}

/// A batch that will come: calls at the same time.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// Whose.
    pub side: Side,
    /// How many; as many pods follow.
    pub calls: usize,
}

/// A pod that is attached.
#[derive(Serialize, Deserialize, Clone)]
pub struct Who {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Milliseconds of each call.
#[derive(Serialize, Deserialize, Default)]
pub struct Times {
    /// Of ADD.
    pub add: Vec<f64>,
    /// Of DEL.
    pub del: Vec<f64>,
}

impl Times {
    /// Adds those of another batch.
    pub fn append(&mut self, mut other: Self) {
        self.add.append(&mut other.add);
        self.del.append(&mut other.del);
    }
}

/// For each request on standard input, says that its namespaces are there, reads the pods, calls, and says the times.
pub fn serve() -> anyhow::Result<()> {
    let bridge = Bridge { data: format!("/run/bench-{}", process::id()) };
    let (ours, peer) = (our_plugin()?, bridge.plugin());
    let mut lines = stdin().lines();
    let mut batch = 0;
    while let Some(line) = lines.next() {
        let Request { side, calls } = serde_json::from_str(&line?)?;
        let plugin = match side {
            Side::Ours => &ours,
            Side::Peer => &peer,
        };
        batch += 1;
        let name = |n| format!("bench-{}-{}-{batch}-{n}", plugin.name, process::id());
        let namespaces = (0..calls).map(|n| Named::new(name(n))).collect::<anyhow::Result<Vec<_>>>()?;
        writeln!(stdout(), "{READY}")?;
        let pods: Vec<Who> = serde_json::from_str(&lines.next().context("no pods")??)?;
        ensure!(pods.len() == calls, "there are {} pods for {calls} calls", pods.len());
        let times = plugin.add_and_del(&pods, &namespaces)?;
        drop(namespaces);
        thread::sleep(PAUSE);
        writeln!(stdout(), "{}", serde_json::to_string(&times)?)?;
    }
    Ok(())
}

/// A plugin and its configuration.
struct Plugin {
    name: &'static str,
    config: Value,
}

fn our_plugin() -> anyhow::Result<Plugin> {
    let file = "/etc/cni/net.d/05-tombolo.conflist";
    let list: Value =
        serde_json::from_str(&fs::read_to_string(file).context("tombolo is not installed here")?)?;
    let mut config = list.pointer("/plugins/0").with_context(|| format!("{file} has no plugin"))?.clone();
    for field in ["cniVersion", "name"] {
        config[field] = list[field].clone();
    }
    Ok(Plugin { name: "tombolo-cni", config })
}

/// What the bridge plugin leaves; removed when this is dropped.
struct Bridge {
    data: String,
}

impl Bridge {
    fn plugin(&self) -> Plugin {
        let ranges = json!([[{"subnet": "198.18.1.0/24"}]]);
        let config = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": BRIDGE, "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": self.data, "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        Plugin { name: "bridge", config }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", BRIDGE]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// A named network namespace; goes away when this is dropped.
struct Named(String);

impl Named {
    fn new(name: String) -> anyhow::Result<Self> {
        finish(Command::new("ip").args(["netns", "add", &name]), "ip netns add")?;
        Ok(Self(name))
    }

    /// What `ip` says of addresses that others can reach; nothing without the device.
    fn addresses(&self) -> anyhow::Result<String> {
        let argv = ["-n", &self.0, "-o", "address", "show", "scope", "global"];
        finish(Command::new("ip").args(argv), "ip address")
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Plugin {
    /// Times of an ADD for each pod, all at the same time, and of their DELs. What came of them is checked, and is not
    /// timed. Returns when the kernel is done with the devices.
    fn add_and_del(&self, pods: &[Who], namespaces: &[Named]) -> anyhow::Result<Times> {
        let checked = self.at_once("ADD", pods, namespaces).and_then(|answers| {
            let check = |((time, answer), netns): ((f64, Value), &Named)| {
                let ip = answer
                    .pointer("/ips/0/address")
                    .and_then(Value::as_str)
                    .context("ADD answered no address")?;
                let ip = ip.split('/').next().unwrap_or(ip);
                ensure!(netns.addresses()?.contains(ip), "ADD answered {ip}, which eth0 has not");
                Ok(time)
            };
            answers.into_iter().zip(namespaces).map(check).collect::<anyhow::Result<Vec<_>>>()
        });
        let deleted = self.at_once("DEL", pods, namespaces);
        let (add, del) = (checked?, deleted?.into_iter().map(|(time, _)| time).collect());
        for netns in namespaces {
            ensure!(netns.addresses()?.is_empty(), "DEL left eth0");
        }
        // Ours answers before the kernel is done, and lets the next call for the same container wait until it is.
        self.at_once("DEL", pods, namespaces)?;
        Ok(Times { add, del })
    }

    /// Milliseconds and the answer of each call.
    fn at_once(&self, verb: &str, pods: &[Who], namespaces: &[Named]) -> anyhow::Result<Vec<(f64, Value)>> {
        let together = &Barrier::new(pods.len());
        thread::scope(|scope| {
            let call = pods.iter().zip(namespaces).map(|(pod, netns)| {
                scope.spawn(move || {
                    together.wait();
                    self.call(verb, pod, netns)
                })
            });
            let calls: Vec<_> = call.collect();
            let answers = calls.into_iter().map(|call| call.join().ok().context("a call panicked")?);
            // Nothing is left to run when one has failed.
            answers.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn call(&self, verb: &str, pod: &Who, netns: &Named) -> anyhow::Result<(f64, Value)> {
        let Who { namespace, name, uid } = pod;
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
        let mut command = Command::new(Path::new("/opt/cni/bin").join(self.name));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &netns.0)
            .env("CNI_NETNS", format!("/run/netns/{}", netns.0))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let config = self.config.to_string();
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.name))?;
        child.stdin.take().context("no standard input")?.write_all(config.as_bytes())?;
        let output = child.wait_with_output()?;
        let time = started.elapsed().as_secs_f64() * 1e3;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} {verb}: {}", self.name, text.trim());
        Ok((time, if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text)? }))
    }
}
