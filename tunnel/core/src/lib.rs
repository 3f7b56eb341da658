//! Sans-IO WireGuard peers.
