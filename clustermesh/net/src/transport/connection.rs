//! Connections, and how dead ones are found. QUIC's idle timeout begins anew with the first packet that is sent into the
//! silence (RFC 9000, 10.1): alone, it lets whoever sends the keepalives wait a keepalive longer than the other side.

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quinn::ConnectionError;
use tokio::time::{MissedTickBehavior, interval};

use super::{IDLE, KEEP_ALIVE};
use crate::{session::Close, socket::canonical};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A keepalive may be lost twice and sent again (RFC 9002, 6.2) before this many round trips are over.
const ROUND_TRIPS: u32 = 6;

/// A connection that is closed when nothing has come from the other side for about [`IDLE`], on very long paths for some
/// round trips more. Dropping it closes it, too.
#[derive(Debug)]
pub struct Connection {
    inner: quinn::Connection,
    lost: Arc<AtomicBool>,
    watch: Watch,
}

impl Connection {
    /// The other side's address.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.inner.remote_address())
    }

    /// Why it is closed, if it is; silence counts as a timeout, whoever has noticed it.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        let reason = self.inner.close_reason()?;
        Some(if self.lost.load(Ordering::Relaxed) { ConnectionError::TimedOut } else { reason })
    }
}

impl Deref for Connection {
    type Target = quinn::Connection;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.watch.watched().remove(&self.inner.stable_id());
    }
}

/// Looks after the connections of an endpoint. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Mutex<Watched>>);

/// By their stable ids.
type Watched = HashMap<usize, Heard>;

impl Watch {
    /// Runs in the current tokio runtime until neither this nor a connection is left.
    pub(super) fn start() -> Self {
        let watched = Arc::default();
        tokio::spawn(look(Arc::downgrade(&watched)));
        Self(watched)
    }

    pub(super) fn over(&self, inner: quinn::Connection) -> Connection {
        let lost = Arc::<AtomicBool>::default();
        let heard = Heard { connection: inner.clone(), lost: lost.clone(), datagrams: 0, looks: 0 };
        self.watched().insert(inner.stable_id(), heard);
        Connection { inner, lost, watch: self.clone() }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(watched: Weak<Mutex<Watched>>) {
    let mut looks = interval(LOOK);
    // A pause of this process is not the silence of others.
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        let Some(watched) = watched.upgrade() else { return };
        Watch(watched).watched().values_mut().for_each(Heard::look);
    }
}

#[derive(Debug)]
struct Heard {
    connection: quinn::Connection,
    lost: Arc<AtomicBool>,
    /// That have arrived.
    datagrams: u64,
    /// How often it was looked at since one has arrived.
    looks: u32,
}

impl Heard {
    fn look(&mut self) {
        let stats = self.connection.stats();
        if stats.udp_rx.datagrams != self.datagrams {
            (self.datagrams, self.looks) = (stats.udp_rx.datagrams, 0);
            return;
        }
        self.looks += 1;
        // The last one came up to a look before it was seen, and whoever waits is to know in time.
        let limit = IDLE.max(KEEP_ALIVE + ROUND_TRIPS * stats.path.rtt);
        // One that is closed already keeps its reason.
        if LOOK * (self.looks + 2) >= limit && self.connection.close_reason().is_none() {
            self.lost.store(true, Ordering::Relaxed);
            self.connection.close(Close::Lost.code(), b"nothing was heard any more");
        }
    }
}
