//! What `sock_lb` remembers of sockets: the LRU maps `ORIGIN`, so that they see the frontend as their peer, and
//! `SOCKET_BACKEND`, so that a datagram socket stays with its backend.

use bytemuck::{Pod, Zeroable};

use crate::{Address, record::room};

/// Key of `ORIGIN`: a socket and the backend it talks to. Key of `SOCKET_BACKEND`: a socket and the frontend it asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SocketKey {
    cookie: u64,
    address: Address,
    port: [u8; 2],
    protocol: u8,
    reserved: [u8; room(5)],
}

impl SocketKey {
    /// A socket by its cookie (SO_COOKIE), its peer's address and port, and the IANA protocol number.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Address, port: u16, protocol: u8) -> Self {
        Self { cookie, address, port: port.to_be_bytes(), protocol, reserved: [0; room(5)] }
    }

    /// The socket's cookie.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The peer's address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The peer's port.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// Value of `ORIGIN`: the frontend that the socket asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct OriginValue {
    address: Address,
    reserved: [u8; room(2)],
    port: [u8; 2],
}

impl OriginValue {
    /// A frontend.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, reserved: [0; room(2)], port: port.to_be_bytes() }
    }

    /// Its address.
    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Its port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// Value of `SOCKET_BACKEND`: the backend that the socket's datagrams to the frontend go to, while `BACKEND` has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SocketBackendValue {
    backend: u32,
}

impl SocketBackendValue {
    /// The backend with this number.
    #[inline(always)]
    pub const fn new(backend: u32) -> Self {
        Self { backend }
    }

    /// Number of the backend.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }
}

record!(SocketKey { cookie, address, port, protocol; reserved });
record!(OriginValue { address, port; reserved });
record!(SocketBackendValue { backend });

const _: () = assert!(size_of::<SocketKey>() == room(32));
const _: () = assert!(size_of::<OriginValue>() == room(20));
