//! Asks the agents and the daemon for what they know, over their status sockets.

use anyhow::{Context, bail};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use crate::exec;

/// The answer of each node's agent to `path`, with the node's name, ordered by node.
pub async fn ask_nodes<T: DeserializeOwned>(
    client: &Client,
    namespace: &str,
    path: &str,
) -> anyhow::Result<Vec<(String, anyhow::Result<T>)>> {
    let pods = exec::pods(client, namespace, "node").await?;
    if pods.is_empty() {
        bail!(
            "no agent runs in namespace {namespace}: run `tombolo install`, or name another by --namespace"
        );
    }
    let answers = pods.iter().map(|(pod, node)| async move {
        let text =
            exec::run(client, namespace, pod, "agent", &["/usr/bin/tombolo-node", "query", path]).await;
        let parsed =
            text.and_then(|t| serde_json::from_str(&t).context("the agent's answer is not readable"));
        (node.clone(), parsed)
    });
    Ok(join_all(answers).await)
}

/// What the leading daemon prints for a command of `tombolo-clustermesh`.
pub async fn ask_daemon(client: &Client, namespace: &str, command: &[&str]) -> anyhow::Result<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease =
        leases.get_opt("tombolo-clustermesh").await.context("cannot reach the API server")?.with_context(
            || format!("no mesh daemon runs in namespace {namespace}: run `tombolo install`"),
        )?;
    let leader = lease
        .spec
        .and_then(|s| s.holder_identity)
        .filter(|holder| !holder.is_empty())
        .context("no replica of tombolo-clustermesh leads at the moment: try again in a few seconds")?;
    let command: Vec<_> =
        std::iter::once("/usr/bin/tombolo-clustermesh").chain(command.iter().copied()).collect();
    exec::run(client, namespace, &leader, "clustermesh", &command).await
}
