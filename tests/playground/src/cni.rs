//! Pod networking by the reference plugins: a bridge on every node, and static routes between nodes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{Error, Result};

/// How long the controller manager may take to give every node its pod addresses.
const PATIENCE: Duration = Duration::from_secs(60);

/// The plugin's configuration on a node.
const CONFIG: &str = "/etc/cni/net.d/10-bridge.conflist";

/// The pod prefixes of nodes, each in the order of the cluster's plans.
pub type Prefixes = BTreeMap<String, Vec<String>>;

/// The pod prefixes of all nodes. Waits until all have them.
pub fn pod_prefixes(cluster: &Cluster) -> Result<Prefixes> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let text = cluster.kubectl(&["get", "nodes", "--output", "json"], b"")?;
        let list: Value = serde_json::from_slice(&text)
            .map_err(|cause| Error::Json { what: "the list of nodes".into(), cause })?;
        let of_node = |node: String| prefixes_of(&list, &node).map(|prefixes| (node, prefixes));
        let prefixes: Option<Prefixes> = cluster.nodes().into_iter().map(of_node).collect();
        if let Some(prefixes) = prefixes {
            return Ok(prefixes);
        }
        thread::sleep(Duration::from_millis(300));
    }
    Err(Error::Timeout {
        what: format!("not every node of {} registered and got pod addresses", cluster.name()),
        seconds: PATIENCE.as_secs(),
        hint: format!(
            "see kubelet.log of the nodes in {}",
            cluster.layout().root().join(cluster.name()).display()
        ),
    })
}

fn prefixes_of(list: &Value, node: &str) -> Option<Vec<String>> {
    let items = list.get("items")?.as_array()?;
    let item =
        items.iter().find(|item| item.pointer("/metadata/name").and_then(Value::as_str) == Some(node))?;
    item.pointer("/spec/podCIDRs")?
        .as_array()?
        .iter()
        .map(|prefix| prefix.as_str().map(str::to_owned))
        .collect()
}

/// Lets the control planes reach pods by the nodes they are on, as webhooks and aggregated API servers
/// need; pods then reach the API servers without their addresses being translated.
pub fn route_control_planes(cluster: &Cluster, prefixes: &Prefixes) -> Result<()> {
    for name in cluster.control_planes() {
        let lines = routes(cluster, prefixes, &name)?;
        cluster.place(&name)?.run(&["ip", "-batch", "-"], lines.as_bytes())?;
    }
    Ok(())
}

/// Installs the bridge plugin on every node that does not have it, and lets all nodes reach each other's pods.
pub fn install_bridge(cluster: &Cluster, prefixes: &Prefixes) -> Result<()> {
    for (node, own) in prefixes {
        route_node(cluster, node, prefixes)?;
        let place = cluster.node(node)?;
        if place.output(&["test", "-s", CONFIG], b"")?.status.success() {
            continue;
        }
        let ranges: Vec<_> = own.iter().map(|prefix| json!([{"subnet": prefix}])).collect();
        let routes: Vec<_> = cluster.plans().map(|plan| json!({"dst": plan.family().all()})).collect();
        let config = json!({"cniVersion": "1.0.0", "name": "playground", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        }]});
        // Written in place: containerd was seen to miss a file that is renamed into the directory.
        place.run(&["tee", CONFIG], config.to_string().as_bytes())?;
    }
    Ok(())
}

/// Lets a node reach the pods of the others.
pub fn route_node(cluster: &Cluster, node: &str, prefixes: &Prefixes) -> Result<()> {
    let lines = routes(cluster, prefixes, node)?;
    cluster.node(node)?.run(&["ip", "-batch", "-"], lines.as_bytes()).map(drop)
}

fn routes(cluster: &Cluster, prefixes: &Prefixes, from: &str) -> Result<String> {
    let mut lines = String::new();
    for (node, of_node) in prefixes.iter().filter(|(node, _)| *node != from) {
        let index = cluster.node_index(node)?;
        for (plan, prefix) in cluster.plans().zip(of_node) {
            let _ = writeln!(lines, "route replace {prefix} via {}", plan.node(index));
        }
    }
    Ok(lines)
}
