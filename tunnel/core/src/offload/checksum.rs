//! The Internet checksum (RFC 1071).

use super::be16;

/// One's complement sum of `bytes`, added to `initial`, not yet folded.
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    // Native-order words in four independent lanes, which compilers turn into vector code; the byte order
    // of the folded result is repaired at the end (RFC 1071, section 2 (B)).
    let mut lanes = [0u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            if let Some(word) = word.first_chunk() {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut pairs = blocks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        if let Some(pair) = pair.first_chunk() {
            total += u64::from(u16::from_ne_bytes(*pair));
        }
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    initial + u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo header of `packet` (RFC 793, RFC 8200 section 8.1) for `protocol` and `len` bytes of
/// transport header and payload; `None` when the packet is no IP packet.
pub fn pseudo_header(packet: &[u8], protocol: u8, len: usize) -> Option<u64> {
    let addresses = match packet.first()? >> 4 {
        4 => packet.get(12..20)?,
        6 => packet.get(8..40)?,
        _ => return None,
    };
    Some(sum(addresses, u64::from(protocol) + len as u64))
}

/// Completes a checksum that the kernel left to the device: the field at `start + offset` holds the sum of the
/// pseudo header. `None` when the offsets lie outside the packet. Never zero, which for UDP would mean that there is
/// none (RFC 768) and which its receivers drop over IPv6 (RFC 8200, section 8.1); all ones are the same number.
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let partial = be16(packet, start + offset)?;
    super::put16(packet, start + offset, 0)?;
    let value = !fold(sum(packet.get(start..)?, u64::from(partial)));
    super::put16(packet, start + offset, if value == 0 { 0xffff } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..200), initial in any::<u16>()) {
            let plain: u64 = bytes
                .chunks(2)
                .map(|c| u64::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
                .sum();
            let (ours, want) = (fold(sum(&bytes, u64::from(initial))), fold(plain + u64::from(initial)));
            prop_assert_eq!(ours % 0xffff, want % 0xffff);
        }

        #[test]
        fn a_completed_checksum_is_right_and_never_zero(
            mut packet in prop::collection::vec(any::<u8>(), 8..60), zero in any::<bool>(),
        ) {
            packet.truncate(packet.len() & !1);
            let (start, offset) = (0, 6);
            if zero {
                // What is summed comes to 0xffff with this, so that the checksum by the book is zero.
                packet[2..4].fill(0);
                let missing = !fold(sum(&packet, 0));
                packet[2..4].copy_from_slice(&missing.to_be_bytes());
            }
            let whole = fold(sum(&packet, 0));
            complete(&mut packet, start, offset).unwrap();
            let field = u16::from_be_bytes([packet[6], packet[7]]);
            prop_assert_ne!(field, 0);
            prop_assert!((u64::from(whole) + u64::from(field)) % 0xffff == 0);
        }
    }
}
