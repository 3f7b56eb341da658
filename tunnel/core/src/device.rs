//! The device: datagrams and packets in, batches out.

mod configure;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::allowed_ips::AllowedIps;
use crate::batch::{RxBatch, TxBatch};
use crate::key::{PublicKey, SecretKey};
use crate::peer::{Peer, PeerStatus};

/// Handshakes per second above which initiators must prove their address with a cookie. Each accepted one
/// is counted twice, once before the costly part and once by the session code.
const HANDSHAKES_PER_SECOND: u64 = 100;
/// A receiver refuses counters from here on (WireGuard paper, section 6.1, Reject-After-Messages).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Packets that went nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inner packets with no peer for their destination.
    pub no_route: u64,
    /// Inner packets that could not be encrypted or queued: no key, no endpoint, or no room.
    pub unsent: u64,
    /// Datagrams that are no WireGuard message, name no known session or peer, or fail authentication.
    pub rejected: u64,
    /// Authenticated packets whose inner source address is not the peer's.
    pub wrong_source: u64,
}

/// A WireGuard device without sockets.
#[derive(Default)]
pub struct Device {
    identity: Option<Identity>,
    listen_port: u16,
    fwmark: u32,
    /// Peers by slot. Session indices carry the slot in their upper 24 bits.
    slots: Vec<Option<Box<Peer>>>,
    by_key: BTreeMap<PublicKey, u32>,
    allowed_ips: AllowedIps,
    counters: Counters,
}

/// The device's own keys, and the defence of its handshakes, which is keyed by them.
struct Identity {
    secret: SecretKey,
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Device {
    /// A device with no key and no peers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Routes one inner packet to its peer and appends what is to be sent to `tx`.
    pub fn handle_ip_packet(&mut self, packet: &[u8], now: Instant, tx: &mut TxBatch) {
        let slot = Tunn::dst_address(packet).and_then(|to| self.allowed_ips.lookup(to));
        match slot.and_then(|slot| peer_in(&mut self.slots, slot)) {
            Some(peer) => {
                if !peer.send(packet, now, tx) {
                    self.counters.unsent += 1;
                }
            }
            None => self.counters.no_route += 1,
        }
    }

    /// Takes one datagram from the network. Replies go to `tx`, an authenticated inner packet to `rx`.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        tx: &mut TxBatch,
        rx: &mut RxBatch,
    ) {
        let accepted = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::PacketData(data)) => {
                self.handle_data(data.receiver_idx >> 8, from, datagram, now, tx, rx)
            }
            Ok(Packet::HandshakeInit(_)) => self.handle_initiation(from, datagram, now, tx),
            Ok(Packet::HandshakeResponse(p)) => {
                self.handle_handshake(p.receiver_idx >> 8, from, datagram, now, tx)
            }
            Ok(Packet::PacketCookieReply(p)) => {
                self.handle_handshake(p.receiver_idx >> 8, from, datagram, now, tx)
            }
            Err(_) => None,
        };
        if accepted.is_none() {
            self.counters.rejected += 1;
        }
    }

    /// Runs the timers of all peers. To be called about four times a second.
    pub fn handle_timeout(&mut self, now: Instant, tx: &mut TxBatch) {
        if let Some(identity) = &self.identity {
            identity.limiter.reset_count();
        }
        for peer in self.slots.iter_mut().flatten() {
            peer.handle_timeout(now, tx);
        }
    }

    /// Packets that went nowhere since the device was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The private key, when set.
    pub fn private_key(&self) -> Option<&SecretKey> {
        self.identity.as_ref().map(|identity| &identity.secret)
    }

    /// The public key that belongs to the private key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(|identity| PublicKey(identity.public.to_bytes()))
    }

    /// UDP port that the owner of the device listens on.
    pub fn listen_port(&self) -> u16 {
        self.listen_port
    }

    /// Mark for outgoing datagrams, 0 for none.
    pub fn fwmark(&self) -> u32 {
        self.fwmark
    }

    /// All peers, ordered by key.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.by_key.values().filter_map(|slot| Some(self.slots.get(*slot as usize)?.as_ref()?.status()))
    }

    fn handle_data(
        &mut self,
        slot: u32,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        tx: &mut TxBatch,
        rx: &mut RxBatch,
    ) -> Option<()> {
        let peer = peer_in(&mut self.slots, slot)?;
        if rx.room() < datagram.len() || counter(datagram)? >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let inner = match peer.tunn.as_mut()?.decapsulate(None, datagram, rx.spare()) {
            TunnResult::WriteToTunnelV4(packet, source) => Some((packet.len(), IpAddr::V4(source))),
            TunnResult::WriteToTunnelV6(packet, source) => Some((packet.len(), IpAddr::V6(source))),
            TunnResult::Done => None,
            TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => return None,
        };
        peer.heard(from, datagram.len(), now);
        peer.confirm(now);
        peer.flush(now, tx);
        if let Some((len, source)) = inner {
            if self.allowed_ips.lookup(source) == Some(slot) {
                rx.commit(len);
            } else {
                self.counters.wrong_source += 1;
            }
        }
        Some(())
    }

    /// An initiation names its sender only inside; the limiter stands before the costly look.
    fn handle_initiation(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        tx: &mut TxBatch,
    ) -> Option<()> {
        let identity = self.identity.as_ref()?;
        if tx.room() < 148 {
            return None;
        }
        let initiation = match identity.limiter.verify_packet(Some(from.ip()), datagram, tx.spare()) {
            Ok(Packet::HandshakeInit(initiation)) => initiation,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let len = cookie.len();
                tx.commit(from, len);
                return Some(());
            }
            _ => return None,
        };
        let half = parse_handshake_anon(&identity.private, &identity.public, &initiation).ok()?;
        let slot = *self.by_key.get(&PublicKey(half.peer_static_public))?;
        self.handle_handshake(slot, from, datagram, now, tx)
    }

    fn handle_handshake(
        &mut self,
        slot: u32,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        tx: &mut TxBatch,
    ) -> Option<()> {
        let peer = peer_in(&mut self.slots, slot)?;
        if tx.room() < 148 {
            return None;
        }
        let reply = match peer.tunn.as_mut()?.decapsulate(Some(from.ip()), datagram, tx.spare()) {
            TunnResult::WriteToNetwork(reply) => (reply.first().copied(), reply.len()),
            TunnResult::Done => return Some(()),
            _ => return None,
        };
        match reply {
            // Under load: the sender has not been authenticated, so nothing is learnt from it.
            (Some(3), len) => tx.commit(from, len),
            (kind, len) => {
                peer.heard(from, datagram.len(), now);
                peer.commit(from, len, now, tx);
                if kind == Some(2) {
                    peer.responded();
                } else {
                    peer.completed(now);
                    peer.flush(now, tx);
                }
            }
        }
        Some(())
    }
}

/// Counter of a data message, bytes 8 to 15, little endian.
fn counter(datagram: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?))
}

fn peer_in(slots: &mut [Option<Box<Peer>>], slot: u32) -> Option<&mut Peer> {
    slots.get_mut(slot as usize)?.as_deref_mut()
}
