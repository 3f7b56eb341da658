//! Userspace WireGuard over TUN and UDP, configured over the standard UAPI socket.

fn main() {}
