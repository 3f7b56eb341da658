//! Cluster names and numeric ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The number of a cluster in its mesh, 1..=4095: the upper 12 bits of each identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ClusterId(u16);

impl ClusterId {
    /// The largest id.
    pub const MAX: u16 = 4095;

    /// The number, 1..=4095.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A number that is no cluster id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cluster id {0} is out of range: choose one from 1 to {max}", max = ClusterId::MAX)]
pub struct ClusterIdError(u16);

impl TryFrom<u16> for ClusterId {
    type Error = ClusterIdError;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        if (1..=Self::MAX).contains(&id) { Ok(Self(id)) } else { Err(ClusterIdError(id)) }
    }
}

impl From<ClusterId> for u16 {
    fn from(id: ClusterId) -> Self {
        id.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a cluster: a DNS label (RFC 1123) of at most 32 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The most characters a name has.
    pub const MAX_LEN: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no cluster name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "cluster name {0:?} is not valid: use 1 to {max} lower-case letters, digits and '-', beginning and ending \
     with a letter or digit",
    max = ClusterName::MAX_LEN
)]
pub struct ClusterNameError(String);

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = s.as_bytes();
        let valid = bytes.len() <= Self::MAX_LEN
            && bytes.first().copied().is_some_and(alnum)
            && bytes.last().copied().is_some_and(alnum)
            && bytes.iter().all(|&b| alnum(b) || b == b'-');
        if valid { Ok(Self(s.to_owned())) } else { Err(ClusterNameError(s.to_owned())) }
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_12_bits_and_not_zero() {
        assert!(ClusterId::try_from(1).is_ok() && ClusterId::try_from(4095).is_ok());
        assert_eq!(ClusterId::try_from(0), Err(ClusterIdError(0)));
        assert_eq!(ClusterId::try_from(4096), Err(ClusterIdError(4096)));
    }

    #[test]
    fn names_are_short_dns_labels() {
        for good in ["east", "eu-1", "a", "0", &"a".repeat(32)] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "East", "a.b", "a_b", "ä", &"a".repeat(33)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }
}
