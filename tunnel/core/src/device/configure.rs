//! Applying configuration changes.

use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use super::{Device, HANDSHAKES_PER_SECOND, Identity, peer_in};
use crate::config::{DeviceUpdate, PeerUpdate};
use crate::key::{PublicKey, SecretKey};
use crate::peer::Peer;

impl Device {
    /// Applies a whole change. Sessions survive unless their keys change.
    pub fn apply(&mut self, update: &DeviceUpdate) {
        if let Some(key) = &update.private_key {
            self.set_private_key(key);
        }
        if let Some(port) = update.listen_port {
            self.listen_port = port;
        }
        if let Some(mark) = update.fwmark {
            self.fwmark = mark;
        }
        if update.replace_peers {
            let keys: Vec<PublicKey> = self.by_key.keys().copied().collect();
            keys.into_iter().for_each(|key| self.remove_peer(key));
        }
        for peer in &update.peers {
            self.apply_peer(peer);
        }
    }

    /// The port that was bound, after asking the kernel to choose one.
    pub fn set_listen_port(&mut self, port: u16) {
        self.listen_port = port;
    }

    fn set_private_key(&mut self, key: &SecretKey) {
        if self.private_key() == Some(key) {
            return;
        }
        if key.is_zero() {
            self.identity = None;
            self.slots.iter_mut().flatten().for_each(|peer| peer.tunn = None);
            return;
        }
        let private = x25519::StaticSecret::from(*key.bytes());
        let public = x25519::PublicKey::from(&private);
        let limiter = Arc::new(RateLimiter::new(&public, 2 * HANDSHAKES_PER_SECOND));
        // A peer with our own key could only be ourselves.
        self.remove_peer(PublicKey(public.to_bytes()));
        for (slot, peer) in (0..).zip(&mut self.slots) {
            if let Some(peer) = peer {
                peer.rekey(slot, &private, &limiter);
            }
        }
        self.identity = Some(Identity { secret: key.clone(), private, public, limiter });
    }

    fn apply_peer(&mut self, update: &PeerUpdate) {
        if update.remove {
            return self.remove_peer(update.public_key);
        }
        let known = self.by_key.get(&update.public_key).copied();
        if self.public_key() == Some(update.public_key) || (known.is_none() && update.update_only) {
            return;
        }
        let slot = known.unwrap_or_else(|| self.add_peer(update.public_key));
        let Some(peer) = peer_in(&mut self.slots, slot) else { return };
        if update.endpoint.is_some() {
            peer.endpoint = update.endpoint;
        }
        if let Some(seconds) = update.persistent_keepalive {
            peer.persistent_keepalive = seconds;
        }
        let preshared = update.preshared_key.clone().map(|key| Some(key).filter(|key| !key.is_zero()));
        let rekey = preshared
            .is_some_and(|key| std::mem::replace(&mut peer.preshared_key, key) != peer.preshared_key);
        if let Some(identity) = self.identity.as_ref().filter(|_| rekey || known.is_none()) {
            peer.rekey(slot, &identity.private, &identity.limiter);
        }
        self.apply_allowed_ips(slot, update);
    }

    fn apply_allowed_ips(&mut self, slot: u32, update: &PeerUpdate) {
        let Some(peer) = peer_in(&mut self.slots, slot) else { return };
        if update.replace_allowed_ips {
            std::mem::take(&mut peer.allowed_ips).into_iter().for_each(|p| self.allowed_ips.remove(p));
        }
        for change in &update.allowed_ips {
            if change.remove {
                let owned =
                    peer_in(&mut self.slots, slot).is_some_and(|p| p.allowed_ips.remove(&change.prefix));
                if owned {
                    self.allowed_ips.remove(change.prefix);
                }
                continue;
            }
            let former = self.allowed_ips.insert(change.prefix, slot);
            if let Some(peer) = former.and_then(|former| peer_in(&mut self.slots, former)) {
                peer.allowed_ips.remove(&change.prefix);
            }
            if let Some(peer) = peer_in(&mut self.slots, slot) {
                peer.allowed_ips.insert(change.prefix);
            }
        }
    }

    fn add_peer(&mut self, key: PublicKey) -> u32 {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let peer = Some(Box::new(Peer::new(key)));
        match self.slots.get_mut(free) {
            Some(slot) => *slot = peer,
            None => self.slots.push(peer),
        }
        // The parser's limit on peers keeps slots below 2^24.
        let slot = u32::try_from(free).unwrap_or(u32::MAX);
        self.by_key.insert(key, slot);
        slot
    }

    fn remove_peer(&mut self, key: PublicKey) {
        let Some(slot) = self.by_key.remove(&key) else { return };
        if let Some(peer) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            peer.allowed_ips.iter().for_each(|prefix| self.allowed_ips.remove(*prefix));
        }
    }
}
