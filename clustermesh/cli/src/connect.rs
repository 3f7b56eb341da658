//! `tombolo connect` and `tombolo disconnect`: membership by the objects that GitOps would use.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tombolo_api::MeshPeer;

use crate::{
    agents::ask_daemon,
    cluster::ClusterArgs,
    delete,
    output::{self, progress},
    token,
};

const PEER: &str = "mesh";

/// What `tombolo connect` takes.
#[derive(clap::Args)]
#[command(after_help = "Joining any one member joins the whole mesh.\n\nExamples:\n  \
    tombolo connect --context east --destination-context west,north\n  \
    tombolo connect --context west \"$(tombolo token create --context east)\"\n  \
    tombolo connect --context east --destination-context west --dry-run")]
pub struct Args {
    /// The token of a member, made by `tombolo token create`
    #[arg(required_unless_present = "destination_context", conflicts_with = "destination_context")]
    token: Option<String>,
    /// Clusters of the kubeconfig that shall join the mesh of --context
    #[arg(long, value_delimiter = ',', value_name = "CONTEXT")]
    destination_context: Vec<String>,
    /// How long to wait for each cluster to be joined, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    /// Only say whether the mesh would let the clusters in; a token made for that ends after a minute, unused
    #[arg(long)]
    dry_run: bool,
}

/// What `tombolo disconnect` takes.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tombolo disconnect --context west\n  tombolo disconnect --context east --cluster west"
)]
pub struct DisconnectArgs {
    /// The cluster that leaves, by its name in the mesh [default: the one of --context]
    #[arg(long)]
    cluster: Option<String>,
}

/// Joins one or several clusters.
pub async fn run(cluster: &ClusterArgs, args: &Args) -> anyhow::Result<()> {
    if let Some(token) = &args.token {
        return join(cluster, token, args).await;
    }
    for context in &args.destination_context {
        let token = token::create(cluster, if args.dry_run { "1m" } else { "10m" }).await?;
        progress(&format!("{} {context}", if args.dry_run { "checking" } else { "joining" }));
        join(&cluster.with_context(context), &token, args)
            .await
            .with_context(|| format!("{context} did not join"))?;
    }
    Ok(())
}

async fn join(cluster: &ClusterArgs, token: &str, args: &Args) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    // The daemon checks the token without spending it, so that a bad one leaves nothing behind.
    let would = ask_daemon(&client, &cluster.namespace, &["token", "check", token.trim()]).await?;
    if args.dry_run {
        return Ok(output::line(would.trim())?);
    }
    replace_objects(&client, &cluster.namespace, token.trim()).await?;
    let outcome = wait_joined(&client, &cluster.namespace, args.timeout).await;
    if outcome.is_err() {
        remove_objects(&client, &cluster.namespace).await?;
    }
    progress(&outcome?);
    Ok(())
}

async fn replace_objects(client: &Client, namespace: &str, token: &str) -> anyhow::Result<()> {
    remove_objects(client, namespace).await?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "tombolo-peer"}, "stringData": {"token": token},
    }))?;
    let peer: MeshPeer = serde_json::from_value(json!({
        "apiVersion": "tombolo.io/v1alpha1", "kind": "MeshPeer",
        "metadata": {"name": PEER}, "spec": {"secretRef": {"name": "tombolo-peer", "key": "token"}},
    }))?;
    let create = PostParams::default();
    Api::namespaced(client.clone(), namespace)
        .create(&create, &secret)
        .await
        .context("cannot store the token")?;
    Api::namespaced(client.clone(), namespace)
        .create(&create, &peer)
        .await
        .context("cannot create the MeshPeer")?;
    Ok(())
}

async fn remove_objects(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let (peers, secrets): (Api<MeshPeer>, Api<Secret>) =
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
    let left = "cannot delete what an earlier attempt left";
    delete::if_present(&peers, PEER).await.context(left)?;
    delete::if_present(&secrets, "tombolo-peer").await.context(left)?;
    Ok(())
}

/// The daemon's own words once it has joined, or why it has not.
async fn wait_joined(client: &Client, namespace: &str, timeout: u64) -> anyhow::Result<String> {
    let peers: Api<MeshPeer> = Api::namespaced(client.clone(), namespace);
    let decided = async {
        loop {
            let peer = peers.get(PEER).await.context("cannot read the MeshPeer")?;
            let conditions = peer.status.map(|s| s.conditions).unwrap_or_default();
            match conditions.into_iter().find(|c| c.type_ == "Joined") {
                Some(joined) if joined.status == "True" => return Ok(joined.message),
                Some(refused) if refused.status == "False" => bail!("{}", refused.message),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(timeout), decided).await {
        Ok(result) => result,
        Err(_) => bail!(
            "no decision within {timeout} s: is the other cluster's daemon reachable at the token's addresses? \
             `kubectl -n {namespace} logs deploy/tombolo-clustermesh` says what it tries"
        ),
    }
}

/// Takes a cluster out of the mesh, living or dead.
pub async fn disconnect(cluster: &ClusterArgs, args: &DisconnectArgs) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let mut command = vec!["leave"];
    if let Some(name) = &args.cluster {
        command.extend(["--cluster", name]);
    }
    let said = ask_daemon(&client, &cluster.namespace, &command).await?;
    remove_objects(&client, &cluster.namespace).await?;
    progress(said.trim());
    Ok(())
}
