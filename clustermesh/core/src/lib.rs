//! Sans-IO mesh protocols: membership, replication, global services, trust.

pub mod membership;
pub mod token;
