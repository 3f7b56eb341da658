//! A packet and tables in memory, for tests.

/// The Internet checksum (RFC 1071) over all bytes, by the book.
pub fn full_checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}
