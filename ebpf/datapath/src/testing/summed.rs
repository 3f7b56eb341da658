//! A packet that a device has summed up as a whole (CHECKSUM_COMPLETE).

use super::{Frame, full_checksum};
use crate::{Link, Packet, Tuple, checksum::fold};

/// A frame and the sum over all behind its link header, which follows the changes by the rules of the kernel:
/// `bpf_skb_store_bytes` with BPF_F_RECOMPUTE_CSUM, `inet_proto_csum_replace_by_diff` (net/core/utils.c).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summed {
    /// The frame.
    pub frame: Frame,
    /// Bytes in front of what is summed.
    link: usize,
    /// Modulo 0xffff.
    sum: u32,
    /// It is a datagram without a checksum, and nobody compares.
    unused: bool,
}

impl Summed {
    /// As it comes from the device.
    pub fn new(frame: Frame, link: Link) -> Self {
        let link = link.header_len();
        Self { sum: sum(&frame, link), frame, link, unused: false }
    }

    /// Whether the sum is that over the bytes there are, or of no use.
    pub fn is_right(&self) -> bool {
        self.unused || self.sum == sum(&self.frame, self.link)
    }
}

fn sum(frame: &Frame, link: usize) -> u32 {
    let bytes = frame.0.get(link..).unwrap_or_default();
    u32::from(!u16::from_be_bytes(full_checksum(bytes))) % 0xffff
}

impl Packet for Summed {
    fn len(&self) -> u32 {
        self.frame.len()
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.load(offset)
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.frame.store(offset, bytes)
    }

    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let before = sum(&self.frame, self.link);
        self.frame.store(offset, bytes)?;
        self.sum = (self.sum + sum(&self.frame, self.link) + 0xffff - before) % 0xffff;
        Some(())
    }

    fn add_checksum(&mut self, offset: usize, difference: u32, pseudo: bool, zero: bool) -> Option<()> {
        let is_none = zero && self.frame.load::<2>(offset)? == [0, 0];
        self.frame.add_checksum(offset, difference, pseudo, zero)?;
        self.unused |= is_none;
        if pseudo && !is_none {
            let difference = u32::from(u16::from_be(fold(difference))) % 0xffff;
            self.sum = (self.sum + 0xffff - difference) % 0xffff;
        }
        Some(())
    }

    fn route(&mut self, tuple: &Tuple, v6: bool) -> bool {
        self.frame.route(tuple, v6)
    }

    fn has_socket(&mut self, tuple: &Tuple, v6: bool) -> bool {
        self.frame.has_socket(tuple, v6)
    }

    fn set_len(&mut self, len: usize) -> Option<()> {
        self.frame.set_len(len)
    }

    fn take_out(&mut self, count: usize) -> Option<()> {
        self.frame.take_out(count)
    }

    fn fits(&mut self, ifindex: u32) -> bool {
        self.frame.fits(ifindex)
    }
}
