//! Sans-IO mesh protocols: membership, replication, global services, trust.

pub mod merge;
pub mod replication;
pub mod trust;
pub mod wire;
