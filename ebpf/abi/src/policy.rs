//! Selector bitmaps and the rules over them: the maps `IDENTITY` (identity → [`Bitmap`]) and `POLICY`.

use bytemuck::{Pod, Zeroable};

use crate::TrieKey;

/// The bit that every peer has, whoever it is and whether or not `IDENTITY` knows it. A rule for everybody sets it.
pub const ANY_PEER: u16 = 0;

/// A set of selectors by number. Value of `IDENTITY`: the selectors that match the labels of an identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Bitmap {
    words: [u64; 16],
}

impl Bitmap {
    /// Selectors there can be, [`ANY_PEER`] among them.
    pub const BITS: u16 = 1024;
    /// No selector.
    pub const EMPTY: Self = Self { words: [0; 16] };
    /// The selector that matches every peer.
    pub const ANY: Self = Self { words: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };

    /// Adds selector `bit`; false and nothing changes when it is not below [`Self::BITS`].
    pub const fn set(&mut self, bit: u16) -> bool {
        if bit >= Self::BITS {
            return false;
        }
        self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        true
    }

    /// Whether selector `bit` is in the set.
    pub const fn contains(&self, bit: u16) -> bool {
        bit < Self::BITS && self.words[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    /// The selectors of both sets.
    #[must_use]
    pub const fn union(&self, other: &Self) -> Self {
        let mut words = self.words;
        let mut i = 0;
        while i < words.len() {
            words[i] |= other.words[i];
            i += 1;
        }
        Self { words }
    }

    /// Whether a selector is in both sets.
    #[inline(always)]
    pub fn intersects(&self, other: &Self) -> bool {
        let mut common = 0;
        for (a, b) in self.words.iter().zip(other.words.iter()) {
            common |= a & b;
        }
        common != 0
    }

    /// Whether there is no selector in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }
}

/// The direction of traffic as the pod sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Into the pod or the node.
    Ingress = 0,
    /// Out of the pod or the node.
    Egress = 1,
}

/// Key of `POLICY`, longest prefix match: endpoint, direction, then protocol and port as far as they matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PolicyKey {
    prefix_len: u32,
    endpoint: [u8; 4],
    direction: u8,
    protocol: u8,
    port: [u8; 2],
}

impl PolicyKey {
    /// Bits of a key that says nothing about protocol and port.
    pub const ANY_PROTOCOL: u32 = 40;
    /// Bits of a key that says nothing about the port.
    pub const ANY_PORT: u32 = 48;
    /// Bits of a key with an exact port.
    pub const EXACT: u32 = 64;

    /// All traffic of the endpoint in one direction.
    pub const fn any(endpoint: u32, direction: Direction) -> Self {
        Self::with_len(Self::ANY_PROTOCOL, endpoint, direction, 0, 0)
    }

    /// All ports of one protocol (IANA number).
    pub const fn protocol(endpoint: u32, direction: Direction, protocol: u8) -> Self {
        Self::with_len(Self::ANY_PORT, endpoint, direction, protocol, 0)
    }

    /// One destination port.
    #[inline(always)]
    pub const fn port(endpoint: u32, direction: Direction, protocol: u8, port: u16) -> Self {
        Self::with_len(Self::EXACT, endpoint, direction, protocol, port)
    }

    /// The destination ports whose first `bits` bits (0..=16, larger counts as 16) are those of `port`; the others
    /// should be zero.
    pub const fn ports(endpoint: u32, direction: Direction, protocol: u8, port: u16, bits: u8) -> Self {
        let bits = if bits > 16 { 16 } else { bits as u32 };
        Self::with_len(Self::ANY_PORT + bits, endpoint, direction, protocol, port)
    }

    #[inline(always)]
    const fn with_len(prefix_len: u32, endpoint: u32, direction: Direction, protocol: u8, port: u16) -> Self {
        Self {
            prefix_len,
            endpoint: endpoint.to_be_bytes(),
            direction: direction as u8,
            protocol,
            port: port.to_be_bytes(),
        }
    }

