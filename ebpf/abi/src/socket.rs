//! What sockets were redirected by `sock_lb`: the LRU map `ORIGIN`, so that they see the frontend as their peer.

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Key of `ORIGIN`: a socket and the backend it talks to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct OriginKey {
    cookie: u64,
    address: Address,
    port: [u8; 2],
    protocol: u8,
    reserved: [u8; 5],
}

impl OriginKey {
    /// A socket by its cookie (SO_COOKIE), the backend's address and port, and the IANA protocol number.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Address, port: u16, protocol: u8) -> Self {
        Self { cookie, address, port: port.to_be_bytes(), protocol, reserved: [0; 5] }
    }

    /// The socket's cookie.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The backend's address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The backend's port.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// Value of `ORIGIN`: the frontend that the socket asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct OriginValue {
    address: Address,
    port: [u8; 2],
    reserved: [u8; 2],
}

impl OriginValue {
    /// A frontend.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), reserved: [0; 2] }
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

const _: () = assert!(size_of::<OriginKey>() == 32);
const _: () = assert!(size_of::<OriginValue>() == 20);
