//! The session with the cluster's daemon: enrolment, records in, facts out.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tombolo_mesh_core::{
    replication::{Delta, Limits},
    wire::{self, EndpointFact, NodeFacts},
};
use tombolo_mesh_net::{
    enroll::enroll,
    node::{NodeClient, NodeClientConfig, NodeStatus},
    session::{Backoff, Local},
    tls::{Credentials, TrustStore},
    transport::{Dialer, Stats},
};
use tombolo_model::{ClusterId, ClusterName, TunnelKey};
use tombolo_node_core::state::{Change, State};

use crate::intent::Intent;

/// How long the records of clusters that the daemon does not know yet are waited for at start.
const PENDING: Duration = Duration::from_secs(10);

/// Between attempts to enrol.
const ENROLL_AGAIN: Duration = Duration::from_secs(2);

/// What a session needs.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The cluster's CA.
    pub ca_file: PathBuf,
    /// The token that introduces the node.
    pub token_file: PathBuf,
    /// The public half of the node's tunnel.
    pub tunnel: TunnelKey,
}

/// A session that keeps itself up.
#[derive(Debug)]
pub struct Session {
    /// Its state, as it changes.
    pub status: watch::Receiver<NodeStatus>,
}

/// Starts the session: it enrols at one of `servers`, then keeps `intent` as the daemon says.
pub fn start(
    config: SessionConfig,
    servers: watch::Receiver<Vec<SocketAddr>>,
    intent: Arc<Intent>,
) -> anyhow::Result<Session> {
    let ca = fs::read_to_string(&config.ca_file)
        .with_context(|| format!("the cluster's CA {:?} cannot be read", config.ca_file))?;
    let trust = TrustStore::new();
    trust.set_pem(&config.cluster, &ca)?;
    let credentials = Credentials::none();
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let dialer = Dialer::bind(local, Arc::clone(&credentials), trust)?;
    let stats = Arc::new(Stats::default());
    let (facts, told) = watch::channel(facts(&config, &intent));
    let client_config = NodeClientConfig {
        local: Local {
            cluster: config.cluster.clone(),
            cluster_id: config.cluster_id,
            software: format!("tombolo-node {}", env!("CARGO_PKG_VERSION")),
        },
        dialer: dialer.clone(),
        servers: servers.clone(),
        facts: told,
        limits: Limits::default(),
        backoff: Backoff::default(),
    };
    let (deltas, received) = mpsc::channel(64);
    let client = NodeClient::new(client_config, deltas, Arc::clone(&stats));
    let status = client.status();
    tokio::spawn(tell(config.clone(), Arc::clone(&intent), facts));
    tokio::spawn(consume(received, intent));
    tokio::spawn(async move {
        let first = keep_enrolled(&config, &dialer, servers.clone(), &credentials, &stats, None).await;
        tokio::spawn(client.run());
        let mut renew_at = first;
        loop {
            renew_at =
                keep_enrolled(&config, &dialer, servers.clone(), &credentials, &stats, Some(renew_at)).await;
        }
    });
    Ok(Session { status })
}

/// Enrols, at `at` if given; when to do it again.
async fn keep_enrolled(
    config: &SessionConfig,
    dialer: &Dialer,
    mut servers: watch::Receiver<Vec<SocketAddr>>,
    credentials: &Credentials,
    stats: &Arc<Stats>,
    at: Option<SystemTime>,
) -> SystemTime {
    if let Some(wait) = at.and_then(|at| at.duration_since(SystemTime::now()).ok()) {
        tokio::time::sleep(wait).await;
    }
    loop {
        let addresses = servers.borrow_and_update().clone();
        for server in addresses {
            match enroll_at(config, dialer, server, credentials, stats).await {
                Ok(renew_at) => return renew_at,
                Err(e) => tracing::warn!(%server, error = %format!("{e:#}"), "cannot enrol"),
            }
        }
        tokio::time::sleep(ENROLL_AGAIN).await;
    }
}

async fn enroll_at(
    config: &SessionConfig,
    dialer: &Dialer,
    server: SocketAddr,
    credentials: &Credentials,
    stats: &Arc<Stats>,
) -> anyhow::Result<SystemTime> {
    // Read each time: kubelet replaces it before it expires.
    let token = fs::read_to_string(&config.token_file)
        .with_context(|| format!("the token {:?} cannot be read", config.token_file))?;
    let enrolled = enroll(dialer, server, &config.cluster, token.trim(), stats).await?;
    enrolled.install(credentials)?;
    Ok(enrolled.renew_at())
}

/// Applies what the daemon says. The receiver outlives single sessions, so that only true changes arrive here.
async fn consume(mut deltas: mpsc::Receiver<Delta>, intent: Arc<Intent>) {
    intent.write(State::begin_sync);
    let mut pending_since = None;
    let mut synced = false;
    loop {
        let delta = tokio::select! {
            delta = deltas.recv() => match delta {
                Some(delta) => Some(delta),
                None => return,
            },
            () = deadline(pending_since), if !synced => None,
        };
        let complete = delta.as_ref().is_none_or(|d| d.complete && d.pending.is_empty());
        if let Some(delta) = &delta
            && delta.complete
            && !synced
        {
            note_pending(&delta.pending, &mut pending_since);
        }
        intent.write(|state| {
            for change in delta.into_iter().flat_map(|delta| delta.changes) {
                state.apply(match change {
                    wire::Change::Upsert(record) => Change::Upsert(Arc::unwrap_or_clone(record)),
                    wire::Change::Remove(key) => Change::Delete(key),
                });
            }
            if complete && !synced {
                state.complete_sync();
                // Whoever is woken finds the tables as the records want them.
                state.refresh();
                synced = true;
            }
        });
    }
}

fn note_pending(pending: &BTreeSet<ClusterId>, since: &mut Option<tokio::time::Instant>) {
    if !pending.is_empty() && since.is_none() {
        tracing::info!(?pending, "waiting for the records of other clusters");
        *since = Some(tokio::time::Instant::now());
    }
}

async fn deadline(pending_since: Option<tokio::time::Instant>) {
    match pending_since {
        Some(since) => tokio::time::sleep_until(since + PENDING).await,
        None => std::future::pending().await,
    }
}

/// Tells the daemon what only this node knows, whenever it changes.
async fn tell(config: SessionConfig, intent: Arc<Intent>, facts_sender: watch::Sender<NodeFacts>) {
    let mut changes = intent.changes();
    while changes.changed().await.is_ok() {
        let now = facts(&config, &intent);
        facts_sender.send_if_modified(|before| {
            let modified = *before != now;
            *before = now;
            modified
        });
    }
}

fn facts(config: &SessionConfig, intent: &Intent) -> NodeFacts {
    let endpoints = intent.read(|state| {
        let all = state.endpoints().iter().map(|endpoint| {
            let pod = &endpoint.wiring.pod;
            EndpointFact {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                addresses: endpoint.wiring.addresses.clone(),
            }
        });
        all.collect()
    });
    NodeFacts { tunnel: Some(config.tunnel), endpoints }
}
