//! Security identities and the labels they stand for.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::ClusterId;

/// A security identity: the cluster in the upper 12 bits, the number within it in the lower 20.
///
/// Cluster 0 holds what has no labels ([`Identity::HOST`] and its like), the same in every cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity(u32);

impl Identity {
    /// No identity is known for the address.
    pub const UNKNOWN: Self = Self(0);
    /// The node itself: its own addresses, as seen on this node.
    pub const HOST: Self = Self(1);
    /// Everything outside of the mesh.
    pub const WORLD: Self = Self(2);
    /// Any other node of the mesh.
    pub const REMOTE_NODE: Self = Self(3);
    /// A pod whose labels are not known yet.
    pub const INIT: Self = Self(4);

    /// The first number that a cluster gives to a set of labels.
    pub const FIRST_LOCAL: u32 = 256;
    /// The last number that a cluster gives to a set of labels: 20 bits.
    pub const MAX_LOCAL: u32 = (1 << 20) - 1;

    /// The identity that `cluster` numbers `local` (`FIRST_LOCAL..=MAX_LOCAL`), none if out of range.
    pub fn new(cluster: ClusterId, local: u32) -> Option<Self> {
        (Self::FIRST_LOCAL..=Self::MAX_LOCAL)
            .contains(&local)
            .then(|| Self(u32::from(cluster.get()) << 20 | local))
    }

    /// From the 32 bits of [`Identity::get`].
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// All 32 bits, as they stand in maps and on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The cluster that owns it; none for the reserved ones.
    pub fn cluster(self) -> Option<ClusterId> {
        // 12 bits always fit.
        u16::try_from(self.0 >> 20).ok().and_then(|id| ClusterId::try_from(id).ok())
    }

    /// The number within its cluster: 20 bits.
    pub const fn local(self) -> u32 {
        self.0 & Self::MAX_LOCAL
    }

    /// The name of a reserved identity.
    pub const fn reserved_name(self) -> Option<&'static str> {
        match self {
            Self::UNKNOWN => Some("unknown"),
            Self::HOST => Some("host"),
            Self::WORLD => Some("world"),
            Self::REMOTE_NODE => Some("remote-node"),
            Self::INIT => Some("init"),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 20, self.local()),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The labels that make up an identity, in one flat map: pod labels as `pod:<key>`, labels of the namespace as
/// `ns:<key>`, and [`label::NAMESPACE`], [`label::CLUSTER`], [`label::SERVICE_ACCOUNT`]. The prefixes keep a pod
/// label from posing as one of the others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<String, String>);

/// Keys of [`Labels`].
pub mod label {
    /// The name of the pod's namespace.
    pub const NAMESPACE: &str = "io:namespace";
    /// The name of the pod's cluster.
    pub const CLUSTER: &str = "io:cluster";
    /// The pod's service account.
    pub const SERVICE_ACCOUNT: &str = "io:serviceaccount";

    /// The key of a pod's own label.
    pub fn pod(key: &str) -> String {
        format!("pod:{key}")
    }

    /// The key of a label of the pod's namespace.
    pub fn namespace(key: &str) -> String {
        format!("ns:{key}")
    }
}

impl Labels {
    /// The value of a key of [`label`].
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept() {
        let cluster = ClusterId::try_from(4095).unwrap();
        let id = Identity::new(cluster, Identity::MAX_LOCAL).unwrap();
        assert_eq!((id.cluster(), id.local()), (Some(cluster), Identity::MAX_LOCAL));
        assert_eq!(id.get(), u32::MAX);
        assert_eq!(id.to_string(), "4095:1048575");
        assert_eq!(Identity::WORLD.cluster(), None);
    }

    #[test]
    fn numbers_outside_of_the_range_are_refused() {
        let cluster = ClusterId::try_from(1).unwrap();
        assert_eq!(Identity::new(cluster, 255), None);
        assert_eq!(Identity::new(cluster, 1 << 20), None);
    }
}
