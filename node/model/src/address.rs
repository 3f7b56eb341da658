//! Addresses and prefixes of one family: 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291, section 2.5.5.2).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Bits in front of an IPv4 address in its v4-mapped form.
const V4_MAPPED_BITS: u8 = 96;

/// An IPv4 or IPv6 address in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address([u8; 16]);

impl Address {
    /// The 16 bytes as they stand in maps and on the wire.
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// From the 16 bytes of [`Address::octets`].
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The address as the standard library writes it: IPv4 for a v4-mapped one.
    pub fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.0);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }

    /// Whether this is a v4-mapped address.
    pub fn is_ipv4(self) -> bool {
        self.to_ip().is_ipv4()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(v4: Ipv4Addr) -> Self {
        Self(v4.to_ipv6_mapped().octets())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no IP address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IP address")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse::<IpAddr>().map(Self::from).map_err(|_| ParseAddressError(s.to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = ParseAddressError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// An address prefix. The length counts bits of the 16-byte form (0..=128), so `10.0.0.0/8` has 104; the host
/// bits are always zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: Address,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits (0..=128, of the 16-byte form) that holds `address`; longer lengths count as 128.
    pub fn new(address: Address, len: u8) -> Self {
        let len = len.min(128);
        let mask = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) };
        Self { address: Address((u128::from_be_bytes(address.0) & mask).to_be_bytes()), len }
    }

    /// The prefix that holds this address only.
    pub const fn host(address: Address) -> Self {
        Self { address, len: 128 }
    }

    /// The first address.
    pub const fn address(self) -> Address {
        self.address
    }

    /// Bits of the 16-byte form, 0..=128.
    pub const fn bits(self) -> u8 {
        self.len
    }

    /// Bits as people write them: of 32 for IPv4, of 128 for IPv6.
    pub fn family_bits(self) -> u8 {
        if self.is_ipv4() { self.len - V4_MAPPED_BITS } else { self.len }
    }

    /// Whether all addresses of this prefix are v4-mapped.
    pub fn is_ipv4(self) -> bool {
        self.len >= V4_MAPPED_BITS && self.address.is_ipv4()
    }

    /// Whether `address` is inside.
    pub fn contains(self, address: Address) -> bool {
        Self::new(address, self.len).address == self.address
    }

    /// Whether any address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether every address of `other` is inside.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.family_bits())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no prefix in CIDR notation (RFC 4632).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a prefix like 10.1.0.0/16 or fd00::/64")]
pub struct ParsePrefixError(String);

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParsePrefixError(s.to_owned());
        let (ip, len) = s.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().map_err(|_| bad())?;
        match ip {
            IpAddr::V4(_) if len <= 32 => Ok(Self::new(ip.into(), len + V4_MAPPED_BITS)),
            IpAddr::V6(_) if len <= 128 => Ok(Self::new(ip.into(), len)),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = ParsePrefixError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn v4_is_mapped_and_printed_as_v4() {
        let a: Address = "10.1.2.3".parse().unwrap();
        assert_eq!(a.octets()[10..], [0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(a.to_string(), "10.1.2.3");
        assert!("10.1.2".parse::<Address>().is_err());
    }

    #[test]
    fn prefix_length_counts_in_the_family() {
        let p: Prefix = "10.1.2.3/8".parse().unwrap();
        assert_eq!((p.to_string().as_str(), p.bits()), ("10.0.0.0/8", 104));
        for bad in ["10.0.0.0/33", "fd00::/129", "10.0.0.0", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn prefix_round_trips(octets: [u8; 4], len in 0u8..=32) {
            let p: Prefix = format!("{}/{len}", Ipv4Addr::from(octets)).parse().unwrap();
            prop_assert_eq!(p.to_string().parse::<Prefix>().unwrap(), p);
            prop_assert!(p.contains(Ipv4Addr::from(octets).into()));
        }

        /// Two addresses that are equal up to bit `at`, and no further.
        #[test]
        fn prefixes_share_addresses_up_to_the_bit_that_differs(
            a: [u8; 16], at in 0u8..128, la in 0u8..=128, lb in 0u8..=128,
        ) {
            let differing = 1u128 << (127 - at);
            let (a, b) = (Address(a), Address((u128::from_be_bytes(a) ^ differing).to_be_bytes()));
            let (pa, pb) = (Prefix::new(a, la), Prefix::new(b, lb));
            prop_assert_eq!((pa.contains(a), pa.contains(b)), (true, la <= at));
            prop_assert_eq!(pa.covers(pb), la <= lb && la <= at);
            prop_assert_eq!(pa.overlaps(pb), la.min(lb) <= at);
        }
    }
}
