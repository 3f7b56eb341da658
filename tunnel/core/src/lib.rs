//! Sans-IO WireGuard device: peers, cryptokey routing, offload arithmetic and the configuration protocol.
//!
//! Nothing here opens a socket or a file. [`Device`] is fed IP packets, UDP datagrams and the time, and fills
//! caller-owned buffers: [`TxBatch`] with datagrams laid out for UDP segmentation offload, [`RxBatch`] with
//! the inner packets that passed authentication. [`offload`] splits and joins TCP super-packets, [`uapi`] is
//! the text protocol of `wg`.
//!
//! One impurity is inherited: the handshake and session state machine (boringtun) reads the monotonic clock
//! and draws its ephemeral keys itself. Everything added here takes `now` as an argument.

pub mod batch;
pub mod config;
pub mod device;
pub mod key;
pub mod offload;
pub mod uapi;

mod allowed_ips;
mod peer;

pub use allowed_ips::{Prefix, PrefixError};
pub use batch::{RxBatch, TxBatch};
pub use config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
pub use device::{Counters, Device};
pub use key::{PublicKey, SecretKey};
pub use peer::PeerStatus;
