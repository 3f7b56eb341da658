//! One peer: its session state, where it is, and what it may send.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use crate::allowed_ips::Prefix;
use crate::batch::TxBatch;
use crate::key::{PublicKey, SecretKey};

/// Largest inner packet plus message header and tag; also above the smallest buffer a handshake needs.
const MAX_MESSAGE: usize = 65_535 + 32;
/// First byte of a transport data message.
const TYPE_DATA: u8 = 4;

/// What is known about a peer, for display.
#[derive(Clone, Debug)]
pub struct PeerStatus<'a> {
    /// Its name.
    pub public_key: PublicKey,
    /// Symmetric key, when one is set.
    pub preshared_key: Option<&'a SecretKey>,
    /// Where it was last heard or configured.
    pub endpoint: Option<SocketAddr>,
    /// When the newest session was confirmed.
    pub last_handshake: Option<Instant>,
    /// Bytes of authenticated datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Seconds, 0 when off.
    pub persistent_keepalive: u16,
    /// Prefixes that it owns, ordered.
    pub allowed_ips: &'a BTreeSet<Prefix>,
}

pub(crate) struct Peer {
    pub(crate) public_key: PublicKey,
    pub(crate) preshared_key: Option<SecretKey>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) persistent_keepalive: u16,
    pub(crate) allowed_ips: BTreeSet<Prefix>,
    /// Absent while the device has no private key.
    pub(crate) tunn: Option<Tunn>,
    last_handshake: Option<Instant>,
    /// A response was sent; the session counts as confirmed when the peer uses it.
    unconfirmed: bool,
    /// Packets wait inside `tunn` for a session.
    queued: bool,
    /// Last authenticated packet in either direction, which is what holds persistent keepalive off.
    last_traffic: Option<Instant>,
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: 0,
            allowed_ips: BTreeSet::new(),
            tunn: None,
            last_handshake: None,
            unconfirmed: false,
            queued: false,
            last_traffic: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Starts over with no session, as after a change of key.
    pub(crate) fn rekey(&mut self, slot: u32, private: &x25519::StaticSecret, limiter: &Arc<RateLimiter>) {
        let preshared = self.preshared_key.as_ref().map(|k| *k.bytes());
        let public = x25519::PublicKey::from(self.public_key.0);
        self.tunn =
            Some(Tunn::new(private.clone(), public, preshared, None, slot, Some(Arc::clone(limiter))));
        self.queued = false;
        self.unconfirmed = false;
        self.last_traffic = None;
    }

    pub(crate) fn status(&self) -> PeerStatus<'_> {
        PeerStatus {
            public_key: self.public_key,
            preshared_key: self.preshared_key.as_ref(),
            endpoint: self.endpoint,
            last_handshake: self.last_handshake,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            persistent_keepalive: self.persistent_keepalive,
            allowed_ips: &self.allowed_ips,
        }
    }

    /// Encrypts `packet`, or keeps it and asks for a session. False when it had to be dropped.
    pub(crate) fn send(&mut self, packet: &[u8], now: Instant, tx: &mut TxBatch) -> bool {
        let (Some(tunn), Some(to)) = (self.tunn.as_mut(), self.endpoint) else { return false };
        if tx.room() < (packet.len() + 32).max(148) {
            return false;
        }
        match tunn.encapsulate(packet, tx.spare()) {
            TunnResult::WriteToNetwork(message) => {
                self.queued |= message.first() != Some(&TYPE_DATA);
                let len = message.len();
                self.commit(to, len, now, tx);
                true
            }
            TunnResult::Done => {
                self.queued = true;
                true
            }
            _ => false,
        }
    }

    /// Books an authenticated datagram: it tells where the peer is now.
    pub(crate) fn heard(&mut self, from: SocketAddr, len: usize, now: Instant) {
        self.endpoint = Some(from);
        self.rx_bytes += len as u64;
        self.last_traffic = Some(now);
    }

    /// The peer used the session whose response we sent.
    pub(crate) fn confirm(&mut self, now: Instant) {
        if std::mem::take(&mut self.unconfirmed) {
            self.last_handshake = Some(now);
        }
    }

    pub(crate) fn responded(&mut self) {
        self.unconfirmed = true;
    }

    pub(crate) fn completed(&mut self, now: Instant) {
        self.unconfirmed = false;
        self.last_handshake = Some(now);
    }

    /// Sends what waited for a session.
    pub(crate) fn flush(&mut self, now: Instant, tx: &mut TxBatch) {
        while self.queued && tx.room() >= MAX_MESSAGE {
            let (Some(tunn), Some(to)) = (self.tunn.as_mut(), self.endpoint) else { return };
            match tunn.decapsulate(None, &[], tx.spare()) {
                TunnResult::WriteToNetwork(message) => {
                    // A handshake instead of data: there is no session, the packet went back into the queue.
                    let data = message.first() == Some(&TYPE_DATA);
                    let len = message.len();
                    self.commit(to, len, now, tx);
                    if !data {
                        return;
                    }
                }
                _ => self.queued = false,
            }
        }
    }

    /// Retransmits, rekeys and keeps alive as is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, tx: &mut TxBatch) {
        let (Some(tunn), Some(to)) = (self.tunn.as_mut(), self.endpoint) else { return };
        if tx.room() < MAX_MESSAGE {
            return;
        }
        if let TunnResult::WriteToNetwork(message) = tunn.update_timers(tx.spare()) {
            let len = message.len();
            self.commit(to, len, now, tx);
        }
        self.keep_alive(now, tx);
    }

    fn keep_alive(&mut self, now: Instant, tx: &mut TxBatch) {
        let interval = Duration::from_secs(u64::from(self.persistent_keepalive));
        let due = self.last_traffic.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if interval.is_zero() || !due || tx.room() < MAX_MESSAGE {
            return;
        }
        let (Some(tunn), Some(to)) = (self.tunn.as_mut(), self.endpoint) else { return };
        self.last_traffic = Some(now);
        let result = match tunn.time_since_last_handshake() {
            Some(_) => tunn.encapsulate(&[], tx.spare()),
            None => tunn.format_handshake_initiation(tx.spare(), false),
        };
        if let TunnResult::WriteToNetwork(message) = result {
            let len = message.len();
            self.commit(to, len, now, tx);
        }
    }

    /// Books a message that was written into the spare room of `tx`.
    pub(crate) fn commit(&mut self, to: SocketAddr, len: usize, now: Instant, tx: &mut TxBatch) {
        tx.commit(to, len);
        self.tx_bytes += len as u64;
        self.last_traffic = Some(now);
    }
}
