//! What all replication sessions have in common: the greeting, the sending of a log, and how they end.

mod backoff;
mod expiry;
mod exporter;
mod writer;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{ConnectionError, VarInt};
use tombolo_mesh_core::{
    replication::ProtocolError,
    trust::SpiffeId,
    wire::{Frame, Hello, VERSION, Version},
};
use tombolo_model::{ClusterId, ClusterName};

pub use backoff::Backoff;
pub(crate) use expiry::expired;
pub use exporter::{Audience, ExporterHandle};
pub(crate) use writer::{Command, tell, write};

use crate::transport::{ConnectError, Connection, FrameError, FrameReceiver, FrameSender, Stats, framed};

/// How long the other side may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// Who this process speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's number in the mesh.
    pub cluster_id: ClusterId,
    /// Name and version of the software, for people.
    pub software: String,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Connection(#[from] ConnectionError),
    /// The stream ended.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that does not fit.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The other side speaks another protocol.
    #[error(
        "the other side speaks protocol version {}.{}, this one {}.{}: upgrade the older one",
        theirs.major, theirs.minor, VERSION.major, VERSION.minor
    )]
    Version {
        /// The other side's version.
        theirs: Version,
    },
    /// The other side says that it is somebody else than its certificate says or membership knows.
    #[error("the other side says it is cluster {got} with id {got_id}, but {expected} was expected")]
    WrongCluster {
        /// Who was expected.
        expected: String,
        /// Its name.
        got: ClusterName,
        /// Its number.
        got_id: ClusterId,
    },
    /// It did not greet in time.
    #[error("the other side did not greet within {} s", GREETING.as_secs())]
    Silent,
    /// It refused, and said why.
    #[error("refused by the other side: {0}")]
    Refused(String),
    /// The session is as old as the certificate that it began with.
    #[error("the certificate of {0} that the session began with has expired")]
    Expired(SpiffeId),
    /// Another session with the same peer is in use.
    #[error("another session with the same cluster is in use")]
    Superseded,
    /// This process no longer wants the session.
    #[error("the consumer is gone")]
    ConsumerGone,
}

/// Why a side closes a connection (QUIC application error codes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Nothing is wrong.
    Done,
    /// A frame was not valid.
    Protocol,
    /// No right to the service.
    Denied,
    /// No common version.
    Version,
    /// Another session took over.
    Superseded,
    /// Nothing came from the other side.
    Lost,
}

impl Close {
    /// The code on the wire.
    pub const fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Done => 0,
            Self::Protocol => 1,
            Self::Denied => 2,
            Self::Version => 3,
            Self::Superseded => 4,
            Self::Lost => 5,
        })
    }
}

impl SessionError {
    /// Whether no honest peer of any version would have caused it.
    pub(crate) const fn is_misdeed(&self) -> bool {
        matches!(
            self,
            Self::Protocol(_)
                | Self::Frame(FrameError::Oversize | FrameError::Decode(_))
                | Self::WrongCluster { .. }
        )
    }

    const fn close(&self) -> Close {
        match self {
            Self::Frame(FrameError::Oversize | FrameError::Decode(_)) | Self::Protocol(_) | Self::Silent => {
                Close::Protocol
            }
            Self::WrongCluster { .. } | Self::Expired(_) => Close::Denied,
            Self::Version { .. } => Close::Version,
            Self::Superseded => Close::Superseded,
            Self::Connect(_)
            | Self::Connection(_)
            | Self::Frame(_)
            | Self::Refused(_)
            | Self::ConsumerGone => Close::Done,
        }
    }
}

/// Ends a connection so that the other side learns why. What ended the connection itself is the better reason, if
/// there is one.
pub(crate) fn end(connection: &Connection, error: SessionError) -> SessionError {
    if let (Some(reason), SessionError::Frame(FrameError::Io(_) | FrameError::Closed)) =
        (connection.close_reason(), &error)
    {
        return match reason {
            ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
                SessionError::Refused(String::from_utf8_lossy(&close.reason).into_owned())
            }
            reason => reason.into(),
        };
    }
    connection.close(error.close().code(), error.to_string().as_bytes());
    error
}

/// The one stream of a connection, opened by who has dialled it.
pub(crate) async fn stream(
    connection: &Connection,
    dialled: bool,
    stats: &Arc<Stats>,
) -> Result<(FrameSender, FrameReceiver), SessionError> {
    let streams = if dialled {
        connection.open_bi().await?
    } else {
        tokio::time::timeout(GREETING, connection.accept_bi()).await.map_err(|_| SessionError::Silent)??
    };
    Ok(framed(streams, stats))
}

/// Greets, and reads the other side's greeting.
pub(crate) async fn greet(
    local: &Local,
    tx: &mut FrameSender,
    rx: &mut FrameReceiver,
) -> Result<Hello, SessionError> {
    tx.send(&Frame::Hello(Hello {
        version: VERSION,
        features: BTreeSet::new(),
        software: local.software.clone(),
        cluster: local.cluster.clone(),
        cluster_id: local.cluster_id,
        unix_time_ms: unix_time_ms(),
    }))
    .await?;
    let frame = tokio::time::timeout(GREETING, rx.receive()).await.map_err(|_| SessionError::Silent)??;
    let Frame::Hello(hello) = frame else { return Err(ProtocolError::Unexpected("first").into()) };
    if hello.version.major != VERSION.major {
        return Err(SessionError::Version { theirs: hello.version });
    }
    Ok(hello)
}

/// Whether the greeting is from the expected cluster.
pub(crate) fn expect_cluster(hello: &Hello, name: &ClusterName, id: ClusterId) -> Result<(), SessionError> {
    if hello.cluster == *name && hello.cluster_id == id {
        return Ok(());
    }
    Err(SessionError::WrongCluster {
        expected: format!("{name} with id {id}"),
        got: hello.cluster.clone(),
        got_id: hello.cluster_id,
    })
}

/// The clock here: milliseconds since 1970 (UTC); 0 before.
pub(crate) fn unix_time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis().try_into().unwrap_or(u64::MAX))
}
