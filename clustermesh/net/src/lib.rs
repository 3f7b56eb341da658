//! QUIC sessions and durable storage that drive the mesh cores.

pub mod join;
pub mod raft;
pub mod storage;
