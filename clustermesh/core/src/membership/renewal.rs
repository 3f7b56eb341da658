//! Coming back after the loss of storage: a cluster says itself, by its authority, that its member begins anew.

use tombolo_model::ClusterId;

use super::{ClusterRecord, MeshId, Refusal, signature};

/// The word of a cluster that its member has lost its storage and comes back under the next incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// Its mesh.
    pub mesh: MeshId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its next incarnation: one above the one that the mesh knows.
    pub incarnation: u32,
    /// Over [`Renewal::signed_bytes`], by one of the cluster's authorities.
    pub signature: Vec<u8>,
}

impl Renewal {
    /// What the cluster signs. It is good for one incarnation in one mesh, so repeating it changes nothing.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"tombolo member renewal\0".to_vec();
        bytes.extend(self.mesh.0.to_be_bytes());
        bytes.extend(self.cluster.get().to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes
    }

    /// Whether the cluster with this record has said so. A record that was never signed has an owner who cannot sign:
    /// not all versions do.
    pub(super) fn check(&self, known: &ClusterRecord) -> Result<(), Refusal> {
        let expected = known.incarnation.saturating_add(1);
        if self.incarnation != expected {
            return Err(Refusal::WrongIncarnation { cluster: known.id, given: self.incarnation, expected });
        }
        if known.signature.is_empty() || signature::is_by(&known.ca, &self.signed_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(Refusal::NotSigned(known.name.clone()))
        }
    }
}
