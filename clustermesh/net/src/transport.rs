//! QUIC endpoints and streams of frames.

mod connection;
mod framed;
mod listener;
mod stats;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use nix::sys::socket::{setsockopt, sockopt};
use quinn::{ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tombolo_mesh_core::trust::Service;

use connection::Watch;

use crate::{
    socket,
    tls::{self, CertificateInfo, Credentials, Expected, TrustStore},
};

pub use connection::Connection;
pub use framed::{FrameError, FrameReceiver, FrameSender, framed};
pub use listener::{Accepted, Listener};
pub use stats::{Stats, StatsSnapshot};

/// The UDP port of control sessions.
pub const PORT: u16 = 4240;

/// A silent path gets a packet this often, from who has dialled: if both sent them, they would do so at the same time.
/// One that is lost is sent again within a few round trips (RFC 9002).
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A path is dead after this much silence.
pub(crate) const IDLE: Duration = Duration::from_secs(2);
/// What the kernel may hold of packets that have arrived, as far as net.core.rmem_max lets it: hundreds of clusters answer
/// at the same time, and a lost handshake waits for seconds.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What the kernel and the peer may hold of a stream that is not read: bounds memory, and what is urgent waits for
/// no more than this.
const WINDOW: u32 = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nowhere to connect to.
    #[error("no address is known")]
    NoAddress,
    /// The socket cannot be made.
    #[error("cannot bind UDP {address}: {source}")]
    Bind {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configuration cannot be made.
    #[error(transparent)]
    Config(#[from] tls::ConfigError),
    /// The address cannot be used.
    #[error("cannot connect to {address}: {source}")]
    Address {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        source: quinn::ConnectError,
    },
    /// The handshake failed.
    #[error("cannot connect to {address}: {source}")]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        source: quinn::ConnectionError,
    },
}

/// Dials services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dialer {
    endpoint: Endpoint,
    watch: Watch,
    credentials: Arc<Credentials>,
    trust: Arc<TrustStore>,
}

impl Dialer {
    /// From a socket of its own. `address` is usually [`socket::ANY`].
    pub fn bind(
        address: SocketAddr,
        credentials: Arc<Credentials>,
        trust: Arc<TrustStore>,
    ) -> Result<Self, ConnectError> {
        Ok(Self { endpoint: bind(address, None)?, watch: Watch::start(), credentials, trust })
    }

    /// From the socket of a listener.
    pub fn from_listener(listener: &Listener, credentials: Arc<Credentials>, trust: Arc<TrustStore>) -> Self {
        Self { endpoint: listener.endpoint().clone(), watch: listener.watch().clone(), credentials, trust }
    }

    /// Connects to a service of `expected`. Takes at most about the idle time.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: Expected,
        service: Service,
    ) -> Result<Connection, ConnectError> {
        let credentials = match service {
            Service::Node | Service::Peer | Service::Replica => self.credentials.clone(),
            Service::Enroll | Service::Join => Credentials::none(),
        };
        let tls = tls::client_config(credentials, self.trust.clone(), expected, service)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport_config(Some(KEEP_ALIVE)));
        // The name plays no part: the verifier knows whom to expect.
        let connecting = self
            .endpoint
            .connect_with(config, address, "tombolo")
            .map_err(|source| ConnectError::Address { address, source })?;
        let connection = connecting.await.map_err(|source| ConnectError::Handshake { address, source })?;
        Ok(self.watch.over(connection))
    }

    /// Connects to whichever of the addresses answers first; the error is of the last one that failed. None answers at
    /// once when there is no address.
    pub async fn connect_any(
        &self,
        addresses: &[SocketAddr],
        expected: &Expected,
        service: Service,
    ) -> Result<Connection, ConnectError> {
        let mut attempts: FuturesUnordered<_> = addresses
            .iter()
            .map(|&address| {
                let expected = expected.clone();
                async move { self.connect(address, expected, service).await }
            })
            .collect();
        let mut result = Err(ConnectError::NoAddress);
        while let Some(attempt) = attempts.next().await {
            result = attempt;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Closes all connections, then waits until they know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}

/// What the other side's certificate says, which the handshake has verified.
pub(crate) fn certificate(connection: &quinn::Connection) -> Option<CertificateInfo> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    CertificateInfo::from_der(chain.first()?).ok()
}

fn bind(address: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint, ConnectError> {
    let io = |source| ConnectError::Bind { address, source };
    let socket = socket::udp(address).map_err(io)?;
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|error| io(error.into()))?;
    let runtime = quinn::default_runtime().ok_or_else(|| io(std::io::Error::other("no tokio runtime")))?;
    Endpoint::new(EndpointConfig::default(), server, socket, runtime).map_err(io)
}

fn transport_config(keep_alive: Option<Duration>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(keep_alive)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE.as_millis() as u32))))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}