    /// Length in bits, [`Self::ANY_PROTOCOL`]..=[`Self::EXACT`].
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len
    }

    /// The endpoint's number.
    pub const fn endpoint(&self) -> u32 {
        u32::from_be_bytes(self.endpoint)
    }

    /// The direction; none for a byte that names none.
    pub const fn direction(&self) -> Option<Direction> {
        match self.direction {
            0 => Some(Direction::Ingress),
            1 => Some(Direction::Egress),
            _ => None,
        }
    }

    /// The protocol; meaningless below [`Self::ANY_PORT`] bits.
    pub const fn protocol_number(&self) -> u8 {
        self.protocol
    }

    /// The first destination port that matches.
    pub const fn first_port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The key without its length, as an LPM trie wants it.
    #[inline(always)]
    pub const fn data(&self) -> [u8; 8] {
        let e = self.endpoint;
        [e[0], e[1], e[2], e[3], self.direction, self.protocol, self.port[0], self.port[1]]
    }

    /// From the length and [`Self::data`].
    pub const fn from_data(prefix_len: u32, data: [u8; 8]) -> Self {
        Self {
            prefix_len,
            endpoint: [data[0], data[1], data[2], data[3]],
            direction: data[4],
            protocol: data[5],
            port: [data[6], data[7]],
        }
    }
}

impl TrieKey for PolicyKey {
    type Data = [u8; 8];

    fn split(&self) -> (u32, [u8; 8]) {
        (self.prefix_len, self.data())
    }

    fn join(len: u32, data: [u8; 8]) -> Self {
        Self::from_data(len, data)
    }
}

/// Value of `POLICY`: which selectors are let through and which are refused. It holds the union of the entries with
/// shorter prefixes, because only the longest match counts. A denied selector wins over an allowed one; what is
/// neither is refused; so is everything when the direction is enforced and no entry matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PolicyValue {
    allow: Bitmap,
    deny: Bitmap,
}

impl PolicyValue {
    /// Lets through what is in `allow` and not in `deny`.
    pub const fn new(allow: Bitmap, deny: Bitmap) -> Self {
        Self { allow, deny }
    }

    /// Selectors let through.
    #[inline(always)]
    pub const fn allow(&self) -> &Bitmap {
        &self.allow
    }

    /// Selectors refused.
    #[inline(always)]
    pub const fn deny(&self) -> &Bitmap {
        &self.deny
    }

    /// Whether a peer with these selectors gets through.
    #[inline(always)]
    pub fn allows(&self, peer: &Bitmap) -> bool {
        !self.deny.intersects(peer) && self.allow.intersects(peer)
    }
}

record!(Bitmap { words });
record!(PolicyKey { prefix_len, endpoint, direction, protocol, port });
record!(PolicyValue { allow, deny });

const _: () = assert!(size_of::<Bitmap>() == 128);
const _: () = assert!(size_of::<PolicyKey>() == 12);
const _: () = assert!(size_of::<PolicyValue>() == 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_and_nothing_is_refused_by_default() {
        let mut web = Bitmap::ANY;
        assert!(web.set(77));
        let mut seventy_seven = Bitmap::EMPTY;
        seventy_seven.set(77);
        assert!(!PolicyValue::default().allows(&web));
        assert!(PolicyValue::new(seventy_seven, Bitmap::EMPTY).allows(&web));
        assert!(PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY).allows(&web));
        assert!(!PolicyValue::new(Bitmap::ANY, seventy_seven).allows(&web));
        assert!(!PolicyValue::new(seventy_seven, Bitmap::EMPTY).allows(&Bitmap::ANY));
    }

    #[test]
    fn bits_out_of_range_change_nothing() {
        let mut bits = Bitmap::EMPTY;
        assert!(!bits.set(Bitmap::BITS) && bits.is_empty() && !bits.contains(5000));
        assert!(bits.set(Bitmap::BITS - 1) && bits.contains(Bitmap::BITS - 1));
    }

    #[test]
    fn keys_order_their_bytes_for_prefix_match() {
        let key = PolicyKey::port(0x0102_0304, Direction::Egress, 6, 0x1f90);
        assert_eq!(key.data(), [1, 2, 3, 4, 1, 6, 0x1f, 0x90]);
        assert_eq!(PolicyKey::from_data(key.prefix_len(), key.data()), key);
        assert_eq!(PolicyKey::ports(1, Direction::Ingress, 17, 0x8000, 1).prefix_len(), 49);
    }
}
