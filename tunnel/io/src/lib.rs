//! Userspace WireGuard: moves packets between a persistent TUN device and UDP sockets, and is configured over
//! the standard UAPI socket.
//!
//! One thread owns the device and both directions of the packet path, so that nothing on it takes a lock or
//! allocates. UAPI clients are served by threads of their own, which hand whole requests over a channel.

pub mod engine;
pub mod interface;
pub mod sys;
pub mod uapi;
