//! A node: containerd with runc, and kubelet, with the paths that they have on a machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cgroup::Hierarchy;
use crate::cluster::Cluster;
use crate::control_plane::{self, Keys, option};
use crate::images::PAUSE;
use crate::kube_proxy;
use crate::layout::{create_dir, write};
use crate::place::Place;
use crate::runc::WRAPPER_NAME;
use crate::unit::Unit;
use crate::{Error, Result};

/// Where containerd listens, in the node's own view.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The reference plugins that every node has.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts containerd and loads the playground's images.
pub fn start_runtime(cluster: &Cluster, node: &str) -> Result<()> {
    let directory = cluster.layout().node(cluster.name(), node);
    let programs = cluster.layout().programs();
    let place = cluster.node(node)?;
    let plugins = directory.join("opt/cni/bin");
    create_dir(&plugins)?;
    for plugin in PLUGINS {
        let link = plugins.join(plugin);
        let target = fs::canonicalize(programs.join(plugin)).map_err(Error::io("find", plugin))?;
        symlink(target, &link).map_err(Error::io("create", &link))?;
    }
    let config = directory.join("containerd.toml");
    write(&config, containerd_config(&programs)?)?;
    let unit = Unit::new(&programs.join("containerd"), [option("config", config.display())], &directory);
    unit.start(&place)?;
    wait_runtime(cluster, node, &place)?;
    let mut archives: Vec<_> = fs::read_dir(cluster.layout().images())
        .map_err(Error::io("list", cluster.layout().images()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    archives.sort();
    archives.iter().try_for_each(|archive| import(&place, archive))
}

/// Starts containerd as it was started first, with the images that the node's disk has.
pub fn restart_runtime(cluster: &Cluster, node: &str) -> Result<()> {
    let place = cluster.node(node)?;
    Unit::load(&cluster.directory(node), "containerd")?.start(&place)?;
    wait_runtime(cluster, node, &place)
}

/// Starts what makes it a node of its cluster; the API server must be ready.
pub fn start(cluster: &Cluster, node: &str, keys: &Keys) -> Result<()> {
    control_plane::start_forwarder(cluster, node)?;
    start_kubelet(cluster, node, keys)?;
    kube_proxy::start(cluster, node, keys)
}

fn start_kubelet(cluster: &Cluster, node: &str, keys: &Keys) -> Result<()> {
    let directory = cluster.layout().node(cluster.name(), node);
    let place = cluster.node(node)?;
    let index = cluster.node_index(node)?;
    let addresses: Vec<String> = cluster.plans().map(|plan| plan.node(index).to_string()).collect();
    let kubeconfig = directory.join("kubelet.kubeconfig");
    keys.kubeconfig(&kubeconfig, &format!("system:node:{node}"), Some("system:nodes"))?;
    let names = [addresses.clone(), vec![node.to_owned()]].concat();
    let serving =
        keys.authority().server(&format!("kubelet-{node}"), &format!("system:node:{node}"), &names)?;
    let limits = Hierarchy::find()?.has_controllers();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": keys.authority().certificate()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.certificate,
        "tlsPrivateKeyFile": serving.key,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": limits,
        "enforceNodeAllocatable": if limits { json!(["pods"]) } else { json!([]) },
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        // Nodes share the machine's disk, which may well be fuller than a node's ought to be.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "clusterDNS": [cluster.addresses().family().dns_service()],
        "clusterDomain": "cluster.local",
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "5s",
        "maxPods": 200,
    });
    let file = directory.join("kubelet.json");
    write(&file, config.to_string())?;
    let mut arguments = vec![
        option("config", file.display()),
        option("kubeconfig", kubeconfig.display()),
        option("hostname-override", node),
        option("node-ip", addresses.join(",")),
        option("v", 2),
    ];
    let zone = cluster.spec().zone(index);
    arguments.extend(zone.map(|zone| option("node-labels", format!("topology.kubernetes.io/zone={zone}"))));
    Unit::new(&cluster.layout().programs().join("kubelet"), arguments, &directory).start(&place)
}

/// Loads an image archive of the machine into a node. It goes through standard input, as the node may
/// not see the file.
pub fn import(place: &Place, archive: &Path) -> Result<()> {
    let file = fs::File::open(archive).map_err(Error::io("open", archive))?;
    let argv = ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", "-"];
    let mut command = place.command("exec", &argv.map(str::to_owned))?;
    let output = command.stdin(file).output().map_err(Error::io("run", "ctr"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("ctr images import {}", archive.display()),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn wait_runtime(cluster: &Cluster, node: &str, place: &Place) -> Result<()> {
    let started = Instant::now();
    let argv = ["ctr", "--address", CONTAINERD_SOCKET, "version"];
    // The socket is seen through the holder's root, as /run is the node's own.
    let socket = place.holder().map(|pid| format!("/proc/{pid}/root{CONTAINERD_SOCKET}")).unwrap_or_default();
    let log = cluster.layout().node(cluster.name(), node).join("containerd.log");
    while started.elapsed() < PATIENCE {
        if Path::new(&socket).exists() && place.output(&argv, b"")?.status.success() {
            return Ok(());
        }
        if place.unit_cgroup("containerd").processes().is_empty() {
            return Err(Error::Missing(format!(
                "containerd of {}/{node} ended at once; see {}",
                cluster.name(),
                log.display()
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(Error::Timeout {
        what: format!("containerd of {}/{node} did not answer", cluster.name()),
        seconds: PATIENCE.as_secs(),
        hint: format!("see {}", log.display()),
    })
}

fn containerd_config(programs: &Path) -> Result<String> {
    let runtime = if Hierarchy::find()?.has_controllers() { "runc" } else { WRAPPER_NAME };
    let runtime = programs.join(runtime);
    Ok(format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{}"
      SystemdCgroup = false
"#,
        runtime.display()
    ))
}
