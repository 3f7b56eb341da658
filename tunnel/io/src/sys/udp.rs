//! UDP sockets with segmentation offload in both directions.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Bytes asked for in each socket buffer; what wireguard-go uses.
const SOCKET_BUFFER: libc::c_int = 7 << 20;
/// Control messages: one u16 (UDP_SEGMENT) or one int (UDP_GRO) with its header, rounded up.
const CONTROL_LEN: usize = 64;

/// A bound, non-blocking UDP socket of one family.
pub struct UdpSocket {
    fd: OwnedFd,
    port: u16,
}

/// One receive: datagrams of equal size, the last perhaps shorter.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Who sent them.
    pub from: SocketAddr,
    /// Bytes in all.
    pub len: usize,
    /// Bytes of each.
    pub segment: usize,
}

/// Control buffer, aligned as `cmsghdr` needs.
#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

impl UdpSocket {
    /// Binds to all IPv4 addresses, or to all IPv6 addresses and these only. Port 0 lets the kernel choose.
    pub fn bind(v6: bool, port: u16, mark: u32) -> io::Result<Self> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked before it is owned.
        let raw = unsafe { libc::socket(family, kind, 0) };
        check(raw as isize)?;
        // SAFETY: `raw` is a descriptor that was just opened and that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut socket = Self { fd, port };
        if v6 {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        socket.set(libc::SOL_UDP, libc::UDP_GRO, 1)?;
        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            // Forcing takes CAP_NET_ADMIN; without it the system's limit applies.
            let forced = socket.set(libc::SOL_SOCKET, forced, SOCKET_BUFFER);
            forced.or_else(|_| socket.set(libc::SOL_SOCKET, plain, SOCKET_BUFFER))?;
        }
        socket.set_mark(mark)?;
        let any: SocketAddr =
            if v6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() };
        let (address, len) = to_raw(any);
        // SAFETY: `address` holds `len` valid bytes for the length of the call.
        check(unsafe { libc::bind(raw, (&raw const address).cast(), len) } as isize)?;
        socket.port = socket.local_port()?;
        Ok(socket)
    }

    /// The port it is bound to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Marks all that is sent from now on; 0 for none.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_MARK, mark as libc::c_int)
    }

    /// Sends `bytes` as datagrams of `segment` bytes each, the last perhaps shorter, in one call.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let (mut address, address_len) = to_raw(to);
        let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control([0; CONTROL_LEN]);
        // SAFETY: msghdr is plain data for which all zero bytes are valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = address_len;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        if bytes.len() > segment {
            message.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the first header and two bytes of data lie within
            // `control`, which is aligned for cmsghdr.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(2) as usize;
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = libc::UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment as u16);
            }
        }
        // SAFETY: all that `message` points to outlives the call; the kernel only reads it.
        check(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, 0) }).map(drop)
    }

    /// Receives one datagram, or several of one sender that the kernel joined.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        // SAFETY: both are plain data for which all zero bytes are valid.
        let (mut address, mut message): (libc::sockaddr_storage, libc::msghdr) =
            unsafe { std::mem::zeroed() };
        let mut slice = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let mut control = Control([0; CONTROL_LEN]);
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN;
        // SAFETY: all that `message` points to is valid for writing and outlives the call.
        let len = check(unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) })?;
        let mut segment = len;
        // SAFETY: the kernel has filled the control buffer and its length; the walk stays within them.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                    let size = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).unwrap_or(len);
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        let from = from_raw(&address).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Received { from, len, segment: segment.max(1) })
    }

    fn local_port(&self) -> io::Result<u16> {
        // SAFETY: sockaddr_storage is plain data for which all zero bytes are valid.
        let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let fd = self.fd.as_raw_fd();
        // SAFETY: `address` has room for `len` bytes; both outlive the call.
        check(unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) } as isize)?;
        Ok(from_raw(&address).map_or(0, |a| a.port()))
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option value is one int, which outlives the call.
        let result =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
        check(result as isize).map(drop)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn to_raw(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain data for which all zero bytes are valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = match address {
        SocketAddr::V4(a) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every address type.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(a) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: a.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: a.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

fn from_raw(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds this type.
            let raw = unsafe { std::ptr::from_ref(storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds this type.
            let raw = unsafe { std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}
