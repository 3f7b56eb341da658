//! QUIC sessions and durable storage that drive the mesh cores.

pub mod enroll;
pub mod join;
pub mod mirror;
pub mod node;
pub mod peer;
pub mod raft;
pub mod session;
pub mod socket;
pub mod storage;
pub mod tls;
pub mod transport;

#[cfg(test)]
mod tests;
