//! Sans-IO mesh protocols: membership, replication, global services, trust.

pub mod membership;
pub mod merge;
pub mod replication;
pub mod token;
pub mod trust;
pub mod wire;
