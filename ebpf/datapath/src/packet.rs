//! The packet as a program sees it.

use crate::Tuple;

/// What a packet begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// An Ethernet header (14 bytes, no VLAN tag: the kernel keeps that aside).
    Ethernet,
    /// The IP header.
    Raw,
}

impl Link {
    /// Bytes in front of the IP header.
    pub const fn header_len(self) -> usize {
        match self {
            Self::Ethernet => 14,
            Self::Raw => 0,
        }
    }
}

/// Bytes of a packet, and what the kernel knows about its way. Offsets count from the first byte of the packet.
pub trait Packet {
    /// Length in bytes.
    fn len(&self) -> u32;

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `N` bytes; none when the packet ends before.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `N` bytes without touching any checksum; none when that fails.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Writes `N` bytes whose change no checksum evens out with which they are written, as in an IPv6 header. The sum over the
    /// whole packet, which a device may have taken, follows.
    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Adds a one's complement difference to the transport checksum at `offset`. `pseudo` says that it comes from the
    /// pseudo header, which a checksum still to be finished by the device holds already: the address stands in the IP header,
    /// and that is written first. `zero_is_none` says that a
    /// checksum of zero means none (UDP) and stays, and that one that comes to zero is written as ones.
    fn add_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()>;

    /// Finds the next hop on the underlay and remembers it for the redirect; false when the stack must decide: no
    /// route, a route to the node itself, or a packet too large for the way.
    fn route(&mut self, tuple: &Tuple, v6: bool) -> bool;

    /// Whether a TCP or UDP socket of the node would get a packet with these ends; false for other protocols.
    fn has_socket(&mut self, tuple: &Tuple, v6: bool) -> bool;

    /// Gives the packet this length, as one that is not to be split into segments: cuts it off or appends bytes of zero.
    fn set_len(&mut self, len: usize) -> Option<()>;

    /// Takes out the `count` bytes behind the link header. Where these include the beginning of what a checksum covers,
    /// nobody finishes that checksum any more.
    fn take_out(&mut self, count: usize) -> Option<()>;

    /// Whether the packet (each segment of it) fits the device.
    fn fits(&mut self, ifindex: u32) -> bool;
}
