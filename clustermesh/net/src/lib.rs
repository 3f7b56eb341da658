//! QUIC sessions and durable storage that drive the mesh cores.

pub mod enroll;
pub mod node;
pub mod peer;
pub mod session;
pub mod tls;
pub mod transport;

#[cfg(test)]
mod tests;
