//! Signatures of cluster records: whoever leads the Raft group, what the mesh knows of a cluster is changed by that
//! cluster's own authority only.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ClusterRecord, Refusal};

/// What authorities sign with: those of `rcgen` and of cert-manager. A key of another kind is refused by each.
const ALGORITHMS: [&dyn VerificationAlgorithm; 4] =
    [&ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1, &ED25519, &RSA_PKCS1_2048_8192_SHA256];

impl ClusterRecord {
    /// Whether this may take the place of what is known of the same cluster. A record that was never signed may be
    /// replaced by whatever its owner proposes: not all versions sign.
    pub(super) fn may_replace(&self, known: &Self) -> Result<(), Refusal> {
        if known.signature.is_empty() || self.signed_bytes() == known.signed_bytes() {
            return Ok(());
        }
        if !is_by(&known.ca, &self.signed_bytes(), &self.signature) {
            return Err(Refusal::NotSigned(self.name.clone()));
        }
        if self.revision <= known.revision {
            let (given, known) = (self.revision, known.revision);
            return Err(Refusal::Outdated { cluster: self.name.clone(), given, known });
        }
        Ok(())
    }
}

/// Whether one of these authorities (X.509, DER) has signed the bytes.
pub(super) fn is_by(authorities: &[Vec<u8>], bytes: &[u8], signature: &[u8]) -> bool {
    authorities.iter().any(|der| verify(der, bytes, signature))
}

fn verify(authority: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(authority) else { return false };
    let key = &certificate.public_key().subject_public_key.data;
    ALGORITHMS
        .iter()
        .any(|algorithm| algorithm.verify(key.as_ref().into(), bytes.into(), signature.into()).is_ok())
}
