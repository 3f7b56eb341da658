//! `tombolo token`: one-time tokens that admit a cluster.

use anyhow::Context;

use crate::{agents::ask_daemon, cluster::ClusterArgs, output};

/// What `tombolo token` takes.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Print a new token, which admits one cluster once
    #[command(
        after_help = "Example:\n  tombolo connect --context west \"$(tombolo token create --context east)\""
    )]
    Create {
        /// How long it can be used, like 30m or 24h
        #[arg(long, default_value = "1h")]
        ttl: String,
    },
    /// List the tokens that the mesh remembers
    #[command(after_help = "Example:\n  tombolo token list --context east")]
    List,
    /// Make a token useless
    #[command(after_help = "Example:\n  tombolo token revoke 3f1c5d2a90b14e77")]
    Revoke {
        /// The token's id, as `tombolo token list` shows it
        id: String,
    },
}

/// Runs one of them.
pub async fn run(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let said = match command {
        Command::Create { ttl } => create(cluster, ttl).await?,
        Command::List => ask(cluster, &["list"]).await?,
        Command::Revoke { id } => ask(cluster, &["revoke", id]).await?,
    };
    Ok(output::line(&said)?)
}

/// A new token of the cluster's mesh.
pub async fn create(cluster: &ClusterArgs, ttl: &str) -> anyhow::Result<String> {
    ask(cluster, &["create", "--ttl", ttl]).await.context("cannot create a token")
}

async fn ask(cluster: &ClusterArgs, arguments: &[&str]) -> anyhow::Result<String> {
    let client = cluster.client().await?;
    let command: Vec<_> = ["token"].iter().chain(arguments).copied().collect();
    Ok(ask_daemon(&client, &cluster.namespace, &command).await?.trim().to_owned())
}
