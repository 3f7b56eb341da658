//! Drives the member of this cluster: lets time pass, stores, sends, and answers those who wait for a decision.

mod driver;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tombolo_mesh_core::membership::{
    Applied, Command, Config, Envelope, Halt, Member, MemberId, MeshId, MeshState, ReceiveError, Refusal,
    RestoreError, Status,
};
use tombolo_model::ClusterId;

use self::driver::Driver;
use crate::{
    peer::Misdeeds,
    storage::{MemberStorage, StorageError},
};

/// Requests that wait for the driver, at most.
const QUEUE: usize = 1024;

/// Carries messages to other members. It must not block, and may lose any message.
pub trait MessageSink: Send + 'static {
    /// Sends to the member's cluster, if there is a session with it.
    fn send(&mut self, message: Envelope);
}

/// How time passes for the member.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before an election; up to twice as many.
    pub election_ticks: usize,
}

impl Default for Timing {
    /// Elections after one to two seconds: clusters may be half the world apart.
    fn default() -> Self {
        Self { tick: Duration::from_millis(100), heartbeat_ticks: 3, election_ticks: 10 }
    }
}

/// What is known of the mesh at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshView {
    /// The decided state.
    pub state: Arc<MeshState>,
    /// The Raft group as this member sees it: leader, term, voters, learners, indexes.
    pub status: Status,
}

/// A change that did not happen, or of which nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    /// The mesh has decided against it; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader was elected in time.
    #[error(
        "too few members of the mesh answer to decide anything: see `tombolo mesh status`; if they are gone for good, \
         `tombolo mesh recover` goes on without them"
    )]
    NoQuorum,
    /// It was proposed, and no decision came in time.
    #[error("no decision came within {} s: it may still take effect, see `tombolo mesh status`", .0.as_secs())]
    Timeout(Duration),
    /// The driver has ended.
    #[error("membership has stopped in this replica: try again on the one that took over")]
    Stopped,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// Storage refuses: deposed, full, or unusable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The member must rejoin.
    #[error(transparent)]
    Halted(#[from] Halt),
    /// Nobody holds its [`Membership`] any more.
    #[error("membership was stopped")]
    Closed,
    /// A defect in the driver.
    #[error("membership ended unexpectedly: {0}")]
    Failed(String),
}

#[derive(Debug)]
enum Request {
    Receive { from: ClusterId, bytes: Vec<u8>, reply: Option<oneshot::Sender<Result<(), ReceiveError>>> },
    Propose { command: Box<Command>, until: Instant, reply: oneshot::Sender<Result<Applied, ProposeError>> },
    Transfer { to: MemberId, reply: oneshot::Sender<Result<(), ProposeError>> },
}

/// The running member; cheap to clone. It ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Membership {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<MeshView>>,
    misdeeds: SharedMisdeeds,
}

type SharedMisdeeds = Arc<Mutex<BTreeMap<ClusterId, Misdeeds>>>;

impl Membership {
    /// Starts the member whose state is in `storage`. The task ends with the reason for which it stopped.
    pub fn start(
        mesh: MeshId,
        timing: Timing,
        storage: MemberStorage,
        sink: Box<dyn MessageSink>,
    ) -> Result<(Self, JoinHandle<Stopped>), RestoreError> {
        let config = Config {
            mesh,
            election_ticks: timing.election_ticks,
            heartbeat_ticks: timing.heartbeat_ticks,
            seed: rand::random(),
            key: rand::random(),
        };
        let member = Member::restore(&config, storage.durable())?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let (publish, view) = watch::channel(Arc::new(driver::view(&member)));
        let misdeeds = SharedMisdeeds::default();
        let driver = Driver::new(member, storage, sink, publish, Arc::clone(&misdeeds));
        Ok((Self { requests, view, misdeeds }, tokio::spawn(driver.run(queue, timing.tick))))
    }

    /// Wants a change and waits, at most for `limit`, until the mesh has decided. Any member will do: it goes to the
    /// leader by itself.
    pub async fn propose(&self, command: Command, limit: Duration) -> Result<Applied, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Propose { command: Box::new(command), until: Instant::now() + limit, reply };
        let decided = async {
            self.requests.send(request).await.map_err(|_| ProposeError::Stopped)?;
            answer.await.map_err(|_| ProposeError::Stopped)?
        };
        // The driver answers in time by itself, unless its storage is away.
        let applied = tokio::time::timeout(limit + Duration::from_secs(1), decided).await;
        let applied = applied.map_err(|_| ProposeError::Timeout(limit))??;
        applied.outcome.clone()?;
        Ok(applied)
    }

    /// Hands leadership to another voter.
    pub async fn transfer(&self, to: MemberId) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Transfer { to, reply }).await.map_err(|_| ProposeError::Stopped)?;
        answer.await.map_err(|_| ProposeError::Stopped)?
    }

    /// Takes a message that came over a session with cluster `from`; drops it when too many wait.
    pub fn receive(&self, from: ClusterId, bytes: Vec<u8>) {
        let _ = self.requests.try_send(Request::Receive { from, bytes, reply: None });
    }

    /// [`Membership::receive`], and what became of the message: for sessions that count refusals.
    pub async fn receive_checked(&self, from: ClusterId, bytes: Vec<u8>) -> Result<(), ReceiveError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Receive { from, bytes, reply: Some(reply) };
        self.requests.send(request).await.map_err(|_| ReceiveError::Halted)?;
        answer.await.unwrap_or(Err(ReceiveError::Halted))
    }

    /// What came from a cluster that no honest member sends.
    pub fn misdeeds(&self, of: ClusterId) -> Misdeeds {
        self.misdeeds.lock().unwrap_or_else(PoisonError::into_inner).get(&of).cloned().unwrap_or_default()
    }

    /// The mesh as it is known here, and its changes.
    pub fn watch(&self) -> watch::Receiver<Arc<MeshView>> {
        self.view.clone()
    }
}

#[cfg(test)]
mod tests;
