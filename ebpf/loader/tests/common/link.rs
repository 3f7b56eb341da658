//! Whole frames on a device.

#![expect(unsafe_code, reason = "no safe call sends on a packet socket")]

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::ifindex;

/// The tag of VLAN 7 (IEEE 802.1Q).
const TAG: [u8; 4] = [0x81, 0, 0, 7];

/// The same frame with a VLAN tag.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &TAG[..], &frame[12..]].concat()
}

/// Sends an Ethernet frame from a device of the calling thread's network namespace (packet(7)).
pub fn send_frame(device: &str, frame: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
    let index = i32::try_from(ifindex(device)).expect("an index of a device");
    // SAFETY: all bytes zero are a valid `sockaddr_ll`.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).expect("a family fits");
    to.sll_ifindex = index;
    let length = libc::socklen_t::try_from(size_of_val(&to)).expect("an address is short");
    // SAFETY: frame and address are valid for the lengths given, and the kernel only reads them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
