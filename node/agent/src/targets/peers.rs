//! WireGuard peers.

use std::collections::BTreeMap;

use tombolo_node_core::{
    reconcile::Target,
    tunnel::{PublicKey, TunnelPeer},
};

use crate::uapi::{Uapi, UapiError};

/// The peers of a tunnel process.
///
/// An endpoint is written when it is new or desired anew, never to correct what the tunnel has learnt itself: a
/// peer behind NAT is where its last authentic packet came from.
#[derive(Debug)]
pub struct Peers {
    uapi: Uapi,
    written: BTreeMap<PublicKey, TunnelPeer>,
}

impl Peers {
    /// Of the tunnel behind `uapi`.
    pub const fn new(uapi: Uapi) -> Self {
        Self { uapi, written: BTreeMap::new() }
    }
}

impl Target<PublicKey, TunnelPeer> for Peers {
    type Error = UapiError;

    fn update(&mut self, key: &PublicKey, value: &TunnelPeer) -> Result<(), UapiError> {
        let moved = self.written.get(key).is_none_or(|written| written.endpoint != value.endpoint);
        self.uapi.set_peer(key, value, moved)?;
        self.written.insert(*key, value.clone());
        Ok(())
    }

    fn delete(&mut self, key: &PublicKey) -> Result<(), UapiError> {
        self.uapi.remove_peer(key)?;
        self.written.remove(key);
        Ok(())
    }

    fn list(&mut self) -> Result<BTreeMap<PublicKey, TunnelPeer>, UapiError> {
        let mut peers = self.uapi.get()?.peers;
        // A tunnel that has restarted has lost them all.
        self.written.retain(|key, _| peers.contains_key(key));
        for (key, peer) in &mut peers {
            if let Some(written) = self.written.get(key) {
                peer.endpoint = written.endpoint;
            }
        }
        Ok(peers)
    }
}
