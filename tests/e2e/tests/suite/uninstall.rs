//! What an installation leaves on the nodes after it is removed: nothing. Takes tombolo off cluster east for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, ensure};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt, api::ListParams};
use tombolo_e2e::{
    Cluster, Output, SYSTEM,
    command::succeeds,
    eventually,
    machine::{self, machines, processes},
    mesh_status,
};
use tombolo_playground::{Playground, bpf, layout::Layout};

const LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 4] = ["tombolo-node", "tombolo-tunnel", "tombolo-clustermesh", "tombolo-cni"];

/// What every node has in its kernel, by the names that the kernel keeps of them.
const OBJECTS: [&str; 12] = [
    "program pod_egress",
    "program pod_ingress",
    "program net_ingress",
    "program net_egress",
    "program mesh_ingress",
    "program connect4",
    "program sendmsg6",
    "map ADDRESS",
    "map FLOW",
    "map IDENTITY",
    "map POLICY",
    "map SERVICE",
];

/// What is on a node, a line each. Mounts and namespaces of the pods that the node has are left out.
const SCRIPT: &str = "
ip -o -br link | sed 's/^/link /; s/@.*//' | cut -d' ' -f1,2
ip -4 route show table all | sed 's/^/route /'
ip -6 route show table all proto 178 | sed 's/^/route of IPv6 proto 178 /'
ip rule show | sed 's/^/rule /'
nft --stateless list ruleset | sed 's/^/nft /'
tc qdisc show 2>/dev/null | grep -E 'clsact|ingress' | sed 's/^/qdisc /'
find /etc/cni/net.d /opt/cni/bin /var/lib/tombolo /run/tombolo /run/wireguard /sys/fs/bpf -mindepth 1 \
  2>/dev/null | sed 's/^/file /'
awk '{print \"mount \" $5}' /proc/self/mountinfo | grep -vE '/var/lib/kubelet|/run/containerd|/run/netns|/run/k3s'
sysctl -n net.ipv4.ip_forward | sed 's/^/forward /'
";

/// Everything on each node of the cluster.
fn traces(machines: &tombolo_playground::Cluster) -> anyhow::Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for node in machines.nodes() {
        let found = machine::run(machines, &node, &["sh", "-c", SCRIPT])?;
        lines.extend(found.lines().map(|line| format!("{node}: {line}")));
        for program in PROGRAMS {
            let running = processes(machines, &node, program)?;
            lines.extend(running.iter().map(|_| format!("{node}: process {program}")));
        }
    }
    Ok(lines)
}

/// Whether a line speaks of tombolo: its names, its routes (protocol 178) and its pods' devices.
fn is_ours(line: &str) -> bool {
    ["tombolo", "tmb", "proto 178", "wireguard"].iter().any(|word| line.contains(word))
}

#[tokio::test]
#[ignore = "needs 2 clusters, last; 120 s"]
async fn uninstall_leaves_nothing_and_install_works_again() {
    let machines = machines("east").unwrap();
    let cluster = Cluster::attach("east").await.unwrap();
    let installed = traces(&machines).unwrap();
    assert!(installed.iter().any(|line| line.contains("tombolo-wg0")), "not installed: {installed:#?}");
    let objects = bpf::census();
    succeeds("east", &["uninstall"]).unwrap();
    let before = traces(&machines).unwrap();
    assert_eq!(before.iter().filter(|line| is_ours(line)).collect::<Vec<_>>(), [""; 0]);
    only_other_clusters_have_objects(&objects).await.unwrap();
    nothing_in_the_api(&cluster).await.unwrap();
    // That east has knocked once more on its way out may be mentioned.
    let members = mesh_status("west").unwrap().members;
    assert!(members.iter().all(|member| member.name.as_str() != "east"), "{members:?}");

    let install = ["install", "--cluster-name", "east", "--cluster-id", "1"];
    succeeds("east", &install).unwrap();
    pods_work(&cluster).await.unwrap();
    succeeds("east", &["uninstall"]).unwrap();
    only_other_clusters_have_objects(&objects).await.unwrap();
    let after = traces(&machines).unwrap();
    let (new, gone): (Vec<_>, Vec<_>) =
        (after.difference(&before).collect(), before.difference(&after).collect());
    assert_eq!((new, gone), (vec![], vec![]), "the second life left traces, or took something with it");

    succeeds("east", &install).unwrap();
    pods_work(&cluster).await.unwrap();
}

/// The kernel is the machine's, and every node of it has the same programs and maps: those of this cluster's nodes must
/// be gone from what there was, and no others.
async fn only_other_clusters_have_objects(installed: &BTreeMap<String, usize>) -> anyhow::Result<()> {
    let clusters = Playground::attach(&Layout::from_environment())?.clusters();
    let nodes: usize = clusters.iter().map(|cluster| cluster.nodes().len()).sum();
    let others: usize =
        clusters.iter().filter(|c| c.name() != "east").map(|cluster| cluster.nodes().len()).sum();
    for object in OBJECTS {
        let before = installed.get(object).copied().unwrap_or(0);
        ensure!(before > 0 && before % nodes == 0, "{before} of {object} on {nodes} nodes");
        eventually(LIMIT, || async {
            let now = bpf::census().get(object).copied().unwrap_or(0);
            ensure!(now == before / nodes * others, "{now} of {before} {object} are left");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn nothing_in_the_api(cluster: &Cluster) -> anyhow::Result<()> {
    let client = &cluster.client;
    let crds = Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await?;
    let names: Vec<_> = crds.iter().map(ResourceExt::name_any).filter(|name| is_ours(name)).collect();
    ensure!(names.is_empty(), "definitions are left: {names:?}");
    let namespace = Api::<Namespace>::all(client.clone()).get_opt(SYSTEM).await?;
    ensure!(namespace.is_none(), "the namespace is left");
    Ok(())
}

/// Pods that start now reach each other by a name.
async fn pods_work(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.renew_dns().await?;
    let nodes = cluster.nodes().await?;
    let scope = cluster.scope("anew").await?;
    scope.pod("web", Some(&nodes[0]), &["http", "--port", "8080"]).await?;
    scope.service("web", &[("http", "TCP", 8080)], &[]).await?;
    scope.pod("client", Some(&nodes[1]), &["pause"]).await?;
    let name = format!("web.{}.svc.cluster.local", scope.namespace);
    let urls = scope.urls("web", 8080).await?;
    for url in urls.into_iter().chain([format!("http://{name}:8080/")]) {
        let get = || async { scope.exec("client", &["get", &url, "-n", "3"]).await.and_then(Output::ok) };
        eventually(LIMIT, get).await.with_context(|| url.clone())?;
    }
    Ok(())
}
