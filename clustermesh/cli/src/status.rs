//! `tombolo status`: each part in a line, and what is wrong with it.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};
use kube::{Api, Client, api::ListParams};
use serde::Serialize;
use tombolo_model::{MeshStatus, NodeStatus};

use crate::{
    agents::{ask_daemon, ask_nodes},
    cluster::ClusterArgs,
    output::{self, Format},
};

/// Time between two attempts of `--wait`.
const RETRY: Duration = Duration::from_millis(500);

/// What `tombolo status` takes.
#[derive(clap::Args)]
#[command(after_help = "Exit code 0 when everything is well, 1 otherwise.\n\nExamples:\n  \
    tombolo status --wait\n  tombolo status -o json")]
pub struct Args {
    /// Wait until everything is well
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Report {
    nodes: Vec<NodeStatus>,
    mesh: Option<MeshStatus>,
    replicas: (i32, i32),
    problems: Vec<String>,
}

/// Prints the state; fails when something is wrong.
pub async fn run(cluster: &ClusterArgs, args: &Args) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let start = tokio::time::Instant::now();
    let report = loop {
        let report = collect(&client, &cluster.namespace).await;
        let wait = match &report {
            Ok(report) => !report.problems.is_empty(),
            Err(error) => is_passing(error),
        };
        if !wait || !args.wait || start.elapsed() > Duration::from_secs(args.timeout) {
            break report?;
        }
        tokio::time::sleep(RETRY).await;
    };
    match args.output {
        Format::Table => output::line(&text(&report))?,
        other => output::line(&other.render(&report)?)?,
    }
    if report.problems.is_empty() { Ok(()) } else { bail!("{} problem(s)", report.problems.len()) }
}

/// Whether the next attempt may succeed: the API server was not reached, or says that it is not well itself.
fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.code >= 500 || status.code == 429,
        Some(kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_)) => true,
        _ => false,
    }
}

async fn collect(client: &Client, namespace: &str) -> anyhow::Result<Report> {
    let mut problems = Vec::new();
    let mut nodes = Vec::new();
    for (node, answer) in ask_nodes::<NodeStatus>(client, namespace, "/v1/status").await? {
        match answer {
            Ok(status) => {
                if !status.ready && status.problems.is_empty() {
                    problems.push(format!("node {node}: the agent is not ready"));
                }
                problems.extend(status.problems.iter().map(|p| format!("node {node}: {p}")));
                nodes.push(status);
            }
            Err(error) => problems.push(format!("node {node}: {error:#}")),
        }
    }
    let all =
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("cannot list nodes")?;
    for node in all.iter().filter_map(|n| n.metadata.name.as_ref()) {
        if !nodes.iter().any(|n| &n.node == node)
            && !problems.iter().any(|p| p.starts_with(&format!("node {node}:")))
        {
            problems.push(format!("node {node}: no agent runs on it"));
        }
    }

    let deployment = Api::<Deployment>::namespaced(client.clone(), namespace)
        .get_opt("tombolo-clustermesh")
        .await?
        .and_then(|d| d.status)
        .unwrap_or_default();
    let replicas = (deployment.ready_replicas.unwrap_or(0), deployment.replicas.unwrap_or(0));
    if replicas.0 == 0 {
        problems.push("clustermesh: no replica is ready".to_owned());
    }
    let mesh = match ask_daemon(client, namespace, &["status"]).await {
        Ok(answer) => {
            let mesh: MeshStatus =
                serde_json::from_str(&answer).context("the daemon's answer is not readable")?;
            problems.extend(mesh.problems.iter().map(|p| format!("mesh: {p}")));
            Some(mesh)
        }
        Err(error) => {
            problems.push(format!("clustermesh: {error:#}"));
            None
        }
    };
    Ok(Report { nodes, mesh, replicas, problems })
}

fn text(report: &Report) -> String {
    let ready = report.nodes.iter().filter(|n| n.ready).count();
    let sessions = report.nodes.iter().filter(|n| n.session.connected).count();
    let tunnels = report.nodes.iter().filter(|n| n.tunnel.running).count();
    let total = report.nodes.len();
    let drops: u64 = report.nodes.iter().flat_map(|n| n.drops.values()).sum();
    let sum = |table: &str| report.nodes.iter().filter_map(|n| n.counts.get(table)).sum::<u64>();
    let most =
        |table: &str| report.nodes.iter().filter_map(|n| n.counts.get(table)).max().copied().unwrap_or(0);
    let mut lines = vec![
        format!(
            "nodes        {ready} of {total} ready, {} local endpoints, {drops} packets dropped",
            sum("endpoints")
        ),
        format!("sessions     {sessions} of {total} agents connected to the daemon"),
        format!("tables       {} identities, {} services", most("identities"), most("services")),
        format!("tunnel       {tunnels} of {total} running"),
        format!("clustermesh  {} of {} replicas ready", report.replicas.0, report.replicas.1),
    ];
    if let Some(mesh) = &report.mesh {
        let connected = mesh.members.iter().filter(|m| m.connected || m.id == mesh.id).count();
        lines.push(format!(
            "mesh         {} (id {}), {connected} of {} clusters connected, leader {}",
            mesh.cluster,
            mesh.id,
            mesh.members.len(),
            mesh.leader.as_ref().map_or("none", |l| l.as_str())
        ));
    }
    lines.extend(report.problems.iter().map(|p| format!("problem      {p}")));
    lines.join("\n")
}
