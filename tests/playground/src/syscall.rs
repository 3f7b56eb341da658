//! The one system call that no library wraps safely: attaching to a TUN device.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use crate::{Error, Result};

/// Creates the TUN device `name` in the current network namespace; each read and write of the file is
/// one IP packet without any header before it. The device lives as long as the file.
/// Source: Documentation/networking/tuntap.rst of the Linux kernel.
#[expect(unsafe_code, reason = "TUNSETIFF takes a pointer")]
pub fn create_tun(name: &str) -> Result<File> {
    let path = "/dev/net/tun";
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("open", path))?;
    // SAFETY: ifreq is a plain C structure, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= libc::IFNAMSIZ {
        return Err(Error::Invalid(format!("device name is {name:?}; give at most 15 bytes")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a complete ifreq that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) };
    nix::errno::Errno::result(result).map_err(Error::system(format!("create the device {name}")))?;
    Ok(file)
}
