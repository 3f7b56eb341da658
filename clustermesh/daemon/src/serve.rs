//! The QUIC side of the leader: enrolment of nodes, their sessions, and those of other clusters.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tombolo_mesh_core::trust::{NodeName, Service, SpiffeId};
use tombolo_mesh_net::{
    enroll::{self, EnrollServer},
    node::{NodeEvent, NodeServer},
    session::{ExporterHandle, Local},
    tls::{CertificateAuthority, Credentials, TrustStore},
    transport::{Accepted, Dialer, Listener, Stats},
};
use tombolo_model::ClusterName;
use tracing::{debug, error};

use crate::{
    authority::NodeTrusts, config::Config, controller::Report, mesh::Mesh, status::Shared,
    token_review::Reviewer,
};

/// How long the daemon's own certificate is valid; it is made anew after a third of that.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Events of nodes that may wait.
const EVENTS: usize = 256;

/// See the module.
pub struct Server {
    listener: Listener,
    enrolment: Arc<EnrollServer>,
    nodes: NodeServer,
    stats: Arc<Stats>,
    trust: Arc<TrustStore>,
    events: mpsc::Receiver<(NodeName, NodeEvent)>,
    reports: Reports,
    status: Shared,
    authority: watch::Receiver<Arc<CertificateAuthority>>,
    identity: OwnIdentity,
}

/// Where goes what nodes say.
pub struct Reports {
    /// What they know first.
    pub reports: mpsc::Sender<Report>,
    /// Whom they trust.
    pub trusts: NodeTrusts,
}

/// Who this daemon is in its sessions.
pub fn local(config: &Config) -> Local {
    Local {
        cluster: config.cluster_name.clone(),
        cluster_id: config.cluster_id,
        software: concat!("tombolo-clustermesh ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// The certificate that the daemon shows.
struct OwnIdentity {
    id: SpiffeId,
    cluster: ClusterName,
    trust: Arc<TrustStore>,
    credentials: Arc<Credentials>,
}

impl Server {
    /// Listens. Nodes get what `exporter` has; what they say goes to `reports`.
    ///
    /// # Errors
    /// The address is taken, or the authority cannot sign.
    pub fn bind(
        client: Client,
        config: &Config,
        mut authority: watch::Receiver<Arc<CertificateAuthority>>,
        exporter: ExporterHandle,
        reports: Reports,
        status: Shared,
    ) -> Result<Self> {
        let cluster = config.cluster_name.clone();
        let stats: Arc<Stats> = Arc::default();
        let trust = TrustStore::new();
        let identity = OwnIdentity {
            id: SpiffeId::Daemon(cluster.clone()),
            cluster: cluster.clone(),
            trust: trust.clone(),
            credentials: Credentials::none(),
        };
        let first = authority.borrow_and_update().clone();
        identity.renew(&first)?;
        let credentials = identity.credentials.clone();
        let listener =
            Listener::bind(config.listen, cluster.clone(), credentials, trust.clone(), stats.clone())?;
        let reviewer = Arc::new(Reviewer::new(client, config.namespace.clone()));
        let enrolment = EnrollServer::new(cluster.clone(), first, reviewer, enroll::LIFETIME, stats.clone());
        let (sender, events) = mpsc::channel(EVENTS);
        let nodes = NodeServer::new(local(config), exporter, sender, stats.clone());
        let enrolment = Arc::new(enrolment);
        Ok(Self { listener, enrolment, nodes, stats, trust, events, reports, status, authority, identity })
    }

    /// Dials from the port that this listens on, with the daemon's certificate.
    pub fn dialer(&self) -> Dialer {
        Dialer::from_listener(&self.listener, self.identity.credentials.clone(), self.trust.clone())
    }

    /// Whose certificates count.
    pub fn trust(&self) -> Arc<TrustStore> {
        self.trust.clone()
    }

    /// Counters of all sessions.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Serves until dropped, or until nobody takes reports any more.
    pub async fn run(mut self, mesh: Mesh) {
        let mut sessions = JoinSet::new();
        let mut renewal = interval(LIFETIME / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(accepted) = self.listener.accept() => self.accept(accepted, &mesh, &mut sessions),
                Some(_) = sessions.join_next() => {}
                Some((node, event)) = self.events.recv() => {
                    if self.take_in(&node, event).await.is_err() {
                        return;
                    }
                }
                _ = renewal.tick() => self.renew(),
                Ok(()) = self.authority.changed() => self.renew(),
            }
        }
    }

    /// A fresh certificate, of the authority that signs now.
    fn renew(&mut self) {
        let authority = self.authority.borrow_and_update().clone();
        if let Err(error) = self.identity.renew(&authority) {
            error!(%error, "the daemon's certificate cannot be renewed");
        }
        self.enrolment.set_authority(authority);
    }

    fn accept(&self, accepted: Accepted, mesh: &Mesh, sessions: &mut JoinSet<()>) {
        match accepted.service {
            Service::Node => {
                let nodes = self.nodes.clone();
                sessions.spawn(async move {
                    if let Err(error) = nodes.serve(accepted).await {
                        debug!(%error, "session with a node ended");
                    }
                });
            }
            Service::Enroll => {
                let enrolment = self.enrolment.clone();
                sessions.spawn(async move {
                    if let Err(error) = enrolment.serve(accepted).await {
                        debug!(%error, "enrolment ended");
                    }
                });
            }
            Service::Peer => {
                let mesh = mesh.clone();
                sessions.spawn(async move {
                    if let Err(error) = mesh.serve_peer(accepted).await {
                        debug!(%error, "session with another cluster ended");
                    }
                });
            }
            Service::Replica => {
                let mesh = mesh.clone();
                sessions.spawn(async move {
                    if let Err(error) = mesh.serve_replica(accepted).await {
                        debug!(%error, "session with a replica ended");
                    }
                });
            }
            Service::Join => {
                let mesh = mesh.clone();
                sessions.spawn(async move { mesh.serve_join(accepted).await });
            }
        }
    }

    async fn take_in(&self, node: &NodeName, event: NodeEvent) -> Result<(), mpsc::error::SendError<Report>> {
        let name = node.as_str().to_owned();
        match event {
            NodeEvent::Up => self.status.session(name, true),
            NodeEvent::Down => {
                self.reports.trusts.remove(node);
                self.status.session(name, false);
            }
            NodeEvent::Facts(facts) => {
                self.reports.trusts.set(node.clone(), facts.authorities.clone(), facts.issuer);
                self.reports.reports.send(Report { node: name, facts }).await?;
            }
        }
        Ok(())
    }
}

impl OwnIdentity {
    fn renew(&self, authority: &CertificateAuthority) -> Result<()> {
        self.trust
            .set_pem(&self.cluster, authority.bundle_pem())
            .context("the own authority cannot be trusted")?;
        Ok(authority.introduce(&self.credentials, &self.id, SystemTime::now(), LIFETIME)?)
    }
}
