//! What every parser of bytes from outside must hold, whatever the bytes are, and what may become of packets: one module
//! per fuzz target.
//!
//! `make fuzz` searches for bytes that break it; the bytes that it found worth keeping are in `corpus/`, by target,
//! and are replayed with the other tests.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a panic is how a target says that something broke"
)]

pub mod classify;
pub mod cni;
pub mod frame;
mod input;
pub mod membership;
pub mod offload;
pub mod replication;
mod sums;
pub mod token;
pub mod tunnel;

/// A target: takes any bytes, panics where something does not hold.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("classify", classify::run),
    ("cni", cni::run),
    ("frame", frame::run),
    ("membership", membership::run),
    ("offload", offload::run),
    ("replication", replication::run),
    ("token", token::run),
    ("tunnel", tunnel::run),
];
