//! The TUN device: made or attached to, with segmentation offloads.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;

use super::check;
use crate::interface::InterfaceName;

const DEVICE: &str = "/dev/net/tun";
/// Offload flags of linux/if_tun.h that libc lacks: UDP segmentation, Linux 6.2.
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;
/// Slices that one write takes: device header, packet headers and payloads.
const MAX_SLICES: usize = 66;

/// Why the device cannot be used.
#[derive(Debug, Error)]
pub enum TunError {
    /// The control device is missing.
    #[error("{DEVICE} does not exist: load the tun module, or give the container this device")]
    NoControlDevice,
    /// Not allowed.
    #[error("not allowed to make device {0}: run as root or with CAP_NET_ADMIN")]
    NotPermitted(InterfaceName),
    /// Another process holds the device.
    #[error("device {0} is held by another process: stop it, or choose another --interface")]
    Busy(InterfaceName),
    /// A device of that name exists and is something else.
    #[error("device {0} exists and is no single-queue TUN device: remove it, or choose another --interface")]
    NotATun(InterfaceName),
    /// Anything else.
    #[error("cannot attach to device {name}")]
    Other {
        /// The device.
        name: InterfaceName,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An attached TUN device, non-blocking, with a virtio header before each packet.
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device or attaches to the existing one.
    pub fn attach(name: &InterfaceName) -> Result<Self, TunError> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let file = file.map_err(|e| match e.kind() {
            ErrorKind::NotFound => TunError::NoControlDevice,
            _ => explain(name, e),
        })?;
        let mut request = interface_request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        check(result as isize).map_err(|e| explain(name, e))?;
        let tun = Self { file };
        tun.set_offloads().map_err(|source| TunError::Other { name: name.clone(), source })?;
        Ok(tun)
    }

    /// Whether the device outlives this process.
    pub fn set_persistent(&self, on: bool) -> io::Result<()> {
        self.set(libc::TUNSETPERSIST, libc::c_uint::from(on))
    }

    /// Reads one packet or super-packet with its device header.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        use std::io::Read as _;
        (&self.file).read(buf)
    }

    /// Writes one packet or super-packet: device header first.
    pub fn write<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        use std::io::Write as _;
        let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = io::IoSlice::new(part);
            used += 1;
        }
        (&self.file).write_vectored(slices.get(..used).unwrap_or_default())
    }

    fn set_offloads(&self) -> io::Result<()> {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        // Kernels before 6.2 refuse the whole set when it holds UDP segmentation.
        self.set(libc::TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6)
            .or_else(|_| self.set(libc::TUNSETOFFLOAD, tcp))
    }

    fn set(&self, request: libc::Ioctl, value: libc::c_uint) -> io::Result<()> {
        // SAFETY: these two requests take a plain number, no pointer.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, libc::c_ulong::from(value)) };
        check(result as isize).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Sets the MTU of a device in this network namespace and brings it up.
pub fn bring_up(name: &InterfaceName, mtu: u16) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
    interface_call(&socket, libc::SIOCSIFMTU, &mut request)?;
    interface_call(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface_call(&socket, libc::SIOCSIFFLAGS, &mut request)
}

fn interface_call(socket: &UdpSocket, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the SIOC*IF* calls read and write one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_mut(request)) };
    check(result as isize).map(drop)
}

fn interface_request(name: &InterfaceName) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn explain(name: &InterfaceName, source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => TunError::Busy(name.clone()),
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.clone()),
        Some(libc::EINVAL | libc::EEXIST) => TunError::NotATun(name.clone()),
        _ => TunError::Other { name: name.clone(), source },
    }
}
