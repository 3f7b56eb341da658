//! The daemon's side.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;
use tombolo_mesh_core::{
    replication::ProtocolError,
    trust::{NodeName, SpiffeId},
    wire::{Frame, NodeFacts},
};

use crate::{
    session::{
        Audience, Close, Command, ExporterHandle, Local, SessionError, end, expect_cluster, expired, greet,
        stream, write,
    },
    transport::{Accepted, Connection, FrameReceiver, Stats},
};

/// What a node's session tells the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The node has a session; it had none.
    Up,
    /// All that the node knows, in place of what it said before.
    Facts(NodeFacts),
    /// The node has no session any more. What it said still holds.
    Down,
}

/// Serves the sessions of nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeServer {
    local: Local,
    exporter: ExporterHandle,
    events: mpsc::Sender<(NodeName, NodeEvent)>,
    sessions: Arc<std::sync::Mutex<BTreeMap<NodeName, usize>>>,
    stats: Arc<Stats>,
}

impl NodeServer {
    /// Sends what the exporter has for nodes, and gives what they say, with their authenticated names, to `events`.
    pub fn new(
        local: Local,
        exporter: ExporterHandle,
        events: mpsc::Sender<(NodeName, NodeEvent)>,
        stats: Arc<Stats>,
    ) -> Self {
        Self { local, exporter, events, sessions: Arc::default(), stats }
    }

    /// Serves one connection until it ends.
    pub async fn serve(&self, accepted: Accepted) -> Result<(), SessionError> {
        let Some(SpiffeId::Node(_, node)) = accepted.client else {
            accepted.connection.close(Close::Denied.code(), b"not a node");
            return Err(SessionError::Refused("the client is not a node".into()));
        };
        if self.count(&node, |n| *n += 1) == 1 {
            self.tell(&node, NodeEvent::Up).await?;
        }
        let result = self.session(&accepted.connection, &node).await;
        if self.count(&node, |n| *n -= 1) == 0 {
            self.tell(&node, NodeEvent::Down).await?;
        }
        result.map_err(|error| end(&accepted.connection, error))
    }

    async fn session(&self, connection: &Connection, node: &NodeName) -> Result<(), SessionError> {
        let (mut tx, mut rx) = stream(connection, false, &self.stats).await?;
        let hello = greet(&self.local, &mut tx, &mut rx).await?;
        expect_cluster(&hello, &self.local.cluster, self.local.cluster_id)?;
        let (commands, received) = mpsc::channel(4);
        tokio::select! {
            result = write(&mut tx, Some((&self.exporter, Audience::Nodes)), received, &self.stats) => result,
            result = self.read(&mut rx, node, commands) => result,
            error = expired(connection) => Err(error),
        }
    }

    async fn read(
        &self,
        rx: &mut FrameReceiver,
        node: &NodeName,
        commands: mpsc::Sender<Command>,
    ) -> Result<(), SessionError> {
        let command =
            |command| async { commands.send(command).await.map_err(|_| SessionError::ConsumerGone) };
        loop {
            match rx.receive().await? {
                Frame::Subscribe(subscription) => command(Command::Subscribe(subscription)).await?,
                Frame::Want(wanted) => command(Command::Want(wanted)).await?,
                Frame::NodeFacts(facts) => self.tell(node, NodeEvent::Facts(facts)).await?,
                Frame::Unknown => {}
                _ => {
                    self.stats.protocol_errors.inc();
                    return Err(ProtocolError::Unexpected("replication").into());
                }
            }
        }
    }

    async fn tell(&self, node: &NodeName, event: NodeEvent) -> Result<(), SessionError> {
        self.events.send((node.clone(), event)).await.map_err(|_| SessionError::ConsumerGone)
    }

    /// Sessions of the node after the change: it may have a second one before the first is found dead.
    fn count(&self, node: &NodeName, change: impl FnOnce(&mut usize)) -> usize {
        let mut sessions = self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = sessions.entry(node.clone()).or_default();
        change(count);
        let count = *count;
        if count == 0 {
            sessions.remove(node);
        }
        count
    }
}
