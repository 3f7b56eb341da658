//! Packet decisions, compiled into the BPF programs and into host tests.
//!
//! A program parses its packet once into [`Headers`] ([`classify`]), calls its function of [`hook`] and maps the
//! [`Verdict`], or the reason to drop, to the kernel's. What the crate needs of the packet it asks of [`Packet`], of maps, clock and chance
//! of [`Tables`]. Nothing here looks at a payload or depends on a packet's length, so segmented packets pass; only [`refuse`] quotes.
//!
//! Functions that the verifier would otherwise see once per caller are `inline(never)`: they become BPF
//! subprograms, so they take at most five arguments, without that of [`Tables`], which is nothing in BPF, and return one small
//! scalar. What else they find out goes into a value of its own that the caller hands them, as a [`Translation`].
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

mod checksum;
mod flow;
pub mod handover;
pub mod hook;
mod packet;
mod parse;
mod policy;
mod refuse;
mod report;
mod rewrite;
mod sctp;
mod service;
mod snat;
pub mod socket;
mod source_port;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod translation;

pub use flow::key_between;
pub use packet::{Link, Packet};
pub use parse::{Fragment, Headers, Transport, Tuple, classify};
pub use refuse::refuse;
pub use report::Report;
pub use tables::Tables;
use tombolo_abi::EndpointValue;
pub use translation::Translation;

/// What is done with a packet that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'t> {
    /// The network stack of the node goes on with it.
    Pass,
    /// Straight into this local pod; addressed to its Ethernet address.
    ToPod(&'t EndpointValue),
    /// To the next hop that [`Packet::route`] found.
    ToUnderlay,
    /// Into the tunnel device with this index.
    ToTunnel(u32),
}
