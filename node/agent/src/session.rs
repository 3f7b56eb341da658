//! The session with the cluster's daemon: enrolment, records in, facts out.

mod authorities;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tombolo_mesh_core::{
    replication::{Delta, Limits},
    trust::Pin,
    wire::{self, EndpointFact, NodeFacts},
};
use tombolo_mesh_net::{
    enroll::enroll,
    node::{NodeClient, NodeClientConfig, NodeStatus},
    session::{Backoff, Local},
    socket::ANY,
    tls::{Credentials, TrustStore},
    transport::{Dialer, Stats},
};
use tombolo_model::{ClusterId, ClusterName, TunnelKey};
use tombolo_node_core::state::{Change, State};

use self::authorities::Authorities;
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
    let trust = TrustStore::new();
    let authorities = Authorities::read(config.cluster.clone(), config.ca_file.clone(), Arc::clone(&trust))?;
    let trusted = Trusted { authorities: authorities.pins(), issuer: watch::Sender::default() };
    let credentials = Credentials::none();
    let dialer = Dialer::bind(ANY, Arc::clone(&credentials), trust)?;
    let stats = Arc::new(Stats::default());
    let (facts, told) = watch::channel(facts(&config, &intent, &trusted));
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
    tokio::spawn(authorities.follow());
    tokio::spawn(tell(config.clone(), Arc::clone(&intent), trusted.clone(), facts));
    tokio::spawn(consume(received, intent));
    let mut enrolment = Enrolment { config, dialer, servers, credentials, stats, trusted };
    tokio::spawn(async move {
        let mut renew_at = enrolment.renew().await;
        tokio::spawn(client.run());
        loop {
            enrolment.wait(renew_at).await;
            renew_at = enrolment.renew().await;
        }
    });
    Ok(Session { status })
}

/// Whom the node trusts, and who vouches for it.
#[derive(Clone)]
struct Trusted {
    authorities: watch::Receiver<Vec<Pin>>,
    issuer: watch::Sender<Option<Pin>>,
}

/// Keeps the node's certificate good.
struct Enrolment {
    config: SessionConfig,
    dialer: Dialer,
    servers: watch::Receiver<Vec<SocketAddr>>,
    credentials: Arc<Credentials>,
    stats: Arc<Stats>,
    trusted: Trusted,
}

impl Enrolment {
    /// Until the certificate has to be renewed, or the authorities change: a former one is not trusted for long.
    async fn wait(&mut self, renew_at: SystemTime) {
        let left = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
        // The sender lives as long as the agent.
        let _ = tokio::time::timeout(left, self.trusted.authorities.changed()).await;
    }

    /// Enrols; when to do it again.
    async fn renew(&mut self) -> SystemTime {
        loop {
            let addresses = self.servers.borrow_and_update().clone();
            for server in addresses {
                match self.enroll_at(server).await {
                    Ok(renew_at) => return renew_at,
                    Err(e) => tracing::warn!(%server, error = %format!("{e:#}"), "cannot enrol"),
                }
            }
            tokio::time::sleep(ENROLL_AGAIN).await;
        }
    }

    async fn enroll_at(&self, server: SocketAddr) -> anyhow::Result<SystemTime> {
        let config = &self.config;
        // Read each time: kubelet replaces it before it expires.
        let token = fs::read_to_string(&config.token_file)
            .with_context(|| format!("the token {:?} cannot be read", config.token_file))?;
        let enrolled = enroll(&self.dialer, server, &config.cluster, token.trim(), &self.stats).await?;
        enrolled.install(&self.credentials)?;
        self.trusted.issuer.send_replace(enrolled.issuer());
        Ok(enrolled.renew_at())
    }
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
async fn tell(
    config: SessionConfig,
    intent: Arc<Intent>,
    trusted: Trusted,
    facts_sender: watch::Sender<NodeFacts>,
) {
    let mut changes = intent.changes();
    let (mut authorities, mut issuer) = (trusted.authorities.clone(), trusted.issuer.subscribe());
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Ok(()) = authorities.changed() => {}
            Ok(()) = issuer.changed() => {}
        }
        let now = facts(&config, &intent, &trusted);
        facts_sender.send_if_modified(|before| {
            let modified = *before != now;
            *before = now;
            modified
        });
    }
}

fn facts(config: &SessionConfig, intent: &Intent, trusted: &Trusted) -> NodeFacts {
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
    NodeFacts {
        tunnel: Some(config.tunnel),
        endpoints,
        authorities: trusted.authorities.borrow().clone(),
        issuer: *trusted.issuer.borrow(),
    }
}
