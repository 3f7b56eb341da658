//! The agent's side.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};
use tombolo_mesh_core::{
    replication::{Admission, Delta, Limits, Receiver},
    trust::{Service, SpiffeId},
    wire::{Frame, NodeFacts},
};
use tracing::{info, warn};

use crate::{
    session::{
        Backoff, Command, Local, SessionError, end, expect_cluster, expired, greet, stream, tell,
        unix_time_ms, write,
    },
    tls::Expected,
    transport::{Connection, Dialer, FrameReceiver, Stats},
};

/// What a node needs for its sessions.
#[derive(Clone, Debug)]
pub struct NodeClientConfig {
    /// The node's cluster.
    pub local: Local,
    /// Dials, with the node's certificate.
    pub dialer: Dialer,
    /// Where daemons are: tried in turn, and read again for each attempt.
    pub servers: watch::Receiver<Vec<SocketAddr>>,
    /// All that the node has to tell; the newest value is sent.
    pub facts: watch::Receiver<NodeFacts>,
    /// How much the daemon may make the node hold.
    pub limits: Limits,
    /// When to try again.
    pub backoff: Backoff,
}

/// The state of a node's session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The daemon it has a session with.
    pub server: Option<SocketAddr>,
    /// When the session began, or ended.
    pub since: Option<SystemTime>,
    /// Round-trip time of the path.
    pub rtt: Option<Duration>,
    /// How many revisions the node is behind.
    pub lag: Option<u64>,
    /// The daemon's clock minus this node's, in milliseconds, plus the time a frame takes.
    pub clock_offset_ms: Option<i64>,
    /// Why there is no session, or why the last one ended.
    pub last_error: Option<String>,
}

/// Keeps a session with one of the cluster's daemons.
#[derive(Debug)]
pub struct NodeClient {
    config: NodeClientConfig,
    receiver: Receiver,
    deltas: mpsc::Sender<Delta>,
    status: watch::Sender<NodeStatus>,
    stats: Arc<Stats>,
}

impl NodeClient {
    /// A client that gives what it receives to `deltas`. While the consumer is busy nothing is read, and the daemon
    /// keeps the newest versions for later.
    pub fn new(config: NodeClientConfig, deltas: mpsc::Sender<Delta>, stats: Arc<Stats>) -> Self {
        let receiver = Receiver::new(Admission::All, config.limits);
        Self { config, receiver, deltas, status: watch::Sender::default(), stats }
    }

    /// The state of the session, as it changes.
    pub fn status(&self) -> watch::Receiver<NodeStatus> {
        self.status.subscribe()
    }

    /// Keeps connected until nobody takes deltas any more. Dropping the future ends the session; what was received is
    /// then gone.
    pub async fn run(mut self) {
        let mut backoff = self.config.backoff.clone();
        let mut attempt = 0;
        while !self.deltas.is_closed() {
            let servers = self.config.servers.borrow_and_update().clone();
            if servers.is_empty() {
                self.failed("no daemon address is known".into());
                if self.config.servers.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let server = servers[attempt % servers.len()];
            attempt += 1;
            let (error, was_up) = self.connect(server).await;
            if matches!(error, SessionError::ConsumerGone) {
                return;
            }
            if was_up {
                backoff.reset();
            }
            warn!(%server, %error, "no session with the daemon");
            self.failed(error.to_string());
            tokio::select! {
                () = backoff.wait() => {}
                () = self.deltas.closed() => return,
            }
        }
    }

    /// Whether the session had begun, beside why it ended.
    async fn connect(&mut self, server: SocketAddr) -> (SessionError, bool) {
        let expected = Expected::Id(SpiffeId::Daemon(self.config.local.cluster.clone()));
        match self.config.dialer.connect(server, expected, Service::Node).await {
            Ok(connection) => {
                let mut was_up = false;
                let error = self.session(&connection, server, &mut was_up).await.err();
                (end(&connection, error.unwrap_or(SessionError::ConsumerGone)), was_up)
            }
            Err(error) => (error.into(), false),
        }
    }

    async fn session(
        &mut self,
        connection: &Connection,
        server: SocketAddr,
        was_up: &mut bool,
    ) -> Result<(), SessionError> {
        let (mut tx, mut rx) = stream(connection, true, &self.stats).await?;
        let hello = greet(&self.config.local, &mut tx, &mut rx).await?;
        expect_cluster(&hello, &self.config.local.cluster, self.config.local.cluster_id)?;
        *was_up = true;
        info!(%server, software = hello.software, "session with the daemon");
        self.status.send_replace(NodeStatus {
            server: Some(server),
            since: Some(SystemTime::now()),
            rtt: Some(connection.rtt()),
            ..NodeStatus::default()
        });
        let (commands, received) = mpsc::channel(4);
        let facts = self.config.facts.clone();
        let stats = self.stats.clone();
        tokio::select! {
            result = write(&mut tx, None, received, &stats) => result,
            result = tell(facts, Frame::NodeFacts, commands.clone()) => result,
            result = self.read(&mut rx, connection, commands) => result,
            error = expired(connection) => Err(error),
        }
    }

    async fn read(
        &mut self,
        rx: &mut FrameReceiver,
        connection: &Connection,
        commands: mpsc::Sender<Command>,
    ) -> Result<(), SessionError> {
        let send = |frame| async {
            commands.send(Command::Send(frame)).await.map_err(|_| SessionError::ConsumerGone)
        };
        send(self.receiver.subscribe()).await?;
        loop {
            let frame = tokio::select! {
                frame = rx.receive() => frame?,
                () = self.deltas.closed() => return Err(SessionError::ConsumerGone),
            };
            count(&frame, &self.stats);
            let heartbeat = matches!(frame, Frame::Heartbeat(_));
            // Room comes first: a session may end at any await, and what the receiver has applied must get out.
            let room = self.deltas.reserve().await.map_err(|_| SessionError::ConsumerGone)?;
            let delta = self.receiver.handle(frame).inspect_err(|_| self.stats.protocol_errors.inc())?;
            if let Some(delta) = delta {
                room.send(delta);
            }
            if let Some(reply) = self.receiver.take_reply() {
                send(reply).await?;
            }
            if heartbeat {
                self.measure(connection);
            }
        }
    }

    fn measure(&self, connection: &Connection) {
        let Some(heartbeat) = self.receiver.heartbeat() else { return };
        self.status.send_modify(|status| {
            status.rtt = Some(connection.rtt());
            status.lag = self.receiver.position().map(|p| heartbeat.revision.saturating_sub(p.revision));
            status.clock_offset_ms =
                i64::try_from(i128::from(heartbeat.unix_time_ms) - i128::from(unix_time_ms())).ok();
        });
    }

    fn failed(&self, error: String) {
        self.status.send_modify(|status| {
            let since = if status.server.is_some() { Some(SystemTime::now()) } else { status.since };
            *status = NodeStatus { since, last_error: Some(error), ..NodeStatus::default() };
        });
    }
}

pub(crate) fn count(frame: &Frame, stats: &Stats) {
    if let Frame::Transaction(t) = frame {
        stats.received_changes.add(t.changes.len() as u64);
        stats.skipped_changes.add(t.skipped as u64);
    }
}
