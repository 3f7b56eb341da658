//! What a receiver admits. A cluster may speak about itself only.

use tombolo_model::{
    Address, ClusterId, ClusterName, EndpointRecord, Identity, IdentityRecord, Kind, NodeRecord, Prefix,
    Record, RecordKey, ServiceRecord, label,
};

/// Whose records a receiver takes.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Everything: a node from the daemon of its own cluster.
    All,
    /// What another cluster may say.
    Peer(Containment),
}

/// What membership says about another cluster, and so all that it can speak about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containment {
    /// Its id.
    pub cluster: ClusterId,
    /// Its name.
    pub name: ClusterName,
    /// Where its nodes' addresses are.
    pub node_prefixes: Vec<Prefix>,
    /// Where its pods' addresses are.
    pub pod_prefixes: Vec<Prefix>,
}

/// Why a record is not admitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// It is about another cluster, or of a kind that never leaves its cluster.
    ForeignCluster,
    /// It names an identity of another cluster, or a reserved one.
    ForeignIdentity,
    /// Labels that do not name the cluster as their own.
    ForeignLabels,
    /// An address outside of the cluster's prefixes.
    ForeignAddress,
    /// A service that is not global and shared.
    NotShared,
    /// It could not be decoded.
    Invalid,
    /// The receiver already holds as many records as it may.
    Limit,
}

impl Refusal {
    /// The name for metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForeignCluster => "foreign-cluster",
            Self::ForeignIdentity => "foreign-identity",
            Self::ForeignLabels => "foreign-labels",
            Self::ForeignAddress => "foreign-address",
            Self::NotShared => "not-shared",
            Self::Invalid => "invalid",
            Self::Limit => "limit",
        }
    }
}

impl Admission {
    /// Whether anything may be said about this key.
    pub fn key(&self, key: &RecordKey) -> Result<(), Refusal> {
        self.about(key.cluster(), key.kind())
    }

    fn about(&self, cluster: Option<ClusterId>, kind: Kind) -> Result<(), Refusal> {
        match self {
            Self::All => Ok(()),
            Self::Peer(peer) if cluster == Some(peer.cluster) => Ok(()),
            Self::Peer(_) if kind == Kind::Identity => Err(Refusal::ForeignIdentity),
            Self::Peer(_) => Err(Refusal::ForeignCluster),
        }
    }

    /// Whether this record may be taken.
    pub fn record(&self, record: &Record) -> Result<(), Refusal> {
        self.about(record.cluster(), record.kind())?;
        let Self::Peer(peer) = self else { return Ok(()) };
        match record {
            Record::Identity(r) => peer.identity(r),
            Record::Node(r) => peer.node(r),
            Record::Endpoint(r) => peer.endpoint(r),
            Record::Service(r) => peer.service(r),
            Record::Policy(_) => Err(Refusal::ForeignCluster),
        }
    }
}

impl Containment {
    /// Without the right cluster label, a remote pod could pass for a local one in selectors.
    fn identity(&self, r: &IdentityRecord) -> Result<(), Refusal> {
        check(r.labels.get(label::CLUSTER) == Some(self.name.as_str()), Refusal::ForeignLabels)
    }

    fn node(&self, r: &NodeRecord) -> Result<(), Refusal> {
        let pods = r.pod_prefixes.iter().all(|p| self.pod_prefixes.iter().any(|own| own.covers(*p)));
        let nodes = r.addresses.iter().all(|a| within(&self.node_prefixes, *a));
        check(pods && nodes, Refusal::ForeignAddress)
    }

    fn endpoint(&self, r: &EndpointRecord) -> Result<(), Refusal> {
        check(self.owns(r.identity), Refusal::ForeignIdentity)?;
        check(r.addresses.iter().all(|a| within(&self.pod_prefixes, *a)), Refusal::ForeignAddress)
    }

    /// Backends are pods, or pods that use the network of their node.
    fn service(&self, r: &ServiceRecord) -> Result<(), Refusal> {
        check(r.global && r.shared, Refusal::NotShared)?;
        let backends = || r.ports.iter().flat_map(|p| &p.backends);
        check(backends().all(|b| b.cluster == self.cluster), Refusal::ForeignCluster)?;
        let inside = |a| within(&self.pod_prefixes, a) || within(&self.node_prefixes, a);
        check(backends().all(|b| inside(b.address)), Refusal::ForeignAddress)
    }

    fn owns(&self, identity: Identity) -> bool {
        identity.cluster() == Some(self.cluster)
    }
}

fn within(prefixes: &[Prefix], address: Address) -> bool {
    prefixes.iter().any(|p| p.contains(address))
}

fn check(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}
