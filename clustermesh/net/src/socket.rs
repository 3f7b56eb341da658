//! Sockets that serve IPv6 and IPv4 at once.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt,
    },
};

/// All addresses of this host, with a port that the system chooses.
pub const ANY: SocketAddr = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A UDP socket at `address`. `[::]` stands for all addresses of both families; where the kernel has no IPv6, for
/// those of IPv4.
///
/// # Errors
/// The address is taken, or not one of this host.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    Ok(open(address, SockType::Datagram)?.into())
}

/// A TCP socket that listens at `address`, which is as for [`udp`]. Calls on it do not block.
///
/// # Errors
/// The address is taken, or not one of this host.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, SockType::Stream)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The address without the mapping that sockets of both families show IPv4 addresses in.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    match try_open(address, kind) {
        Err(Errno::EAFNOSUPPORT) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            Ok(try_open((Ipv4Addr::UNSPECIFIED, address.port()).into(), kind)?)
        }
        result => Ok(result?),
    }
}

fn try_open(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        // Whatever the machine's own default is (net.ipv6.bindv6only).
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    if kind == SockType::Stream {
        // What the last process has left in TIME_WAIT keeps nobody from listening.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn all_addresses_are_those_of_both_families() {
        let listener = tcp(ANY).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            let client = TcpStream::connect((host, port)).unwrap();
            let (_, from) = listener.accept().unwrap();
            assert_eq!(canonical(from), client.local_addr().unwrap());
        }
        assert_eq!(
            tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn one_family_stays_one() {
        let listener = tcp((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_err());
    }
}
