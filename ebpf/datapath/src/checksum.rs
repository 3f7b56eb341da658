//! One's complement sums (RFC 1071) and their incremental update (RFC 1624), in the byte order of the machine.

/// What must be added to a sum when `old` becomes `new`. The bytes begin at an even offset of what is summed.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u32 {
    let mut sum = 0u32;
    let mut i = 0;
    while i + 1 < N {
        sum += u32::from(!u16::from_ne_bytes([old[i], old[i + 1]]));
        sum += u32::from(u16::from_ne_bytes([new[i], new[i + 1]]));
        i += 2;
    }
    sum
}

/// The sum over bytes, of which there is an even number.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0u32;
    let mut i = 0;
    while i + 1 < N {
        sum += u32::from(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}

/// The checksum field of what has this sum.
#[inline(always)]
pub const fn field(sum: u32) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The sum in 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field after adding a difference to what it sums.
#[inline(always)]
pub const fn update(field: [u8; 2], difference: u32) -> [u8; 2] {
    (!fold(!u16::from_ne_bytes(field) as u32 + difference)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::full_checksum;

    proptest! {
        #[test]
        fn update_equals_recomputing(mut header: [u8; 20], change: [u8; 4], at in 0usize..4) {
            header[10..12].fill(0);
            let field = full_checksum(&header);
            let at = at * 2;
            let old: [u8; 4] = header[at..at + 4].try_into().unwrap();
            header[at..at + 4].copy_from_slice(&change);
            let updated = update(field, difference(&old, &change));
            let recomputed = full_checksum(&header);
            // One's complement has two zeros.
            let zero = |c: [u8; 2]| c == [0, 0] || c == [0xff, 0xff];
            prop_assert!(updated == recomputed || (zero(updated) && zero(recomputed)));
        }
    }
}
