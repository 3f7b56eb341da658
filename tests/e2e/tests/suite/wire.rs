//! What is seen on the wire between two clusters: WireGuard and QUIC, and never what pods say.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use tombolo_e2e::{Cluster, GLOBAL, Output, eventually, machine};
use tombolo_playground::{address::ClusterAddresses, layout::Layout, place::Place};

const MARKER: &str = "tombolo-marker-2f91c4";
const LIMIT: Duration = Duration::from_secs(30);
/// Nodes and pods of the two clusters.
const CROSSING: &str = "(net 10.10.0.0/24 or net 10.100.0.0/16 or net fd10:0::/64 or net fd64:0::/48) and \
                        (net 10.11.0.0/24 or net 10.101.0.0/16 or net fd10:1::/64 or net fd64:1::/48)";

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 30 s"]
async fn wg_shows_the_tunnel_and_its_key_stays_on_the_node() {
    let [east, west] = ["east", "west"].map(|name| machine::machines(name).unwrap());
    for (here, there) in [(&east, &west), (&west, &east)] {
        let shown = machine::run(here, "node-1", &["wg", "show", "tombolo-wg0"]).unwrap();
        for node in 0..2 {
            let endpoint = SocketAddr::new(there.addresses().node(node), 51871);
            assert!(shown.contains(&format!("endpoint: {endpoint}")), "{endpoint} is not in: {shown}");
        }
        for range in there.plans().map(ClusterAddresses::pods) {
            let of_a_node = range.replace("0.0/16", "0.0/24").replace("::/48", "::/64");
            assert!(shown.contains(&of_a_node), "{of_a_node} is no allowed address: {shown}");
        }
    }
    let key = machine::run(&east, "node-1", &["wg", "show", "tombolo-wg0", "private-key"]).unwrap();
    let mode =
        machine::run(&east, "node-1", &["stat", "-c", "%a %u", "/var/lib/tombolo/wireguard.key"]).unwrap();
    assert_eq!((key.trim().len(), mode.trim()), (44, "600 0"));
    for cluster in ["east", "west"] {
        let client = Cluster::attach(cluster).await.unwrap().client;
        let secrets = Api::<Secret>::all(client.clone()).list(&Default::default()).await.unwrap();
        let maps = Api::<ConfigMap>::all(client).list(&Default::default()).await.unwrap();
        let text = serde_json::to_string(&(secrets.items, maps.items)).unwrap();
        // Values of Secrets are shown in base64 once more.
        let twice = machine::run(
            &east,
            "node-1",
            &["sh", "-c", &format!("printf %s '{}' | base64 -w 0", key.trim())],
        );
        assert!(
            !text.contains(key.trim()) && !text.contains(twice.unwrap().trim()),
            "a key has left its node"
        );
    }
}

/// A running tcpdump and the file that it writes.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures on all devices of a place from now on.
    fn start(place: &Place, name: &str, device: &str) -> anyhow::Result<Self> {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pcap", std::process::id()));
        let path = file.to_str().context("the path is not UTF-8")?;
        // Without that mode the last second of packets would be lost at its end.
        let argv =
            ["tcpdump", "--immediate-mode", "-i", device, "-n", "-s", "0", "-U", "-Z", "root", "-w", path]
                .map(str::to_owned);
        let mut child = place.command("exec", &argv)?.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("no standard error")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(said.read_line(&mut line)? > 0, "tcpdump ended at once");
        }
        // Somebody has to read on, or tcpdump could not end.
        std::thread::spawn(move || said.lines().map_while(Result::ok).for_each(drop));
        Ok(Self { child, file })
    }

    /// Ends tcpdump, which writes what it still has.
    fn finish(&mut self) -> anyhow::Result<()> {
        machine::signal(&[i32::try_from(self.child.id())?], "INT")?;
        ensure!(self.child.wait()?.success(), "tcpdump failed");
        Ok(())
    }

    /// How many packets match a filter.
    fn count(&self, filter: &str) -> anyhow::Result<usize> {
        let output = Command::new("tcpdump").arg("-n").arg("-r").arg(&self.file).arg(filter).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Whether the bytes of the marker are in a packet.
    fn has_marker(&self) -> anyhow::Result<bool> {
        let bytes = std::fs::read(&self.file)?;
        Ok(bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 30 s"]
async fn between_clusters_there_is_only_ciphertext() {
    let east = Cluster::attach("east").await.unwrap().named_scope("wire").await.unwrap();
    let west = Cluster::attach("west").await.unwrap().named_scope("wire").await.unwrap();
    let args = ["http", "--port", "8080", "--name", MARKER];
    east.pod("web", None, &args).await.unwrap();
    east.pod("echo", None, &["udp-echo", "--port", "9000"]).await.unwrap();
    for scope in [&east, &west] {
        scope.service("web", &[("http", "TCP", 8080)], &[GLOBAL]).await.unwrap();
    }
    west.pod("client", Some("node-1"), &["pause"]).await.unwrap();
    let service = "http://web.wire.svc.cluster.local:8080/".to_owned();
    eventually(LIMIT, || async { west.exec("client", &["get", &service]).await.and_then(Output::ok) })
        .await
        .unwrap();

    let layout = Layout::from_environment();
    let mut wire = Capture::start(&Place::underlay(&layout).unwrap(), "wire", "any").unwrap();
    let node = machine::machines("west").unwrap().place("node-1").unwrap();
    let mut inside = Capture::start(&node, "inside", "tombolo-wg0").unwrap();
    let direct = east.urls("web", 8080).await.unwrap();
    for target in direct.into_iter().chain([service]) {
        let url = format!("{target}{MARKER}");
        let out = west.exec("client", &["get", &url, "-n", "20"]).await.unwrap().ok().unwrap();
        assert_eq!(out.matches(MARKER).count(), 20, "{out}");
    }
    for address in east.pod_ips("echo").await.unwrap() {
        let target = SocketAddr::new(address, 9000).to_string();
        let exchange = ["udp-exchange", &target, "-n", "20", "--prefix", MARKER];
        west.exec("client", &exchange).await.unwrap().ok().unwrap();
    }
    inside.finish().unwrap();
    wire.finish().unwrap();

    assert!(inside.has_marker().unwrap(), "the marker never entered the tunnel");
    assert!(!wire.has_marker().unwrap(), "the marker was seen between the clusters");
    let count = |filter: &str| wire.count(&format!("{CROSSING} and {filter}")).unwrap();
    let other = count("not (udp port 51871 or udp port 4240)");
    assert_eq!(other, 0, "packets that are neither WireGuard nor QUIC");
    assert!(count("udp port 51871") > 80, "the requests did not go through the tunnel");
    assert!(count("udp port 4240") > 0, "the daemons said nothing to each other");
}
