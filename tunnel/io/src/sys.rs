//! All system calls that need `unsafe`, behind safe types.
#![expect(unsafe_code, reason = "ioctl, readv and message calls that nix has no allocation-free wrapper for")]

mod tun;
mod udp;

pub use tun::{Tun, TunError, bring_up};
pub use udp::{Received, UdpSocket};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocks SIGTERM and SIGINT in this thread and those it starts, and delivers them by descriptor.
pub fn termination_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// The result of a call that returns -1 on error.
fn check(result: isize) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error())
}
