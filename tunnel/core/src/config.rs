//! Configuration changes as values: what one `set=1` of the configuration protocol asks for.

use std::net::SocketAddr;

use crate::allowed_ips::Prefix;
use crate::key::{PublicKey, SecretKey};

/// A change to the device. `None` leaves a setting as it is.
#[derive(Debug, Default)]
pub struct DeviceUpdate {
    /// The device's key; all zero removes it.
    pub private_key: Option<SecretKey>,
    /// UDP port; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// Mark on outgoing datagrams; 0 removes it.
    pub fwmark: Option<u32>,
    /// Remove all peers before `peers` are applied.
    pub replace_peers: bool,
    /// Changes to peers, in order.
    pub peers: Vec<PeerUpdate>,
}

/// A change to one peer, which is made when it does not exist.
#[derive(Debug)]
pub struct PeerUpdate {
    /// Whom the change is for.
    pub public_key: PublicKey,
    /// Remove the peer.
    pub remove: bool,
    /// Do nothing when the peer does not exist.
    pub update_only: bool,
    /// Symmetric key mixed into the handshake; all zero removes it.
    pub preshared_key: Option<SecretKey>,
    /// Where the peer was last known to be.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 switches it off.
    pub persistent_keepalive: Option<u16>,
    /// Remove all its prefixes before `allowed_ips` are applied.
    pub replace_allowed_ips: bool,
    /// Prefixes to add or remove, in order.
    pub allowed_ips: Vec<AllowedIpUpdate>,
}

/// A prefix given to a peer or taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIpUpdate {
    /// The prefix.
    pub prefix: Prefix,
    /// Take it away rather than give it.
    pub remove: bool,
}

impl PeerUpdate {
    /// A change that only makes sure the peer exists.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}
