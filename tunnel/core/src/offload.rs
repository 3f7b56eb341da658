//! Offload arithmetic: super-packets from the kernel are cut into packets for the wire, and packets from the
//! wire are joined into super-packets for the kernel, so that each crosses the stack once per 64 KB.
//!
//! The layout of [`VnetHeader`] is `struct virtio_net_hdr` (virtio 1.2, section 5.1.6).

pub mod checksum;
pub mod coalesce;
pub mod segment;

/// Size of `struct virtio_net_hdr` without the merged-buffers field.
pub const VNET_HEADER_LEN: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside the type when the stream uses explicit congestion notification.
const GSO_ECN: u8 = 0x80;

/// What stands before each packet read from or written to a TUN device with IFF_VNET_HDR. Host byte order on
/// the wire, as legacy virtio has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) header_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl VnetHeader {
    /// Splits a buffer read from the device into header and packet; `None` when it is too short.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, packet) = bytes.split_first_chunk::<VNET_HEADER_LEN>()?;
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *head;
        let header = Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        };
        Some((header, packet))
    }

    /// The header as the device takes it.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

/// Big-endian 16-bit field at `at`; `None` past the end.
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

fn put32(bytes: &mut [u8], at: usize, value: u32) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests;
