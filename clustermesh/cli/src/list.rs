//! `tombolo endpoint|identity|service|bpf`: what the nodes know, as the agents tell it.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::bail;
use kube::{Api, ResourceExt, api::ListParams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tombolo_api::MeshIdentity;
use tombolo_model::{Address, Backend, BackendState, ClusterId, Identity, ServiceRecord};

use crate::{
    agents::ask_nodes,
    cluster::ClusterArgs,
    output::{self, Format},
};

/// Flags that all lists have.
#[derive(clap::Args)]
pub struct ListArgs {
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What can be listed of one kind.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List all
    List(ListArgs),
}

/// A pod as its node's agent knows it.
#[derive(Deserialize, Serialize)]
struct Endpoint {
    id: u32,
    pod: Pod,
    addresses: Vec<Address>,
    identity: Option<Identity>,
    host_interface: String,
}

#[derive(Deserialize, Serialize)]
struct Pod {
    namespace: String,
    name: String,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    key: String,
    value: String,
}

/// The pods that tombolo connects, node by node.
pub async fn endpoints(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let Command::List(args) = command;
    let all: BTreeMap<String, Vec<Endpoint>> = ask(cluster, "/v1/endpoints").await?;
    if args.output != Format::Table {
        return Ok(output::line(&args.output.render(&all)?)?);
    }
    let rows = all.iter().flat_map(|(node, endpoints)| {
        endpoints.iter().map(|e| {
            let addresses: Vec<_> = e.addresses.iter().map(ToString::to_string).collect();
            let identity = e.identity.map_or("-".to_owned(), |i| i.to_string());
            let (namespace, name) = (e.pod.namespace.clone(), e.pod.name.clone());
            [
                node.clone(),
                namespace,
                name,
                e.id.to_string(),
                identity,
                addresses.join(","),
                e.host_interface.clone(),
            ]
        })
    });
    let header = ["NODE", "NAMESPACE", "POD", "ENDPOINT", "IDENTITY", "ADDRESSES", "INTERFACE"];
    Ok(output::line(&output::table(header, rows))?)
}

/// Services as the nodes balance them, backends of other clusters included.
pub async fn services(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let Command::List(args) = command;
    let all: BTreeMap<String, Vec<ServiceRecord>> = ask(cluster, "/v1/services").await?;
    // Nodes of one cluster are told the same.
    let services = all.into_values().next().unwrap_or_default();
    if args.output != Format::Table {
        return Ok(output::line(&args.output.render(&services)?)?);
    }
    let rows = services.iter().flat_map(service_rows);
    let header = ["NAMESPACE", "SERVICE", "FRONTEND", "GLOBAL", "BACKENDS"];
    Ok(output::line(&output::table(header, rows))?)
}

fn service_rows(service: &ServiceRecord) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for frontend in &service.frontends {
        for port in &service.ports {
            let frontend = SocketAddr::new(frontend.to_ip(), port.port);
            let mut by_cluster: BTreeMap<ClusterId, usize> = BTreeMap::new();
            // A pod has an address of each family, and serves the frontend of its own.
            let serves = |b: &&Backend| {
                b.state == BackendState::Ready && b.address.to_ip().is_ipv4() == frontend.is_ipv4()
            };
            for backend in port.backends.iter().filter(serves) {
                *by_cluster.entry(backend.cluster).or_default() += 1;
            }
            let backends: Vec<_> = by_cluster.iter().map(|(id, n)| format!("{n} in cluster {id}")).collect();
            rows.push([
                service.namespace.clone(),
                service.name.clone(),
                format!("{frontend}/{}", port.protocol),
                if service.global { "yes" } else { "no" }.to_owned(),
                if backends.is_empty() { "none".to_owned() } else { backends.join(", ") },
            ]);
        }
    }
    rows
}

/// Security identities of this cluster.
pub async fn identities(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let Command::List(args) = command;
    let api: Api<MeshIdentity> = Api::all(cluster.client().await?);
    let all = api.list(&ListParams::default()).await?.items;
    if args.output != Format::Table {
        return Ok(output::line(&args.output.render(&all)?)?);
    }
    let rows = all.iter().map(|identity| {
        let number = identity.name_any();
        let labels: Vec<_> = identity.spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let shown = number.parse().map_or(number, |bits| Identity::from_bits(bits).to_string());
        [shown, labels.join(" ")]
    });
    Ok(output::line(&output::table(["IDENTITY", "LABELS"], rows))?)
}

/// What `tombolo bpf` takes.
#[derive(clap::Args)]
#[command(
    after_help = "Maps: address, backend, backend_slot, drops, endpoint, flow, identity, origin, pod_connections, policy, \
    prefix, service, snat, socket_backend\n\nExamples:\n  tombolo bpf service list\n  tombolo bpf drops list --node node-1"
)]
pub struct BpfArgs {
    /// The map
    map: String,
    #[command(subcommand)]
    command: Command,
    /// Only this node
    #[arg(long, global = true)]
    node: Option<String>,
}

/// Entries of a BPF map, node by node.
pub async fn bpf(cluster: &ClusterArgs, args: &BpfArgs) -> anyhow::Result<()> {
    let Command::List(list) = &args.command;
    let path = format!("/v1/bpf/{}", args.map.replace('-', "_"));
    let mut all: BTreeMap<String, Vec<Entry>> = ask(cluster, &path).await?;
    if let Some(node) = &args.node {
        all.retain(|name, _| name == node);
        if all.is_empty() {
            bail!("no agent runs on a node named {node:?}: `kubectl get nodes` lists them");
        }
    }
    if list.output != Format::Table {
        return Ok(output::line(&list.output.render(&all)?)?);
    }
    let rows = all.iter().flat_map(|(node, entries)| {
        entries.iter().map(|entry| [node.clone(), entry.key.clone(), entry.value.clone()])
    });
    Ok(output::line(&output::table(["NODE", "KEY", "VALUE"], rows))?)
}

/// The answers of all nodes; the first that fails is the error.
async fn ask<T: DeserializeOwned>(cluster: &ClusterArgs, path: &str) -> anyhow::Result<BTreeMap<String, T>> {
    let client = cluster.client().await?;
    let answers = ask_nodes::<Value>(&client, &cluster.namespace, path).await?;
    answers
        .into_iter()
        .map(|(node, answer)| {
            let value = answer.map_err(|e| e.context(format!("node {node}")))?;
            Ok((node, serde_json::from_value(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tombolo_model::{Affinity, OnClusterLoss, Protocol, ServicePort};

    use super::*;

    #[test]
    fn a_pod_of_both_families_is_one_backend_of_each_frontend() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let backend = |text: &str| Backend {
            address: address(text),
            port: 8080,
            cluster: ClusterId::try_from(1).unwrap(),
            node: "n1".into(),
            zone: String::new(),
            state: BackendState::Ready,
        };
        let service = ServiceRecord {
            cluster: ClusterId::try_from(1).unwrap(),
            namespace: "shop".into(),
            name: "web".into(),
            frontends: vec![address("10.96.0.5"), address("fd96::5")],
            global: false,
            shared: false,
            affinity: Affinity::None,
            on_cluster_loss: OnClusterLoss::Drain,
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                backends: vec![backend("10.1.0.2"), backend("fd64::2")],
            }],
        };
        let rows = service_rows(&service);
        let shown: Vec<_> = rows.iter().map(|row| (row[2].as_str(), row[4].as_str())).collect();
        assert_eq!(shown, [("10.96.0.5:80/TCP", "1 in cluster 1"), ("[fd96::5]:80/TCP", "1 in cluster 1")]);
    }
}
