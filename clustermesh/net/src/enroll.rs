//! How a node gets its certificate: it shows its service account token, and is given a certificate for its own key.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tombolo_mesh_core::{
    replication::ProtocolError,
    trust::{NodeName, Pin, Service, SpiffeId},
    wire::{EnrollRequest, Frame},
};
use tombolo_model::ClusterName;
use tracing::{info, warn};

use crate::{
    session::{SessionError, end, stream},
    tls::{
        AuthorityError, CertificateAuthority, CertificateError, CertificateInfo, ConfigError, Credentials,
        Expected, Issued, LeafKey, pin_of,
    },
    transport::{Accepted, Connection, Dialer, Stats},
};

/// How long a node's certificate is valid.
pub const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an enrolment may take, the check of the token included.
const TIME: Duration = Duration::from_secs(15);

/// Finds out which node a service account token belongs to.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// The node that the token is bound to.
    async fn verify(&self, token: &str) -> Result<NodeName, TokenError>;
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not valid, or not one of a node agent.
    #[error("the token was rejected: {0}")]
    Rejected(String),
    /// It could not be checked.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(String),
}

/// Why a node got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There was no conversation, or the daemon refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The key could not be made.
    #[error(transparent)]
    Key(#[from] AuthorityError),
    /// The certificate that came is not good.
    #[error("the daemon sent a certificate that is not good: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate that came is for somebody else.
    #[error("the daemon sent a certificate for {0}, which is not a node of cluster {1}")]
    WrongName(SpiffeId, ClusterName),
    /// It took too long.
    #[error("the daemon did not answer within {} s", TIME.as_secs())]
    Silent,
}

/// The daemon's side.
pub struct EnrollServer {
    cluster: ClusterName,
    authority: ArcSwap<CertificateAuthority>,
    verifier: Arc<dyn TokenVerifier>,
    lifetime: Duration,
    stats: Arc<Stats>,
}

impl EnrollServer {
    /// Gives certificates of `authority`, valid for `lifetime`, to those whom `verifier` knows.
    pub fn new(
        cluster: ClusterName,
        authority: Arc<CertificateAuthority>,
        verifier: Arc<dyn TokenVerifier>,
        lifetime: Duration,
        stats: Arc<Stats>,
    ) -> Self {
        Self { cluster, authority: ArcSwap::new(authority), verifier, lifetime, stats }
    }

    /// Signs with this authority from now on.
    pub fn set_authority(&self, authority: Arc<CertificateAuthority>) {
        self.authority.store(authority);
    }

    /// Serves one connection: one request.
    pub async fn serve(&self, accepted: Accepted) -> Result<(), SessionError> {
        let served = timeout(TIME, self.answer(&accepted.connection)).await;
        served.unwrap_or(Err(SessionError::Silent)).map_err(|error| end(&accepted.connection, error))
    }

    async fn answer(&self, connection: &Connection) -> Result<(), SessionError> {
        let (mut tx, mut rx) = stream(connection, false, &self.stats).await?;
        let Frame::EnrollRequest(request) = rx.receive().await? else {
            self.stats.protocol_errors.inc();
            return Err(ProtocolError::Unexpected("non-enroll").into());
        };
        let address = connection.remote_address();
        let answer = match self.issue(&request).await {
            Ok((node, issued)) => {
                self.stats.enrolled.inc();
                info!(%address, %node, "node enrolled");
                Frame::EnrollResponse(issued.chain.iter().map(|c| Bytes::copy_from_slice(c)).collect())
            }
            Err(reason) => {
                self.stats.enroll_refused.inc();
                warn!(%address, reason, "enrolment refused");
                Frame::Refusal(reason)
            }
        };
        tx.send(&answer).await?;
        tx.finish().await;
        Ok(())
    }

    async fn issue(&self, request: &EnrollRequest) -> Result<(NodeName, Issued), String> {
        let node = self.verifier.verify(&request.token).await.map_err(|e| e.to_string())?;
        let id = SpiffeId::Node(self.cluster.clone(), node.clone());
        let authority = self.authority.load();
        let issued = authority.issue_for_request(&id, &request.csr_der, SystemTime::now(), self.lifetime);
        Ok((node, issued.map_err(|e| e.to_string())?))
    }
}

/// A node's certificate and its key.
#[derive(Debug)]
pub struct Enrolled {
    key: LeafKey,
    issued: Issued,
    info: CertificateInfo,
}

impl Enrolled {
    /// What the certificate says.
    pub const fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The pin of the authority that the certificate is from, as the daemon says.
    pub fn issuer(&self) -> Option<Pin> {
        self.issued.chain.get(1).and_then(|der| pin_of(der).ok())
    }

    /// When to enrol again: after two thirds of the certificate's time.
    pub fn renew_at(&self) -> SystemTime {
        let seconds = |unix: i64| Duration::from_secs(u64::try_from(unix).unwrap_or_default());
        let (begin, end) = (seconds(self.info.not_before), seconds(self.info.not_after));
        UNIX_EPOCH + begin + end.saturating_sub(begin) * 2 / 3
    }

    /// Shows the certificate from now on.
    pub fn install(&self, credentials: &Credentials) -> Result<(), ConfigError> {
        credentials.set(&self.issued, &self.key.private_key())
    }
}

/// The agent's side: asks the daemon of its cluster at `server` for a certificate. The daemon proves who it is before
/// the token is sent.
pub async fn enroll(
    dialer: &Dialer,
    server: SocketAddr,
    cluster: &ClusterName,
    token: &str,
    stats: &Arc<Stats>,
) -> Result<Enrolled, EnrollError> {
    let key = LeafKey::generate()?;
    let request = EnrollRequest { token: token.to_owned(), csr_der: key.request()?.into() };
    let expected = Expected::Id(SpiffeId::Daemon(cluster.clone()));
    let exchange = async {
        let connection =
            dialer.connect(server, expected, Service::Enroll).await.map_err(SessionError::from)?;
        let chain = ask(&connection, request, stats).await.map_err(|error| end(&connection, error));
        connection.close(crate::session::Close::Done.code(), b"");
        chain
    };
    let chain = timeout(TIME, exchange).await.map_err(|_| EnrollError::Silent)??;
    let chain: Vec<_> = chain.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
    let leaf = chain.first().ok_or(CertificateError::Malformed)?;
    let info = CertificateInfo::from_der(leaf)?;
    match &info.id {
        SpiffeId::Node(of, _) if of == cluster => Ok(Enrolled { key, issued: Issued { chain }, info }),
        other => Err(EnrollError::WrongName(other.clone(), cluster.clone())),
    }
}

async fn ask(
    connection: &Connection,
    request: EnrollRequest,
    stats: &Arc<Stats>,
) -> Result<Vec<Bytes>, SessionError> {
    let (mut tx, mut rx) = stream(connection, true, stats).await?;
    tx.send(&Frame::EnrollRequest(request)).await?;
    match rx.receive().await? {
        Frame::EnrollResponse(chain) => Ok(chain),
        Frame::Refusal(reason) => Err(SessionError::Refused(reason)),
        _ => Err(ProtocolError::Unexpected("non-enroll").into()),
    }
}
