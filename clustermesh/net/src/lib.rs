//! QUIC sessions and durable storage that drive the mesh cores.
