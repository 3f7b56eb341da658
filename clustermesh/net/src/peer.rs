//! Sessions between the daemons of two clusters. Both send and receive on one connection, whoever has dialled it.

mod claim;
mod status;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, watch};
use tombolo_mesh_core::{
    replication::{Admission, Containment, Delta, Limits, ProtocolError, Receiver},
    trust::{Service, SpiffeId},
    wire::{Frame, Observation},
};
use tombolo_model::{ClusterId, Record};
use tracing::{info, warn};

pub use status::{Misdeeds, PeerStatus};

use crate::{
    node::count,
    raft::Membership,
    session::{
        Audience, Backoff, Close, Command, ExporterHandle, Local, SessionError, end, expect_cluster, expired,
        greet, stream, tell, write,
    },
    tls::Expected,
    transport::{Accepted, Connection, Dialer, FrameReceiver, Stats},
};
use claim::Claims;

/// Frames that wait to be sent besides records.
const COMMANDS: usize = 64;
/// How many of them are kept for what the session itself has to say.
const RESERVED: usize = 4;

/// What a peer's session tells the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A session has begun.
    Up(SystemTime),
    /// Records have changed. They stay when the session ends.
    Delta(Delta),
    /// The session has ended, and no other has taken over.
    Down(SystemTime),
}

/// What is needed for the sessions with one cluster.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The own cluster.
    pub local: Local,
    /// What the other cluster sees of this one.
    pub exporter: ExporterHandle,
    /// What membership says about the other cluster; changes hold at once.
    pub containment: watch::Receiver<Containment>,
    /// How much the other cluster may make this process hold.
    pub limits: Limits,
    /// When to dial again.
    pub backoff: Backoff,
    /// The own member of the Raft group, while there is one: messages for it come over the same session.
    pub membership: watch::Receiver<Option<Membership>>,
    /// How the own cluster sees the mesh; the other one is told the newest.
    pub observation: watch::Receiver<Observation>,
}

/// Keeps at most one session with another cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: PeerConfig,
    cluster: ClusterId,
    /// Held by the session in use.
    receiver: Mutex<Receiver>,
    claims: Claims,
    /// What the session in use is to send besides records.
    outbox: std::sync::Mutex<Option<mpsc::Sender<Command>>>,
    events: mpsc::Sender<(ClusterId, PeerEvent)>,
    status: watch::Sender<PeerStatus>,
    stats: Arc<Stats>,
}

impl Peer {
    /// Without a session yet. What it receives goes to `events`, which may be shared by all peers.
    pub fn new(config: PeerConfig, events: mpsc::Sender<(ClusterId, PeerEvent)>, stats: Arc<Stats>) -> Self {
        Self::holding(config, [], events, stats).0
    }

    /// One that begins with what another replica has heard of it; the delta is that, as far as it is admitted.
    pub fn holding(
        config: PeerConfig,
        held: impl IntoIterator<Item = Arc<Record>>,
        events: mpsc::Sender<(ClusterId, PeerEvent)>,
        stats: Arc<Stats>,
    ) -> (Self, Delta) {
        let containment = config.containment.borrow().clone();
        let cluster = containment.cluster;
        let mut receiver = Receiver::new(Admission::Peer(containment), config.limits);
        held.into_iter().for_each(|record| receiver.hold(record));
        let delta = receiver.everything();
        let peer = Self(Arc::new(Inner {
            claims: Claims::new(config.local.cluster_id < cluster),
            outbox: std::sync::Mutex::default(),
            receiver: Mutex::new(receiver),
            cluster,
            config,
            events,
            status: watch::Sender::default(),
            stats,
        }));
        (peer, delta)
    }

    /// The state of the sessions, as it changes.
    pub fn status(&self) -> watch::Receiver<PeerStatus> {
        self.0.status.subscribe()
    }

    /// Serves a connection of this peer until it ends.
    pub async fn serve(&self, accepted: Accepted) -> Result<(), SessionError> {
        let expected = SpiffeId::Daemon(self.0.config.containment.borrow().name.clone());
        if accepted.client.as_ref() != Some(&expected) {
            accepted.connection.close(Close::Denied.code(), b"another cluster was expected");
            return Err(SessionError::Refused(format!("the client is not {expected}")));
        }
        self.0.run(&accepted.connection, false).await
    }

    /// Sends a message to the peer's member of the Raft group, if there is a session and it is not too slow.
    pub fn send_membership(&self, message: Bytes) {
        let outbox = self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = outbox.as_ref().filter(|commands| commands.capacity() > RESERVED) {
            // Raft sends again what is lost.
            let _ = commands.try_send(Command::Send(Frame::Membership(message)));
        }
    }

