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
}

/// Runs one of them.
pub async fn run(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let Command::Create { ttl } = command;
    Ok(output::line(&create(cluster, ttl).await?)?)
}

/// A new token of the cluster's mesh.
pub async fn create(cluster: &ClusterArgs, ttl: &str) -> anyhow::Result<String> {
    let client = cluster.client().await?;
    let token = ask_daemon(&client, &cluster.namespace, &["token", "create", "--ttl", ttl])
        .await
        .context("cannot create a token")?;
    Ok(token.trim().to_owned())
}
