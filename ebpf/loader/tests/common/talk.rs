//! Servers and clients for tests.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, sendto,
        setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A server that answers a connection with the peer's address, and then with what it is sent.
pub fn serve_tcp(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let _ = writeln!(stream, "{peer}");
                let mut from = stream.try_clone().unwrap();
                let _ = io::copy(&mut from, &mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
}

/// A server that answers a datagram with the sender's address.
pub fn serve_udp(port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

/// A server that answers a datagram with its own name.
pub fn serve_named_udp(name: &'static str, port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 2000]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

pub fn connect(to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to.into(), port), Duration::from_millis(1500))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection from this port, which others may have too.
pub fn connect_from(port: u16, to: Ipv4Addr, to_port: u16) -> nix::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(2))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, to_port)))?;
    Ok(TcpStream::from(socket))
}

/// The address under which a TCP server sees the caller, after `len` bytes went there and back.
pub fn ask_tcp(to: Ipv4Addr, port: u16, len: usize) -> io::Result<String> {
    let mut stream = connect(to, port)?;
    let mut peer = String::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        peer.push(char::from(byte[0]));
    }
    let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut writer = stream.try_clone()?;
    let copy = sent.clone();
    let writing =
        thread::spawn(move || writer.write_all(&copy).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed)?;
    writing.join().unwrap()?;
    assert!(echoed == sent, "{} of {} bytes came back", echoed.len(), sent.len());
    Ok(peer.trim().to_owned())
}

/// The address under which a UDP server sees the caller, and the one under which the caller sees the server.
pub fn ask_udp(to: Ipv4Addr, port: u16) -> io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
    socket.send_to(b"?", (to, port))?;
    let mut buffer = [0; 100];
    let (len, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..len]).into_owned(), from))
}

/// Sends an echo request with `len` bytes of payload and waits for the answer with the same payload.
pub fn ping(to: Ipv4Addr, len: usize) -> nix::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("ping sockets");
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), SockProtocol::Icmp)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
    let mut request = vec![8, 0, 0, 0, 0, 0, 0, 1];
    request.extend((0..len).map(|i| u8::try_from(i % 251).unwrap()));
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    sendto(socket.as_raw_fd(), &request, &to, MsgFlags::empty())?;
    let mut reply = vec![0; len + 100];
    let received = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    assert!(reply[0] == 0 && reply[8..received] == request[8..], "another reply");
    Ok(())
}
