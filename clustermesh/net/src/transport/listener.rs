//! Accepting connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Endpoint, Incoming, ServerConfig, crypto::rustls::HandshakeData};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tombolo_mesh_core::trust::{Service, SpiffeId, authorize};
use tombolo_model::ClusterName;
use tracing::{debug, warn};

use super::{ConnectError, Connection, Stats, Watch, bind, transport_config};
use crate::{
    session::Close,
    socket::canonical,
    tls::{self, Credentials, TrustStore},
};

/// Handshakes under way at a time; further ones are refused.
const HANDSHAKES: usize = 1024;
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Serves every [`Service`] on one UDP port. Dropping it closes all connections.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    watch: Watch,
    accepted: mpsc::Receiver<Accepted>,
    _task: JoinSet<()>,
}

/// A connection whose client may use the service.
#[derive(Debug)]
pub struct Accepted {
    /// What it is for.
    pub service: Service,
    /// The client's verified name; none for services that need none.
    pub client: Option<SpiffeId>,
    /// The connection.
    pub connection: Connection,
}

impl Listener {
    /// Listens for clients of cluster `own`. Must be called in a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        own: ClusterName,
        credentials: Arc<Credentials>,
        trust: Arc<TrustStore>,
        stats: Arc<Stats>,
    ) -> Result<Self, ConnectError> {
        let mut config = ServerConfig::with_crypto(Arc::new(tls::server_config(credentials, trust)?));
        config.transport_config(transport_config(None)).migration(true);
        let endpoint = bind(address, Some(config))?;
        let watch = Watch::start();
        let (sender, accepted) = mpsc::channel(64);
        let mut task = JoinSet::new();
        task.spawn(accept(endpoint.clone(), watch.clone(), own, stats, sender));
        Ok(Self { endpoint, watch, accepted, _task: task })
    }

    /// The next connection; none after the endpoint is closed.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Where it listens.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.close(Close::Done.code(), b"shutting down");
    }
}

async fn accept(
    endpoint: Endpoint,
    watch: Watch,
    own: ClusterName,
    stats: Arc<Stats>,
    sender: mpsc::Sender<Accepted>,
) {
    let mut handshakes = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        while handshakes.try_join_next().is_some() {}
        if handshakes.len() >= HANDSHAKES {
            incoming.refuse();
            continue;
        }
        let (watch, own, stats, sender) = (watch.clone(), own.clone(), stats.clone(), sender.clone());
        handshakes.spawn(async move {
            if let Some(accepted) = handshake(incoming, &watch, &own, &stats).await {
                // The listener is gone when nobody receives.
                let _ = sender.send(accepted).await;
            }
        });
    }
}

async fn handshake(incoming: Incoming, watch: &Watch, own: &ClusterName, stats: &Stats) -> Option<Accepted> {
    let address = canonical(incoming.remote_address());
    let connection = match timeout(HANDSHAKE_TIME, async { incoming.accept()?.await }).await {
        Ok(Ok(connection)) => watch.over(connection),
        Ok(Err(error)) => {
            stats.handshakes_failed.inc();
            stats.note_refusal(format!("{address}: {error}"));
            warn!(%address, %error, "handshake failed");
            return None;
        }
        Err(_) => {
            stats.handshakes_failed.inc();
            debug!(%address, "handshake took too long");
            return None;
        }
    };
    let client = super::certificate(&connection).map(|info| info.id);
    let Some(service) = service(&connection) else {
        stats.handshakes_failed.inc();
        connection.close(Close::Denied.code(), b"no protocol was agreed on");
        return None;
    };
    if let Err(denied) = authorize(own, service, client.as_ref()) {
        stats.denied.inc();
        stats.note_refusal(format!("{address}: {denied}"));
        warn!(%address, %denied, "connection refused");
        connection.close(Close::Denied.code(), denied.to_string().as_bytes());
        return None;
    }
    stats.accepted.inc();
    Some(Accepted { service, client, connection })
}

fn service(connection: &Connection) -> Option<Service> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Service::from_alpn(data.protocol.as_deref()?)
}
