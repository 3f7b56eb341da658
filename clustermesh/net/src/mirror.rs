//! What the leading replica knows of other clusters, kept by the replicas that wait: whoever takes over begins with it,
//! and asks the other clusters only for what differs.

use std::sync::Arc;

use tokio::sync::broadcast;
use tombolo_mesh_core::{
    replication::{Admission, Change, Limits, ProtocolError, Receiver},
    trust::{Service, SpiffeId},
    wire::{Frame, Position, Scope, encode_change, encode_transaction},
};
use tombolo_model::Record;
use tracing::debug;

use crate::{
    session::{ExporterHandle, Local, SessionError, end, expect_cluster, expired, greet, stream},
    tls::Expected,
    transport::{Accepted, Connection, Dialer, FrameSender, Stats},
};

/// Transactions that a replica may be behind before it has to begin anew.
const BEHIND: usize = 1024;
/// Bytes of records in one frame, about.
const CHUNK: usize = 256 << 10;

/// The leader's side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    local: Local,
    exporter: ExporterHandle,
    changes: broadcast::Sender<Arc<[Change]>>,
    stats: Arc<Stats>,
}

impl Mirror {
    /// Of what the exporter has of other clusters.
    pub fn new(local: Local, exporter: ExporterHandle, stats: Arc<Stats>) -> Self {
        Self { local, exporter, changes: broadcast::Sender::new(BEHIND), stats }
    }

    /// To be called when the exporter has taken these changes of records of other clusters in.
    pub fn tell(&self, changes: &[Change]) {
        if self.changes.receiver_count() > 0 {
            // The last one may have gone meanwhile.
            let _ = self.changes.send(changes.into());
        }
    }

    /// Serves a replica of the own cluster until it goes, or is too slow.
    pub async fn serve(&self, accepted: Accepted) -> Result<(), SessionError> {
        let connection = accepted.connection;
        let served = async {
            let (mut tx, mut rx) = stream(&connection, false, &self.stats).await?;
            let hello = greet(&self.local, &mut tx, &mut rx).await?;
            expect_cluster(&hello, &self.local.cluster, self.local.cluster_id)?;
            tokio::select! {
                result = self.send(&mut tx) => result,
                error = expired(&connection) => Err(error),
                // Between changes nothing is sent that would tell.
                error = connection.closed() => Err(error.into()),
            }
        };
        served.await.map_err(|error| end(&connection, error))
    }

    async fn send(&self, tx: &mut FrameSender) -> Result<(), SessionError> {
        // First the changes to come, then what there is: a change may be told twice, and none is lost.
        let mut changes = self.changes.subscribe();
        let mut position = Position { epoch: rand::random(), revision: 0 };
        tx.send(&Frame::Begin { position, snapshot: true }).await?;
        let all: Vec<_> = self.exporter.foreign().into_iter().map(Change::Upsert).collect();
        transaction(tx, 0, &all).await?;
        tx.send(&Frame::Watermark { position, scope: Scope::AllBut([].into()) }).await?;
        loop {
            let Ok(next) = changes.recv().await else { return Err(SessionError::Superseded) };
            position.revision += 1;
            transaction(tx, position.revision, &next).await?;
        }
    }
}

/// Sends changes as one transaction, in as many frames as it takes.
async fn transaction(tx: &mut FrameSender, revision: u64, changes: &[Change]) -> Result<(), SessionError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for change in changes {
        let encoded = match encode_change(change) {
            Ok(encoded) => encoded,
            Err(error) => {
                debug!(%error, "a record cannot be mirrored");
                continue;
            }
        };
        if bytes + encoded.len() > CHUNK && !chunk.is_empty() {
            // Parts of a snapshot are visible at once.
            let more = revision > 0;
            tx.send_encoded(encode_transaction(revision, 0, more, std::mem::take(&mut chunk))).await?;
            bytes = 0;
        }
        bytes += encoded.len();
        chunk.push(encoded);
    }
    Ok(tx.send_encoded(encode_transaction(revision, 0, false, chunk)).await?)
}

/// The side of a replica that waits.
#[derive(Debug)]
pub struct Standby {
    local: Local,
    receiver: Receiver,
}

impl Standby {
    /// With nothing yet.
    pub fn new(local: Local) -> Self {
        Self { local, receiver: Receiver::new(Admission::All, Limits::default()) }
    }

    /// Follows the leader at one of these addresses until the session ends.
    pub async fn follow(
        &mut self,
        dialer: &Dialer,
        leader: std::net::SocketAddr,
        stats: &Arc<Stats>,
    ) -> Result<(), SessionError> {
        let expected = Expected::Id(SpiffeId::Daemon(self.local.cluster.clone()));
        let connection = dialer.connect(leader, expected, Service::Replica).await?;
        let result = self.receive(&connection, stats).await;
        result.map_err(|error| end(&connection, error))
    }

    /// What is known now.
    pub fn records(&self) -> impl Iterator<Item = Arc<Record>> {
        self.receiver.records().values().cloned()
    }

    async fn receive(&mut self, connection: &Connection, stats: &Arc<Stats>) -> Result<(), SessionError> {
        let (mut tx, mut rx) = stream(connection, true, stats).await?;
        let hello = greet(&self.local, &mut tx, &mut rx).await?;
        expect_cluster(&hello, &self.local.cluster, self.local.cluster_id)?;
        loop {
            match rx.receive().await? {
                frame @ (Frame::Begin { .. }
                | Frame::Transaction(_)
                | Frame::Watermark { .. }
                | Frame::Unknown) => {
                    self.receiver.handle(frame)?;
                }
                _ => return Err(ProtocolError::Unexpected("mirrored").into()),
            }
        }
    }
}
