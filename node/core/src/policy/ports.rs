//! Port ranges as prefixes, the form in which an LPM trie holds them.

/// The ports whose first `len` bits are those of `port`; the other bits of `port` are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortPrefix {
    /// How many bits count, 0..=16. First, so that less specific prefixes order before more specific ones.
    pub len: u8,
    /// The first port, host byte order.
    pub port: u16,
}

impl PortPrefix {
    /// The prefix of `len` bits (0..=16) around this one.
    #[must_use]
    pub fn shortened(self, len: u8) -> Self {
        let mask = u16::MAX.checked_shl(16 - u32::from(len.min(16))).unwrap_or(0);
        Self { len, port: self.port & mask }
    }

    /// Whether every port of `other` is in this prefix too.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len
            && (other.port ^ self.port).checked_shr(16 - u32::from(self.len)).unwrap_or(0) == 0
    }
}

/// The fewest prefixes that hold exactly the ports `first..=last`, in order; none when `first > last`.
pub fn prefixes(first: u16, last: u16) -> Vec<PortPrefix> {
    let (mut from, end) = (u32::from(first), u32::from(last) + 1);
    let mut found = Vec::new();
    while from < end {
        // The largest aligned block that starts here and does not reach beyond the end.
        let align = if from == 0 { 16 } else { from.trailing_zeros() };
        let bits = align.min((end - from).ilog2());
        // At most 65,535 and 16.
        if let (Ok(port), Ok(len)) = (u16::try_from(from), u8::try_from(16 - bits)) {
            found.push(PortPrefix { len, port });
        }
        from += 1 << bits;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(first: u16, last: u16) -> Vec<String> {
        prefixes(first, last).iter().map(|p| format!("{}/{}", p.port, p.len)).collect()
    }

    #[test]
    fn known_ranges() {
        assert_eq!(text(80, 80), ["80/16"]);
        assert_eq!(text(0, 65535), ["0/0"]);
        assert_eq!(text(1, 6), ["1/16", "2/15", "4/15", "6/16"]);
        assert_eq!(text(1024, 65535), ["1024/6", "2048/5", "4096/4", "8192/3", "16384/2", "32768/1"]);
        assert_eq!(text(1, 65535).len(), 16);
        assert_eq!(text(1, 65534).len(), 30);
        assert!(text(2, 1).is_empty());
    }

    proptest! {
        #[test]
        fn prefixes_hold_exactly_the_range(a: u16, b: u16, probe: u16) {
            let found = prefixes(a, b);
            let host = |port| PortPrefix { len: 16, port };
            for port in [a, b, probe, a.wrapping_sub(1), b.wrapping_add(1)] {
                let holders = found.iter().filter(|prefix| prefix.covers(host(port))).count();
                prop_assert_eq!(holders, usize::from((a..=b).contains(&port)), "{}", port);
            }
            // A range of 16-bit numbers never needs more than 2 * 16 - 2 blocks.
            prop_assert!(found.len() <= 30);
        }
    }
}
