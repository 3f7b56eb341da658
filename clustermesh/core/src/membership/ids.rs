//! The ids of membership.

use std::fmt;

use tombolo_model::ClusterId;

/// The id of a mesh: random, made when its first cluster is installed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MeshId(pub u128);

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id of a one-time token: random, no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which line of agreed history a member follows. A recovery begins a new one, so that members left behind on the
/// old one cannot mix the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lineage(pub u64);

/// The Raft id of a member: its cluster, and how often that cluster has begun anew with empty storage. A member
/// that lost its storage comes back under another id, so it never votes twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

impl MemberId {
    const CLUSTER_BITS: u32 = 12;

    /// The member of `cluster` in its `incarnation` (from 1).
    pub const fn new(cluster: ClusterId, incarnation: u32) -> Self {
        Self((incarnation as u64) << Self::CLUSTER_BITS | cluster.get() as u64)
    }

    /// From the bits of [`MemberId::get`]; none when they name no cluster.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let id = Self(bits);
        (id.cluster_bits() != 0 && bits >> (Self::CLUSTER_BITS + 32) == 0).then_some(id)
    }

    /// All bits: never 0.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The cluster; none is never returned for an id that was made by [`MemberId::new`].
    pub fn cluster(self) -> Option<ClusterId> {
        ClusterId::try_from(self.cluster_bits()).ok()
    }

    /// The incarnation, from 1.
    pub const fn incarnation(self) -> u32 {
        (self.0 >> Self::CLUSTER_BITS) as u32
    }

    const fn cluster_bits(self) -> u16 {
        (self.0 & 0xfff) as u16
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster_bits(), self.incarnation())
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Tells the proposals of a member apart, also across its restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProposalId {
    /// Who proposed.
    pub member: MemberId,
    /// How often it had started.
    pub start: u32,
    /// Counts its proposals since then.
    pub sequence: u64,
}
