//! What is known about the sessions with a peer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use quinn::ConnectionError;
use tombolo_mesh_core::{
    replication::{Receiver, Refusal},
    wire::Observation,
};

use crate::{
    session::{SessionError, unix_time_ms},
    transport::{Connection, IDLE},
};

/// The state of the sessions with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether there is a session.
    pub up: bool,
    /// Since when there is one, or none.
    pub since: Option<SystemTime>,
    /// When something was last heard from it; while there is a session, that it is not dead is heard all the time.
    pub heard: Option<Instant>,
    /// The other end of the last session.
    pub address: Option<SocketAddr>,
    /// Whether this side has dialled it.
    pub dialled: bool,
    /// Name and version of its daemon.
    pub software: Option<String>,
    /// Round-trip time of the path.
    pub rtt: Option<Duration>,
    /// How many revisions this side is behind.
    pub lag: Option<u64>,
    /// The peer's clock minus the one here, in milliseconds, plus the time a frame takes.
    pub clock_offset_ms: Option<i64>,
    /// How the peer sees the mesh, as long as there is a session.
    pub observation: Option<Observation>,
    /// How many records of the peer are held.
    pub records: usize,
    /// How many records were refused, by reason.
    pub refusals: BTreeMap<Refusal, u64>,
    /// What no honest peer does, since the start.
    pub misdeeds: Misdeeds,
    /// Why the last session ended or could not begin.
    pub last_error: Option<String>,
}

/// What was refused of a cluster that is not as it should be: defective, or in the hands of somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misdeeds {
    /// How often.
    pub count: u64,
    /// The last one, in words.
    pub last: String,
}

impl Misdeeds {
    /// Takes note of one.
    pub fn note(&mut self, what: &impl ToString) {
        self.count = self.count.saturating_add(1);
        self.last = what.to_string();
    }
}

impl PeerStatus {
    pub(super) fn up(connection: &Connection, dialled: bool, software: String, misdeeds: Misdeeds) -> Self {
        Self {
            misdeeds,
            up: true,
            since: Some(SystemTime::now()),
            heard: Some(Instant::now()),
            address: Some(connection.remote_address()),
            dialled,
            software: Some(software),
            rtt: Some(connection.rtt()),
            ..Self::default()
        }
    }

    pub(super) fn down(&mut self, connection: &Connection, error: Option<&SessionError>) {
        self.up = false;
        let timed_out = matches!(connection.close_reason(), Some(ConnectionError::TimedOut));
        self.heard = Instant::now().checked_sub(if timed_out { IDLE } else { Duration::ZERO });
        self.since = Some(SystemTime::now());
        self.rtt = None;
        self.lag = None;
        self.observation = None;
        self.last_error = error.map(ToString::to_string);
    }

    pub(super) fn measure(&mut self, connection: &Connection, receiver: &Receiver) {
        self.heard = Some(Instant::now());
        self.address = Some(connection.remote_address());
        self.rtt = Some(connection.rtt());
        self.records = receiver.records().len();
        self.refusals.clone_from(receiver.refusals());
        let Some(heartbeat) = receiver.heartbeat() else { return };
        self.lag = receiver.position().map(|p| heartbeat.revision.saturating_sub(p.revision));
        self.clock_offset_ms =
            i64::try_from(i128::from(heartbeat.unix_time_ms) - i128::from(unix_time_ms())).ok();
    }
}
