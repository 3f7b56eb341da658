//! Ports of SCTP (RFC 9260). Its checksum, a CRC32c, covers the whole packet, but a remainder is linear: what a change of
//! the ports changes in it follows from the change and the length alone.

use tombolo_abi::DropReason;

use crate::{Fragment, Headers, Packet, rewrite::End};

/// The polynomial of Castagnoli, as all remainders here with the coefficient of x⁰ in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x⁰.
const ONE: u32 = 1 << 31;
/// x⁸: one byte more.
const BYTE: u32 = 1 << (31 - 8);
/// Bytes of the header.
const HEADER: u16 = 12;
/// Offset of the checksum.
const CHECKSUM: usize = 8;

/// Gives one end of an SCTP packet another port, and the packet the right checksum.
///
/// # Errors
/// [`DropReason::SctpFragmented`] for a part of a packet: nobody here knows the length of the whole.
#[inline(never)]
pub fn set_port<P: Packet>(packet: &mut P, headers: &Headers, end: End, port: u16) -> Result<(), DropReason> {
    if headers.fragment != Fragment::Whole {
        return Err(DropReason::SctpFragmented);
    }
    store_port(packet, headers, end, port).ok_or(DropReason::RewriteFailed)
}

#[inline(always)]
fn store_port<P: Packet>(packet: &mut P, headers: &Headers, end: End, port: u16) -> Option<()> {
    let l4 = usize::from(headers.l4);
    let len = headers.transport_len(packet).filter(|len| *len >= HEADER)?;
    let old = packet.load::<4>(l4)?;
    let [high, low] = port.to_be_bytes();
    let new = match end {
        End::Source => [high, low, old[2], old[3]],
        End::Destination => [old[0], old[1], high, low],
    };
    let checksum = u32::from_le_bytes(packet.load::<4>(l4 + CHECKSUM)?);
    let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    packet.store_summed(l4, new)?;
    if checksum == 0 {
        // The kernel leaves it to the device, which expects zero here. A right one is zero once in four billion packets.
        return Some(());
    }
    packet.store_summed(l4 + CHECKSUM, (checksum ^ remainder(change, len)).to_le_bytes())
}

/// x⁸ to the powers of 0 to 255, and of those times 256: what so many bytes more make of a remainder.
static LOW: [u32; 256] = powers(BYTE);
static HIGH: [u32; 256] = powers(BYTES_256);
const BYTES_256: u32 = multiplied(powers(BYTE)[255], BYTE);

const fn powers(of: u32) -> [u32; 256] {
    let mut all = [ONE; 256];
    let mut i = 1;
    while i < 256 {
        all[i] = multiplied(all[i - 1], of);
        i += 1;
    }
    all
}

/// The remainder of four bytes at the beginning of `len` bytes that are zero otherwise.
#[inline(never)]
fn remainder(bytes: u32, len: u16) -> u32 {
    let [high, low] = len.to_be_bytes();
    multiplied(multiplied(bytes, LOW[low as usize]), HIGH[high as usize])
}

/// The product modulo the polynomial. By masks and not by branches: the verifier walks through it once.
#[inline(never)]
const fn multiplied(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted) = (0, b);
    let mut bit = 0;
    while bit < 32 {
        product ^= shifted & 0u32.wrapping_sub(a >> (31 - bit) & 1);
        shifted = (shifted >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(shifted & 1));
        bit += 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tombolo_abi::{Address, protocol, v4_mapped};

    use super::*;
    use crate::{
        Link, classify,
        rewrite::set_end,
        testing::{Frame, Memory, crc32c},
    };

    const A: Address = v4_mapped([10, 1, 0, 1]);
    const B: Address = v4_mapped([10, 1, 0, 2]);

    /// An SCTP packet in an Ethernet frame, with `padding` behind it.
    fn frame(v6: bool, ports: (u16, u16), chunks: &[u8], padding: usize, fragment: u16) -> Frame {
        let mut sctp = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        sctp.extend([1, 2, 3, 4, 0, 0, 0, 0]);
        sctp.extend(chunks);
        let sum = crc32c(&sctp);
        sctp[8..12].copy_from_slice(&sum.to_le_bytes());
        let mut frame = vec![2; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(u16::try_from(sctp.len()).unwrap().to_be_bytes());
            frame.extend([protocol::SCTP, 64]);
            frame.extend([[0xfd; 16], [0xfe; 16]].concat());
        } else {
            let [high, low] = u16::try_from(20 + sctp.len()).unwrap().to_be_bytes();
            let [f0, f1] = fragment.to_be_bytes();
            frame.extend([8, 0, 0x45, 0, high, low, 0, 7, f0, f1, 64, protocol::SCTP, 0, 0]);
            frame.extend([&A[12..], &B[12..]].concat());
        }
        frame.extend(sctp);
        frame.extend(vec![0xaa; padding]);
        Frame(frame)
    }

    fn set(frame: &mut Frame, end: End, port: u16) -> Result<(), DropReason> {
        let mut headers = Headers::default();
        assert_eq!(classify(frame, &Memory::default(), Link::Ethernet, &mut headers), Ok(true));
        let address = if headers.is_v6() { [0xfc; 16] } else { A };
        set_end(frame, &mut headers, end, &address, port)
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32/ISCSI");
    }

    proptest! {
        #[test]
        fn a_changed_port_leaves_a_right_checksum(v6: bool, source: bool, ports: (u16, u16), port: u16, padding in 0usize..9,
                                                  chunks in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut changed = frame(v6, ports, &chunks, padding, 0);
            let end = if source { End::Source } else { End::Destination };
            set(&mut changed, end, port).unwrap();
            let wanted = if source { (port, ports.1) } else { (ports.0, port) };
            let l4 = if v6 { 54 } else { 34 };
            prop_assert_eq!(&changed.0[l4..], &frame(v6, wanted, &chunks, padding, 0).0[l4..]);
        }
    }

    #[test]
    fn a_checksum_that_the_device_fills_in_stays_zero() {
        let mut packet = frame(false, (1000, 80), &[7; 8], 0, 0);
        packet.0[42..46].fill(0);
        set(&mut packet, End::Destination, 81).unwrap();
        assert_eq!(packet.0[36..46], [0, 81, 1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn a_part_of_a_packet_gets_no_other_port() {
        let more_fragments = 0x2000;
        let mut first = frame(false, (1000, 80), &[7; 8], 0, more_fragments);
        assert_eq!(set(&mut first, End::Destination, 80), Ok(()), "the same port");
        assert_eq!(set(&mut first, End::Destination, 81), Err(DropReason::SctpFragmented));
    }
}
