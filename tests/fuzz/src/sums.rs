//! Checksums by the book (RFC 1071), slowly.

/// The one's complement sum of all bytes, an odd last one filled up with zero; 0 and 0xffff are the same number, and this
/// says 0 for both.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    words.fold(0, |sum, word| (sum + word) % 0xffff)
}

/// The checksum of bytes in which the field itself is zero.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    (!u16::try_from(sum(bytes)).expect("less than 0xffff")).to_be_bytes()
}

/// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293, section 3.1; RFC 8200, section 8.1) for the IP packet `ip`, whose
/// transport header and payload have `len` bytes.
pub fn pseudo_header(ip: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let addresses = if ip[0] >> 4 == 6 { &ip[8..40] } else { &ip[12..20] };
    let len = u32::try_from(len).expect("a packet's length");
    [addresses, &len.to_be_bytes(), &[0, 0, 0, protocol]].concat()
}
