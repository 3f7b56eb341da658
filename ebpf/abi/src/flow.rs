//! Connection state: the LRU maps `FLOW` (connections and their service translation), `SNAT` (masquerading, both
//! directions) and `FRAGMENT`. The kernel writes them; user space only lists them.

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// What an entry of `FLOW` or `SNAT` is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scope {
    /// `FLOW`: a connection between two addresses, in an order of their own, so that both
    /// directions find one entry.
    Connection = 0,
    /// `FLOW`: the backend that a client's connection to a frontend got, with the client as source.
    Service = 1,
    /// `SNAT`: a pod's connection to the outside, with the pod as source.
    Forward = 2,
    /// `SNAT`: its replies, with the outside as source and the node as destination.
    Reverse = 3,
}

/// Key of `FLOW` and `SNAT`. For ICMP echo both ports are the identifier, for protocols without ports they are 0.
/// Aligned so that BPF code copies words; without it, it copies bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FlowKey {
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u8,
    scope: u8,
    reserved: [u8; 2],
}

impl FlowKey {
    /// The key of a tuple; `protocol` is the IANA number.
    #[inline(always)]
    pub const fn new(
        scope: Scope,
        source: Address,
        source_port: u16,
        destination: Address,
        destination_port: u16,
        protocol: u8,
    ) -> Self {
        Self {
            source,
            destination,
            source_port: source_port.to_be_bytes(),
            destination_port: destination_port.to_be_bytes(),
            protocol,
            scope: scope as u8,
            reserved: [0; 2],
        }
    }

    /// Source address.
    pub const fn source(&self) -> Address {
        self.source
    }

    /// Destination address.
    pub const fn destination(&self) -> Address {
        self.destination
    }

    /// Source port.
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    /// Destination port.
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// What the entry is about; none for a byte that names nothing.
    pub const fn scope(&self) -> Option<Scope> {
        match self.scope {
            0 => Some(Scope::Connection),
            1 => Some(Scope::Service),
            2 => Some(Scope::Forward),
            3 => Some(Scope::Reverse),
            _ => None,
        }
    }
}

flags! {
    /// State of a connection.
    FlowFlags: u32 {
        /// The side that stands as source in the key opened the connection.
        FROM_SOURCE = 1;
        /// The destination has answered.
        REPLIED = 2;
        /// The opener has sent a TCP FIN.
        FIN_ORIGINAL = 4;
        /// The other side has sent a TCP FIN.
        FIN_REPLY = 8;
        /// A TCP RST was seen.
        RESET = 16;
        /// The opener meant a frontend: replies get its address and port.
        TRANSLATED = 32;
        /// A pod reached itself through a frontend; on its way in, its address was hidden behind the gateway's.
        HAIRPIN = 64;
    }
}

/// Value of `FLOW`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowValue {
    last_seen: u64,
    flags: FlowFlags,
    backend: u32,
    address: Address,
    port: [u8; 2],
    reserved: [u8; 6],
}

impl FlowValue {
    /// A connection seen at `now` (nanoseconds since boot, CLOCK_MONOTONIC).
    #[inline(always)]
    pub const fn new(now: u64, flags: FlowFlags) -> Self {
        Self { last_seen: now, flags, backend: 0, address: [0; 16], port: [0; 2], reserved: [0; 6] }
    }

    /// The same with a translation: of a connection the frontend it was opened to, of a service the backend chosen.
    #[inline(always)]
    #[must_use]
    pub const fn translated(mut self, backend: u32, address: Address, port: u16) -> Self {
        self.backend = backend;
        self.address = address;
        self.port = port.to_be_bytes();
        self
    }

    /// When the last packet passed, in nanoseconds since boot.
    #[inline(always)]
    pub const fn last_seen(&self) -> u64 {
        self.last_seen
    }

    /// Its state.
    #[inline(always)]
    pub const fn flags(&self) -> FlowFlags {
        self.flags
    }

    /// The backend's number, 0 when there is none.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    /// The address of the translation.
    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port of the translation.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Notes a packet. Both directions share the entry and often run on different CPUs, which would take the cache line
    /// from each other; by a coarse clock little of it changes, so only that is written.
    #[inline(always)]
    pub const fn touch(&mut self, now: u64, flags: FlowFlags) {
        if self.last_seen != now {
            self.last_seen = now;
        }
        if !self.flags.contains(flags) {
            self.flags = self.flags.with(flags);
        }
    }
}

/// Value of `SNAT`: forward the node's address and the port taken, reverse the pod's address and port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SnatValue {
    last_seen: u64,
    address: Address,
    port: [u8; 2],
    reserved: [u8; 6],
}

impl SnatValue {
    /// A translation to `address` and `port`, used at `now` (nanoseconds since boot).
    #[inline(always)]
    pub const fn new(now: u64, address: Address, port: u16) -> Self {
        Self { last_seen: now, address, port: port.to_be_bytes(), reserved: [0; 6] }
    }

    /// When the last packet passed, in nanoseconds since boot.
    #[inline(always)]
    pub const fn last_seen(&self) -> u64 {
        self.last_seen
    }

    /// The address.
    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Notes a packet; writes as seldom as [`FlowValue::touch`].
    #[inline(always)]
    pub const fn touch(&mut self, now: u64) {
        if self.last_seen != now {
            self.last_seen = now;
        }
    }
}

/// Key of `FRAGMENT`: one IP datagram (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FragmentKey {
    source: Address,
    destination: Address,
    identification: u32,
    protocol: u8,
    reserved: [u8; 3],
}

impl FragmentKey {
    /// The datagram with this identification.
    #[inline(always)]
    pub const fn new(source: Address, destination: Address, identification: u32, protocol: u8) -> Self {
        Self { source, destination, identification, protocol, reserved: [0; 3] }
    }
}

/// Value of `FRAGMENT`: the ports of the first fragment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentValue {
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

impl FragmentValue {
    /// The ports.
    #[inline(always)]
    pub const fn new(source_port: u16, destination_port: u16) -> Self {
        Self { source_port: source_port.to_be_bytes(), destination_port: destination_port.to_be_bytes() }
    }

    /// Source port.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    /// Destination port.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<FlowValue>() == 40);
const _: () = assert!(size_of::<SnatValue>() == 32);
const _: () = assert!(size_of::<FragmentKey>() == 40);