    /// Dials, again and again, whenever there is no session. Runs until nobody takes events any more. All addresses
    /// are tried at once, and read again for each attempt; without any, this waits for some.
    pub async fn dial(&self, dialer: Dialer, mut addresses: watch::Receiver<Vec<SocketAddr>>) {
        let mut backoff = self.0.config.backoff.clone();
        while !self.0.events.is_closed() {
            self.0.claims.wait_until_free().await;
            let known = addresses.borrow_and_update().clone();
            if known.is_empty() {
                if addresses.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let expected = Expected::Id(SpiffeId::Daemon(self.0.config.containment.borrow().name.clone()));
            let result = match dialer.connect_any(&known, &expected, Service::Peer).await {
                Ok(connection) => {
                    backoff.reset();
                    self.0.run(&connection, true).await
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                warn!(cluster = %self.0.cluster, %error, "no session with the peer");
                self.0.status.send_modify(|status| status.last_error = Some(error.to_string()));
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.0.events.closed() => return,
            }
        }
    }

    /// Forgets the peer's records, and says so to the consumer: for a cluster that has left. Waits for the session's
    /// end.
    pub async fn clear(&self) -> Result<(), SessionError> {
        self.0.claims.cancel();
        let mut receiver = self.0.receiver.lock().await;
        self.0.tell_delta(|| Ok(Some(receiver.clear()))).await.map(|_| ())
    }
}

impl Inner {
    async fn run(&self, connection: &Connection, dialled: bool) -> Result<(), SessionError> {
        let result = self.session(connection, dialled).await;
        if let Some(error) = result.as_ref().err().filter(|error| error.is_misdeed()) {
            self.status.send_modify(|status| status.misdeeds.note(error));
        }
        result.map_err(|error| end(connection, error))
    }

    async fn session(&self, connection: &Connection, dialled: bool) -> Result<(), SessionError> {
        let (mut tx, mut rx) = stream(connection, dialled, &self.stats).await?;
        let hello = greet(&self.config.local, &mut tx, &mut rx).await?;
        let name = self.config.containment.borrow().name.clone();
        expect_cluster(&hello, &name, self.cluster)?;

        let claim = self.claims.claim(dialled).ok_or(SessionError::Superseded)?;
        let mut receiver = self.receiver.lock().await;
        info!(cluster = %name, address = %connection.remote_address(), software = hello.software, "session with peer");
        let misdeeds = self.status.borrow().misdeeds.clone();
        self.status.send_replace(PeerStatus::up(connection, dialled, hello.software, misdeeds));
        self.tell(PeerEvent::Up(SystemTime::now())).await?;
        let (commands, received) = mpsc::channel(COMMANDS);
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(commands.clone());
        let export = Some((&self.config.exporter, Audience::Peers));
        let result = tokio::select! {
            result = write(&mut tx, export, received, &self.stats) => result,
            result = tell(self.config.observation.clone(), Frame::Observation, commands.clone()) => result,
            result = self.read(&mut rx, &mut receiver, connection, commands) => result,
            () = claim.cancelled() => Err(SessionError::Superseded),
            error = expired(connection) => Err(error),
        };
        let result = result.map_err(|error| end(connection, error));
        if !claim.was_cancelled() {
            *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.status.send_modify(|status| status.down(connection, result.as_ref().err()));
            self.tell(PeerEvent::Down(SystemTime::now())).await?;
        }
        result
    }

    async fn read(
        &self,
        rx: &mut FrameReceiver,
        receiver: &mut Receiver,
        connection: &Connection,
        commands: mpsc::Sender<Command>,
    ) -> Result<(), SessionError> {
        let command =
            |command| async { commands.send(command).await.map_err(|_| SessionError::ConsumerGone) };
        let mut containment = self.config.containment.clone();
        let admitted = containment.borrow_and_update().clone();
        if receiver.admission_differs(&admitted) {
            self.tell_delta(|| Ok(Some(receiver.set_containment(admitted)))).await?;
        }
        command(Command::Send(receiver.subscribe())).await?;
        loop {
            let frame = tokio::select! {
                frame = rx.receive() => frame?,
                Ok(()) = containment.changed() => {
                    let admitted = containment.borrow_and_update().clone();
                    self.tell_delta(|| Ok(Some(receiver.set_containment(admitted)))).await?;
                    command(Command::Send(receiver.resubscribe())).await?;
                    continue;
                }
            };
            count(&frame, &self.stats);
            match frame {
                Frame::Subscribe(subscription) => {
                    command(Command::Subscribe(subscription)).await?;
                    continue;
                }
                Frame::Want(wanted) => {
                    command(Command::Want(wanted)).await?;
                    continue;
                }
                Frame::Observation(observation) => {
                    self.status.send_modify(|status| status.observation = Some(observation));
                    continue;
                }
                Frame::Membership(message) => {
                    if let Some(membership) = &*self.config.membership.borrow() {
                        membership.receive(self.cluster, message.into());
                    }
                    continue;
                }
                _ => {}
            }
            let measure = matches!(frame, Frame::Heartbeat(_) | Frame::Watermark { .. });
            let changed = self.tell_delta(|| receiver.handle(frame)).await?;
            if let Some(reply) = receiver.take_reply() {
                command(Command::Send(reply)).await?;
            }
            if measure || changed {
                self.status.send_modify(|status| status.measure(connection, receiver));
            }
        }
    }

    /// Makes room, then a delta. A session may end at any await, and what the receiver has applied must get out.
    async fn tell_delta(
        &self,
        make: impl FnOnce() -> Result<Option<Delta>, ProtocolError>,
    ) -> Result<bool, SessionError> {
        let room = self.events.reserve().await.map_err(|_| SessionError::ConsumerGone)?;
        let delta = make().inspect_err(|_| self.stats.protocol_errors.inc())?;
        let changed = delta.is_some();
        if let Some(delta) = delta {
            room.send((self.cluster, PeerEvent::Delta(delta)));
        }
        Ok(changed)
    }

    async fn tell(&self, event: PeerEvent) -> Result<(), SessionError> {
        self.events.send((self.cluster, event)).await.map_err(|_| SessionError::ConsumerGone)
    }
}
