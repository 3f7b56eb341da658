//! Replication of records from an exporter to many receivers: to the nodes of a cluster, and to other clusters.
//!
//! An [`Exporter`] holds the newest version of each record, with the revision of the transaction that brought it
//! ([`Log`]). A [`Sender`] per receiver is a cursor over the log: it sends what is newer than the receiver's revision,
//! each record once and in its newest version however often it changed, as one transaction. So a slow receiver costs
//! no memory, and resuming costs what has changed. A receiver that comes from another exporter of the same records, or
//! has missed more removals than the log remembers, compares digests and is sent what differs. A [`Receiver`] applies transactions as a whole, admits from a peer only what the peer may
//! speak about, and drops what an exporter no longer mentions only once the exporter says that it knows everything.
//!
//! Nothing here does input or output, nor reads a clock.

mod admission;
mod compare;
mod digest;
mod exporter;
mod log;
mod receiver;
mod sender;
mod weight;
mod withdraw;

pub use admission::{Admission, Containment, Refusal};
pub use exporter::Exporter;
pub use log::{Applied, Log};
pub use receiver::{Delta, Limits, ProtocolError, Receiver};
pub use sender::{Outgoing, Sender, Start};

pub use crate::wire::{Change, Position, Scope, Subscription, WantedBucket};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
