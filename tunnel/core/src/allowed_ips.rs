//! Cryptokey routing table: longest prefix to peer, one owner per prefix.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use thiserror::Error;

/// An address prefix with its host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    network: IpNetwork,
}

/// The text is not `address/length` with a length that fits the family.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a prefix is written address/length, at most /32 for IPv4 and /128 for IPv6")]
pub struct PrefixError;

impl Prefix {
    /// Clears the host bits of `address`; refuses a length longer than the address.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        IpNetwork::new_truncate(address, length).map(|network| Self { network }).map_err(|_| PrefixError)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError)?;
        Self::new(address.parse().map_err(|_| PrefixError)?, length.parse().map_err(|_| PrefixError)?)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)
    }
}

/// Prefix to peer slot. Inserting a prefix takes it away from its former owner, as WireGuard does.
#[derive(Default)]
pub(crate) struct AllowedIps {
    table: IpNetworkTable<u32>,
}

impl AllowedIps {
    /// Gives `prefix` to `slot` and returns the former owner.
    pub(crate) fn insert(&mut self, prefix: Prefix, slot: u32) -> Option<u32> {
        self.table.insert(prefix.network, slot)
    }

    pub(crate) fn remove(&mut self, prefix: Prefix) {
        self.table.remove(prefix.network);
    }

    pub(crate) fn lookup(&self, address: IpAddr) -> Option<u32> {
        self.table.longest_match(address).map(|(_, slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn longest_prefix_wins_and_host_bits_are_cleared() {
        let mut table = AllowedIps::default();
        table.insert("10.0.0.0/8".parse().unwrap(), 1);
        table.insert("10.1.2.3/16".parse().unwrap(), 2);
        assert_eq!(table.lookup("10.1.255.1".parse().unwrap()), Some(2));
        assert_eq!(table.lookup("10.2.0.1".parse().unwrap()), Some(1));
        assert_eq!(table.lookup("11.0.0.1".parse().unwrap()), None);
        assert_eq!(table.insert("10.1.0.0/16".parse().unwrap(), 3), Some(2));
        table.insert("fd00::/16".parse().unwrap(), 4);
        table.insert("fd00:0:0:1::9/64".parse().unwrap(), 5);
        assert_eq!(table.lookup("fd00:0:0:1:ffff::1".parse().unwrap()), Some(5));
        assert_eq!(table.lookup("fd00::1".parse().unwrap()), Some(4));
        assert_eq!(table.lookup("fd01::1".parse().unwrap()), None);
        // The bytes of 10.2.0.1 at the beginning of an IPv6 address.
        assert_eq!(table.lookup("a02:1::".parse().unwrap()), None);
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError));
        assert_eq!("10.0.0.0".parse::<Prefix>(), Err(PrefixError));
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_scan(
            entries in prop::collection::vec((any::<u32>(), 0u8..=32, 0u32..8), 0..40),
            probe in any::<u32>(),
        ) {
            let mut table = AllowedIps::default();
            let mut scan = std::collections::BTreeMap::new();
            for (address, length, slot) in entries {
                table.insert(Prefix::new(IpAddr::V4(address.into()), length).unwrap(), slot);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                scan.insert((length, address & mask), slot);
            }
            let want = (0u8..=32).rev().find_map(|length| {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                scan.get(&(length, probe & mask)).copied()
            });
            prop_assert_eq!(table.lookup(IpAddr::V4(probe.into())), want);
        }
    }
}
