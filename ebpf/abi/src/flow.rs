//! Connection state: the LRU maps `FLOW` (connections and their service translation) and `FRAGMENT`, and the keys of
//! `SNAT`. The kernel writes them; user space lists them, and removes what has expired from `SNAT`.

use bytemuck::{Pod, Zeroable};

use crate::{Address, protocol, record::room};

/// What an entry of `FLOW` or `SNAT` is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scope {
    /// `FLOW`: a connection between two addresses, in an order of their own, so that both
    /// directions find one entry.
    Connection = 0,
    /// `FLOW`: what a client's connection became, with the client and its own port as source: the backend that a frontend gave
    /// it, or only another port when it is direct.
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
        /// Replies get another sender or another port: the opener meant a frontend, or was given another port.
        TRANSLATED = 32;
        /// A pod reached itself through a frontend; on its way in, its address was hidden behind the gateway's.
        HAIRPIN = 64;
        /// Of a service: it only remembers the backend. Whether that has answered stands in the connection's own entry.
        CHOSEN = 256;
        /// The opener has gone on after an answer: not every SYN that is answered makes a connection. Only in `SNAT`.
        ESTABLISHED = 128;
    }
}

impl FlowFlags {
    /// Both sides have sent a TCP FIN.
    pub const FINISHED: Self = Self::FIN_ORIGINAL.with(Self::FIN_REPLY);

    /// Whether the connection was finished by both sides, or reset.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.contains(Self::RESET) || self.contains(Self::FINISHED)
    }
}

/// Value of `FLOW`. What a connection was translated to, which pods of this node take part in it, and under which policies
/// it was judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowValue {
    last_seen: u64,
    flags: FlowFlags,
    backend: u32,
    address: Address,
    opener: u32,
    answerer: u32,
    epoch: u32,
    reserved: [u8; room(16)],
    port: [u8; 2],
    client_port: [u8; 2],
}

impl FlowValue {
    /// A connection seen at `now` (nanoseconds since boot, CLOCK_MONOTONIC).
    #[inline(always)]
    pub const fn new(now: u64, flags: FlowFlags) -> Self {
        Self {
            last_seen: now,
            flags,
            backend: 0,
            address: [0; 16],
            opener: 0,
            answerer: 0,
            epoch: 0,
            reserved: [0; room(16)],
            port: [0; 2],
            client_port: [0; 2],
        }
    }

    /// The same between these endpoints (numbers of [`EndpointValue`](crate::EndpointValue), 0 for one that is not a pod of
    /// this node or not known), judged under the policies of this epoch.
    #[inline(always)]
    #[must_use]
    pub const fn judged(mut self, opener: u32, answerer: u32, epoch: u32) -> Self {
        self.opener = opener;
        self.answerer = answerer;
        self.epoch = epoch;
        self
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

    /// The same with another port at the client's end: of a connection the client's own port, which replies get back, of a
    /// service the one that it was given. 0: the client has the same port on both sides of the translation.
    #[inline(always)]
    #[must_use]
    pub const fn with_client_port(mut self, port: u16) -> Self {
        self.client_port = port.to_be_bytes();
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

    /// The client's port on the other side of the translation, 0 when it is the same on both.
    #[inline(always)]
    pub const fn client_port(&self) -> u16 {
        u16::from_be_bytes(self.client_port)
    }

    /// Number of the endpoint that opened the connection, 0 for one that is not a pod of this node or not known.
    #[inline(always)]
    pub const fn opener(&self) -> u32 {
        self.opener
    }

    /// Number of the endpoint that it was opened to, likewise.
    #[inline(always)]
    pub const fn answerer(&self) -> u32 {
        self.answerer
    }

    /// The policy epoch in which it was judged last; 0: in none.
    #[inline(always)]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// For how long it counts after its last packet, in nanoseconds; of the protocol with this IANA number.
    #[inline(always)]
    pub const fn lifetime(&self, number: u8) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        if self.flags.is_closed() {
            // A TCP connection that was closed or reset may be reopened after the delayed packets of the old one.
            10 * SECOND
        } else if !self.flags.intersects(FlowFlags::REPLIED.with(FlowFlags::CHOSEN)) {
            60 * SECOND
        } else if number == protocol::TCP {
            // Longer than the usual keep-alive interval of 2 h.
            8 * 3600 * SECOND
        } else {
            180 * SECOND
        }
    }

    /// Notes that it was judged once more, with the rules of these endpoints where they are known.
    #[inline(always)]
    pub const fn judge_again(&mut self, opener: u32, answerer: u32, epoch: u32) {
        if opener != 0 {
            self.opener = opener;
        }
        if answerer != 0 {
            self.answerer = answerer;
        }
        // Who was among those asked before, and is not known now, has not been asked again.
        if self.opener == opener && self.answerer == answerer {
            self.epoch = epoch;
        }
    }

    /// Notes a packet. Both directions share the entry and often run on different CPUs, which would take the cache line
    /// from each other; by a coarse clock little of it changes, so only that is written.
    #[inline(always)]
    pub const fn touch(&mut self, now: u64, flags: FlowFlags) {
        if self.last_seen < now {
            self.last_seen = now;
        }
        if !self.flags.contains(flags) {
            self.flags = self.flags.with(flags);
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

record!(FlowKey { source, destination, source_port, destination_port, protocol, scope; reserved });
record!(FlowValue { last_seen, flags, backend, address, opener, answerer, epoch, port, client_port; reserved });
record!(FragmentKey { source, destination, identification, protocol; reserved });
record!(FragmentValue { source_port, destination_port });

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<FlowValue>() == room(64));
const _: () = assert!(size_of::<FragmentKey>() == 40);
