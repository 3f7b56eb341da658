//! Pod networking by the reference plugins: a bridge on every node, and static routes between nodes.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{Error, Result};

/// How long the controller manager may take to give every node its pod addresses.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pod prefixes of every node, in the order of the nodes, each in the order of the cluster's plans. Waits until all
/// have them.
pub fn pod_prefixes(cluster: &Cluster) -> Result<Vec<Vec<String>>> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let nodes = cluster.nodes();
        let text = cluster.kubectl(&["get", "nodes", "--output", "json"], b"")?;
        let list: Value = serde_json::from_slice(&text)
            .map_err(|cause| Error::Json { what: "the list of nodes".into(), cause })?;
        let prefixes: Option<Vec<_>> = nodes.iter().map(|node| prefixes_of(&list, node)).collect();
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

/// Lets the control plane reach pods by the nodes they are on, as webhooks and aggregated API servers
/// need; pods then reach the API server without their addresses being translated.
pub fn route_control_plane(cluster: &Cluster, prefixes: &[Vec<String>]) -> Result<()> {
    let lines = routes(cluster, prefixes, None);
    cluster.control_plane()?.run(&["ip", "-batch", "-"], lines.as_bytes()).map(drop)
}

/// Installs the bridge plugin on every node.
pub fn install_bridge(cluster: &Cluster, prefixes: &[Vec<String>]) -> Result<()> {
    for (index, (node, own)) in cluster.nodes().iter().zip(prefixes).enumerate() {
        let place = cluster.node(node)?;
        place.run(&["ip", "-batch", "-"], routes(cluster, prefixes, Some(index)).as_bytes())?;
        let ranges: Vec<_> = own.iter().map(|prefix| json!([{"subnet": prefix}])).collect();
        let routes: Vec<_> = cluster.plans().map(|plan| json!({"dst": plan.family().all()})).collect();
        let config = json!({"cniVersion": "1.0.0", "name": "playground", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        }]});
        // Written in place: containerd was seen to miss a file that is renamed into the directory.
        place.run(&["tee", "/etc/cni/net.d/10-bridge.conflist"], config.to_string().as_bytes())?;
    }
    Ok(())
}

fn routes(cluster: &Cluster, prefixes: &[Vec<String>], but: Option<usize>) -> String {
    let mut lines = String::new();
    for (index, of_node) in prefixes.iter().enumerate().filter(|(index, _)| Some(*index) != but) {
        for (plan, prefix) in cluster.plans().zip(of_node) {
            let _ = writeln!(lines, "route replace {prefix} via {}", plan.node(index));
        }
    }
    lines
}
