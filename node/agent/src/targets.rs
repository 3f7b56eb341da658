//! What desired tables are written to, besides BPF maps: kernel routes and WireGuard peers.

pub mod map;
mod peers;
mod routes;
mod tunnel;

pub use peers::Peers;
pub use routes::{RouteError, Routes};
pub use tunnel::{Tunnel, TunnelError};
