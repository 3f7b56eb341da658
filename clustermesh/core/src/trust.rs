//! Who is who: the names in certificates, the pins of certificate authorities, and what each name may do.

use std::{fmt, str::FromStr};

use tombolo_model::{ClusterName, ClusterNameError};

/// The name in a certificate: a SPIFFE id whose trust domain is the cluster
/// (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpiffeId {
    /// `spiffe://<cluster>/daemon`: the mesh daemon of a cluster.
    Daemon(ClusterName),
    /// `spiffe://<cluster>/node/<node>`: the agent of a node.
    Node(ClusterName, NodeName),
}

impl SpiffeId {
    /// The cluster whose certificate authority vouches for the name.
    pub const fn cluster(&self) -> &ClusterName {
        match self {
            Self::Daemon(cluster) | Self::Node(cluster, _) => cluster,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(cluster) => write!(f, "spiffe://{cluster}/daemon"),
            Self::Node(cluster, node) => write!(f, "spiffe://{cluster}/node/{node}"),
        }
    }
}

/// A text that is no name of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Neither of the two forms.
    #[error("{0:?} is not of the form spiffe://<cluster>/daemon or spiffe://<cluster>/node/<node>")]
    Form(String),
    /// The cluster's name is not valid.
    #[error("{0}")]
    Cluster(String),
    /// The node's name is not valid.
    #[error(transparent)]
    Node(#[from] NodeNameError),
}

impl From<ClusterNameError> for SpiffeIdError {
    fn from(error: ClusterNameError) -> Self {
        Self::Cluster(error.to_string())
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let form = || SpiffeIdError::Form(s.to_owned());
        let (cluster, path) = s.strip_prefix("spiffe://").and_then(|r| r.split_once('/')).ok_or_else(form)?;
        let cluster = cluster.parse::<ClusterName>()?;
        match path.split_once('/') {
            None if path == "daemon" => Ok(Self::Daemon(cluster)),
            Some(("node", node)) => Ok(Self::Node(cluster, node.parse()?)),
            _ => Err(form()),
        }
    }
}

/// The name of a Kubernetes node: a DNS subdomain (RFC 1123) of at most 253 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no node name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node name {0:?} is not valid: use lower-case letters, digits, '-' and '.', at most 253")]
pub struct NodeNameError(String);

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let label = |l: &str| {
            let b = l.as_bytes();
            b.first().copied().is_some_and(alnum)
                && b.last().copied().is_some_and(alnum)
                && b.iter().all(|&b| alnum(b) || b == b'-')
        };
        if s.len() <= 253 && s.split('.').all(label) {
            Ok(Self(s.to_owned()))
        } else {
            Err(NodeNameError(s.to_owned()))
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of a certificate authority; written as `sha256:<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pin: write sha256: and 64 hexadecimal digits")]
pub struct PinError(String);

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || PinError(s.to_owned());
        let hex = s.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.is_ascii()).ok_or_else(bad)?;
        let mut pin = [0; 32];
        for (byte, digits) in pin.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            let valid = digits.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(digits, 16).ok().filter(|_| valid).ok_or_else(bad)?;
        }
        Ok(Self(pin))
    }
}

/// What a connection is for, chosen by its ALPN protocol (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Service {
    /// A node's stream of records from its daemon.
    Node,
    /// Replication between the daemons of two clusters.
    Peer,
    /// A node gets its certificate.
    Enroll,
    /// A cluster joins the mesh.
    Join,
    /// A replica that does not lead learns what the leading one of its cluster knows.
    Replica,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Node, Self::Peer, Self::Enroll, Self::Join, Self::Replica];

    /// The ALPN protocol.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Node => b"tombolo-node/1",
            Self::Peer => b"tombolo-peer/1",
            Self::Enroll => b"tombolo-enroll/1",
            Self::Join => b"tombolo-join/1",
            Self::Replica => b"tombolo-replica/1",
        }
    }

    /// The service of an ALPN protocol.
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.alpn() == alpn)
    }
}

/// Why a client may not use a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The service asks for a certificate.
    #[error("{0:?} sessions need a client certificate")]
    NoCertificate(Service),
    /// The certificate's name has no right to the service.
    #[error("{id} may not open {service:?} sessions with cluster {cluster}")]
    WrongName {
        /// The name.
        id: SpiffeId,
        /// The service it asked for.
        service: Service,
        /// The cluster it asked.
        cluster: ClusterName,
    },
}

/// Whether a client with this (verified) name may use a service of cluster `own`. Nodes and waiting replicas talk to the
/// daemon of their own cluster, daemons to those of other clusters; who has no certificate can ask for one or join, with
/// a token.
pub fn authorize(own: &ClusterName, service: Service, client: Option<&SpiffeId>) -> Result<(), Denied> {
    let permitted = match (service, client) {
        (Service::Enroll | Service::Join, _) => true,
        (Service::Node | Service::Peer | Service::Replica, None) => {
            return Err(Denied::NoCertificate(service));
        }
        (Service::Node, Some(SpiffeId::Node(cluster, _))) => cluster == own,
        (Service::Peer, Some(SpiffeId::Daemon(cluster))) => cluster != own,
        (Service::Replica, Some(SpiffeId::Daemon(cluster))) => cluster == own,
        (Service::Node, Some(SpiffeId::Daemon(_)))
        | (Service::Peer | Service::Replica, Some(SpiffeId::Node(..))) => false,
    };
    match client {
        Some(id) if !permitted => Err(Denied::WrongName { id: id.clone(), service, cluster: own.clone() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for good in ["spiffe://east/daemon", "spiffe://east/node/worker-1.example"] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        for bad in [
            "spiffe://east",
            "spiffe://east/",
            "spiffe://east/node/",
            "spiffe://east/node/A",
            "spiffe:///daemon",
            "spiffe://east/daemon/",
            "spiffe://east/daemon/x",
            "spiffe://East/daemon",
            "https://east/daemon",
            "spiffe://east/node/a/b",
            "spiffe://east/node/a..b",
            "",
            "spiffe://east/daemon?x",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_round_trip() {
        let pin = Pin(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for bad in ["", "sha256:", "sha256:00", &format!("sha256:{}", "+1".repeat(32)), &"0".repeat(64)] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_name_has_its_service() {
        let east: ClusterName = "east".parse().unwrap();
        let id = |s: &str| s.parse::<SpiffeId>().unwrap();
        let cases = [
            (Service::Node, Some("spiffe://east/node/a"), true),
            (Service::Node, Some("spiffe://west/node/a"), false),
            (Service::Node, Some("spiffe://east/daemon"), false),
            (Service::Node, None, false),
            (Service::Peer, Some("spiffe://west/daemon"), true),
            (Service::Peer, Some("spiffe://east/daemon"), false),
            (Service::Peer, Some("spiffe://west/node/a"), false),
            (Service::Peer, None, false),
            (Service::Replica, Some("spiffe://east/daemon"), true),
            (Service::Replica, Some("spiffe://west/daemon"), false),
            (Service::Replica, Some("spiffe://east/node/a"), false),
            (Service::Replica, None, false),
            (Service::Enroll, None, true),
            (Service::Join, None, true),
        ];
        for (service, client, expected) in cases {
            let client = client.map(id);
            assert_eq!(
                authorize(&east, service, client.as_ref()).is_ok(),
                expected,
                "{service:?} {client:?}"
            );
        }
    }
}
