//! The life of a replica: wait for leadership, lead, give it up.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tombolo_mesh_core::replication::Change;
use tombolo_mesh_net::{
    mirror::Standby,
    raft::Timing,
    session::{Audience, ExporterHandle},
    storage::ObjectStore,
};
use tombolo_model::{Kind, Record};
use tracing::{info, warn};

use crate::{
    authority::{Keeper, NodeTrusts, Rotation},
    config::Config,
    control,
    controller::{Controller, Output, Report},
    health,
    index::{Index, Transaction},
    leader::Candidate,
    member_store::{self, SecretStore},
    mesh::{Mesh, MeshConfig, Parts, Runner, Stores, record::Nodes},
    mesh_peer,
    serve::{self, Reports, Server},
    standby,
    status::Shared,
};

/// Reports of nodes that may wait.
const REPORTS: usize = 256;
/// Transactions that may wait.
const OUTPUTS: usize = 64;
/// How long nodes wait for the records of other clusters after a change of the leader: a service told without the
/// backends it has elsewhere would lose them for a moment.
const FIRST_SYNC: Duration = Duration::from_secs(3);

/// Runs a replica until `shutdown`.
///
/// # Errors
/// An address or the socket is taken, or the authority of the cluster is damaged.
pub async fn run(client: Client, config: Config, status: Shared, shutdown: CancellationToken) -> Result<()> {
    let config = Arc::new(config);
    let leading = control::Leading::default();
    let mut servers = JoinSet::new();
    servers.spawn({
        let (config, status) = (config.clone(), status.clone());
        async move {
            let served = health::serve(config.metrics, status).await;
            served.with_context(|| format!("cannot serve metrics on {}", config.metrics))
        }
    });
    servers.spawn({
        let (config, status, leading) = (config.clone(), status.clone(), leading.clone());
        async move {
            let served = control::serve(&config.socket, status, leading).await;
            served.with_context(|| format!("cannot serve the socket {}", config.socket.display()))
        }
    });
    tokio::select! {
        Some(ended) = servers.join_next() => ended.context("a server panicked")?,
        result = elect(&client, &config, &status, &leading, &shutdown) => result,
    }
}

async fn elect(
    client: &Client,
    config: &Config,
    status: &Shared,
    leading: &control::Leading,
    shutdown: &CancellationToken,
) -> Result<()> {
    let source = Some(config.ca_secret.clone()).filter(|name| !name.is_empty());
    let keeper = Keeper::new(client, &config.namespace, config.cluster_name.clone(), source);
    loop {
        let mut standby = Standby::new(serve::local(config));
        let mut leadership = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            leadership = Candidate::new(client.clone(), config).campaign() => leadership,
            never = standby::follow(client, config, &keeper, &mut standby) => match never {},
        };
        let held = standby.records().collect();
        drop(standby);
        status.lead(true);
        // Dropping the future of `lead` ends everything it started, before another replica may begin.
        let ended = tokio::select! {
            lost = leadership.hold() => {
                warn!(%lost, "this replica does not lead any more");
                None
            }
            () = shutdown.cancelled() => Some(Ok(())),
            result = lead(client, config, status, leading, keeper.clone(), held) => Some(result.map(|never| match never {})),
        };
        status.lead(false);
        leading.set(None);
        if let Some(result) = ended {
            if let Err(error) = leadership.release().await {
                warn!(%error, "cannot give the lease up, it expires");
            }
            return result;
        }
    }
}

/// What the leader does; ends with an error only.
async fn lead(
    client: &Client,
    config: &Config,
    status: &Shared,
    leading: &control::Leading,
    keeper: Keeper,
    held: Vec<Arc<Record>>,
) -> Result<Infallible> {
    let nodes_trust = NodeTrusts::default();
    let (rotation, rotating, authority) =
        Rotation::new(keeper.clone(), keeper.ensure().await?, nodes_trust.clone());
    let exporter = ExporterHandle::new(config.cluster_id);
    let (sender, mut outputs) = mpsc::channel(OUTPUTS);
    let (reports, reported) = mpsc::channel::<Report>(REPORTS);
    let index = Index::new(config.cluster_name.clone(), config.cluster_id);
    let controller = Controller::new(client, index, sender, config.identity_grace());
    let mut tasks = JoinSet::new();
    let watched = client.clone();
    tasks.spawn(async move { controller.run(&watched, reported).await });
    let reports = Reports { reports, trusts: nodes_trust };
    let server =
        Server::bind(client.clone(), config, authority.clone(), exporter.clone(), reports, status.clone())?;
    let (nodes, known_nodes) = watch::channel(None);
    let store = |name| {
        let (client, namespace) = (client.clone(), config.namespace.clone());
        let open =
            move || Box::new(SecretStore::new(client.clone(), &namespace, name)) as Box<dyn ObjectStore>;
        Arc::new(open) as Stores
    };
    let parts = Parts {
        exporter: exporter.clone(),
        authority,
        trust: server.trust(),
        dialer: server.dialer(),
        stats: server.stats(),
        stores: store(member_store::STATE),
        memory: store(member_store::MEMORY),
        held,
        nodes: known_nodes,
    };
    let (mesh, runner) = mesh(config, parts);
    tasks.spawn(async move { match runner.run().await {} });
    tasks.spawn(server.run(mesh.clone()));
    tasks.spawn(mesh_peer::run(client.clone(), config.namespace.clone(), mesh.clone()));
    let rotated = mesh.clone();
    tasks.spawn(async move { match rotation.run(rotated).await {} });
    leading.set(Some((mesh.clone(), rotating)));
    mesh.first_sync(FIRST_SYNC).await;
    let mut complete = false;
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Transaction(transaction) => {
                let of_nodes = transaction.iter().any(|change| change.key().kind() == Kind::Node);
                status.count(&growth(&exporter, &transaction));
                for (key, error) in exporter.apply(transaction).refused {
                    warn!(?key, %error, "record cannot be sent");
                }
                if complete && of_nodes {
                    nodes.send_replace(Some(Nodes::read(&exporter, config.cluster_id)));
                }
            }
            Output::Complete => {
                info!("the cluster has been read");
                complete = true;
                nodes.send_replace(Some(Nodes::read(&exporter, config.cluster_id)));
                status.update(|status| status.complete = true);
            }
        }
    }
    anyhow::bail!("the controller ended")
}

fn mesh(config: &Config, parts: Parts) -> (Mesh, Runner) {
    let config = MeshConfig {
        local: serve::local(config),
        advertise: config.advertise.clone(),
        address: config.address(),
        drain: Duration::from_secs(config.drain_seconds.into()),
        timing: Timing::default(),
    };
    Mesh::new(config, parts)
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
