//! The life of a replica: wait for leadership, lead, give it up.

use std::{convert::Infallible, sync::Arc};

use anyhow::{Context, Result};
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    authority,
    config::Config,
    control,
    controller::{Controller, Output, Report},
    health,
    index::{Change, Index},
    leader::Candidate,
    status::{Shared, count},
};

/// Reports of nodes that may wait.
const REPORTS: usize = 256;
/// Transactions that may wait.
const OUTPUTS: usize = 64;

/// Runs a replica until `shutdown`.
///
/// # Errors
/// An address or the socket is taken, or the authority of the cluster is damaged.
pub async fn run(client: Client, config: Config, status: Shared, shutdown: CancellationToken) -> Result<()> {
    let config = Arc::new(config);
    let mut servers = JoinSet::new();
    servers.spawn({
        let (config, status) = (config.clone(), status.clone());
        async move {
            let served = health::serve(config.metrics, status).await;
            served.with_context(|| format!("cannot serve metrics on {}", config.metrics))
        }
    });
    servers.spawn({
        let (config, status) = (config.clone(), status.clone());
        async move {
            let served = control::serve(&config.socket, status).await;
            served.with_context(|| format!("cannot serve the socket {}", config.socket.display()))
        }
    });
    tokio::select! {
        Some(ended) = servers.join_next() => ended.context("a server panicked")?,
        result = elect(&client, &config, &status, &shutdown) => result,
    }
}

async fn elect(
    client: &Client,
    config: &Config,
    status: &Shared,
    shutdown: &CancellationToken,
) -> Result<()> {
    loop {
        let mut leadership = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            leadership = Candidate::new(client.clone(), config).campaign() => leadership,
        };
        status.lead(true);
        // Dropping the future of `lead` ends everything it started, before another replica may begin.
        let ended = tokio::select! {
            lost = leadership.hold() => {
                warn!(%lost, "this replica does not lead any more");
                None
            }
            () = shutdown.cancelled() => Some(Ok(())),
            result = lead(client, config, status) => Some(result.map(|never| match never {})),
        };
        status.lead(false);
        if let Some(result) = ended {
            if let Err(error) = leadership.release().await {
                warn!(%error, "cannot give the lease up, it expires");
            }
            return result;
        }
    }
}

/// What the leader does; ends with an error only.
async fn lead(client: &Client, config: &Config, status: &Shared) -> Result<Infallible> {
    let _authority = authority::ensure(client, &config.namespace, &config.cluster_name).await?;
    let (sender, mut outputs) = mpsc::channel(OUTPUTS);
    let (_reports, reported) = mpsc::channel::<Report>(REPORTS);
    let index = Index::new(config.cluster_name.clone(), config.cluster_id);
    let controller = Controller::new(client, index, sender, config.identity_grace());
    let mut tasks = JoinSet::new();
    let watched = client.clone();
    tasks.spawn(async move { controller.run(&watched, reported).await });
    let mut keys = std::collections::BTreeSet::new();
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Transaction(transaction) => {
                for change in transaction {
                    match change {
                        Change::Upsert(record) => drop(keys.insert(record.key())),
                        Change::Remove(key) => drop(keys.remove(&key)),
                    }
                }
                status.update(|status| {
                    status.transactions += 1;
                    status.records = count(keys.iter());
                });
            }
            Output::Complete => {
                info!("the cluster has been read");
                status.update(|status| status.complete = true);
            }
        }
    }
    anyhow::bail!("the controller ended")
}
