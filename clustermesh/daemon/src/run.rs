//! The life of a replica: wait for leadership, lead, give it up.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use anyhow::{Context, Result};
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tombolo_mesh_core::replication::{Change, Scope};
use tombolo_mesh_net::session::{Audience, ExporterHandle};
use tombolo_model::Kind;
use tracing::{info, warn};

use crate::{
    authority,
    config::Config,
    control,
    controller::{Controller, Output, Report},
    health,
    index::{Index, Transaction},
    leader::Candidate,
    serve::Server,
    status::Shared,
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
    let authority = Arc::new(authority::ensure(client, &config.namespace, &config.cluster_name).await?);
    let exporter = ExporterHandle::new(config.cluster_id);
    let (sender, mut outputs) = mpsc::channel(OUTPUTS);
    let (reports, reported) = mpsc::channel::<Report>(REPORTS);
    let index = Index::new(config.cluster_name.clone(), config.cluster_id);
    let controller = Controller::new(client, index, sender, config.identity_grace());
    let mut tasks = JoinSet::new();
    let watched = client.clone();
    tasks.spawn(async move { controller.run(&watched, reported).await });
    let server = Server::bind(client.clone(), config, authority, exporter.clone(), reports, status.clone())?;
    tasks.spawn(server.run());
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Transaction(transaction) => {
                status.count(&growth(&exporter, &transaction));
                for (key, error) in exporter.apply(transaction).refused {
                    warn!(?key, %error, "record cannot be sent");
                }
            }
            Output::Complete => {
                info!("the cluster has been read");
                exporter.set_scope(Scope::AllBut(BTreeSet::new()));
                status.update(|status| status.complete = true);
            }
        }
    }
    anyhow::bail!("the controller ended")
}

/// How many records of each kind come with a transaction, less those that go.
fn growth(exporter: &ExporterHandle, transaction: &Transaction) -> BTreeMap<Kind, i64> {
    let mut growth = BTreeMap::new();
    exporter.read(Audience::Nodes, |log| {
        for change in transaction {
            let key = change.key();
            let difference = match (change, log.get(&key).is_some()) {
                (Change::Upsert(_), false) => 1,
                (Change::Remove(_), true) => -1,
                _ => 0,
            };
            *growth.entry(key.kind()).or_default() += difference;
        }
    });
    growth
}
