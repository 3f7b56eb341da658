//! The certificate authority of a cluster.

use std::time::{Duration, SystemTime};

use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SigningKey as _,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject};
use tombolo_mesh_core::trust::{Pin, SpiffeId};
use tombolo_model::ClusterName;

use super::{
    certificate::{CertificateError, pin_of},
    config::{ConfigError, Credentials},
};

/// Certificates are valid from a little before they are made, for clocks that go slow.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Key or certificate cannot be read.
    #[error("the certificate authority's {what} is not valid: {reason}")]
    Material {
        /// Key or certificate.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The signing request is malformed or not signed by its key.
    #[error("the signing request is not valid: {0}")]
    Request(rcgen::Error),
    /// Making the certificate failed.
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The certificate made or read is not as expected.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate made cannot be shown.
    #[error(transparent)]
    Credentials(#[from] ConfigError),
}

/// A private key whose certificate is still to be issued.
#[derive(Debug)]
pub struct LeafKey(KeyPair);

impl LeafKey {
    /// A new key (ECDSA, P-256).
    pub fn generate() -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// A signing request for the key (PKCS #10, DER). It names nobody: names come from who authenticates.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The private key for TLS.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

/// An issued certificate with the authority's own after it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A certificate authority: its certificate and private key.
pub struct CertificateAuthority {
    /// The first one signs.
    bundle: Vec<CertificateDer<'static>>,
    bundle_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for CertificateAuthority {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("bundle", &self.bundle_pem).finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new one for a cluster.
    pub fn generate(
        cluster: &ClusterName,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(now, lifetime);
        params.distinguished_name.push(DnType::CommonName, format!("tombolo cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// From what [`Self::bundle_pem`] and [`Self::key_pem`] gave, or from another tool. Of several certificates the first
    /// is the one that signs; the others are to be trusted too, while one authority takes over from another.
    pub fn from_pem(bundle: &str, key: &str) -> Result<Self, AuthorityError> {
        let bad = |what, reason: String| AuthorityError::Material { what, reason };
        let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|e| bad("certificate", e.to_string()))?;
        let der = certificates.first().ok_or_else(|| bad("certificate", "there is none".to_owned()))?;
        let key = KeyPair::from_pem(key).map_err(|e| bad("key", e.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|e| bad("certificate", e.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(bad("key", "it does not belong to the certificate".into()));
        }
        if !parsed.is_ca() {
            return Err(bad("certificate", "it is not one of a certificate authority".into()));
        }
        let issuer = Issuer::from_ca_cert_der(der, key)?;
        Ok(Self { bundle: certificates, bundle_pem: bundle.to_owned(), issuer })
    }

    /// The certificates to trust (PEM), for everybody; the first one signs.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// The certificates to trust; the first one signs.
    pub fn bundle(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// The certificate that signs.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // There is one: see `from_pem`.
        &self.bundle[0]
    }

    /// The private key (PKCS #8, PEM), for nobody but its owner's Secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The pin of its public key.
    pub fn pin(&self) -> Result<Pin, AuthorityError> {
        Ok(pin_of(self.certificate())?)
    }

    /// A signature of what the cluster says about itself, for [`ClusterRecord`].
    ///
    /// [`ClusterRecord`]: tombolo_mesh_core::membership::ClusterRecord
    pub fn sign_record(&self, bytes: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        Ok(self.issuer.key().sign(bytes)?)
    }

    /// A certificate for a key made here.
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &LeafKey,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        self.sign(id, &key.0, now, lifetime)
    }

    /// A certificate for the key of a signing request, which must be signed by that key. Whatever else the request
    /// asks for is ignored: the name is `id`, as the caller has authenticated it.
    pub fn issue_for_request(
        &self,
        id: &SpiffeId,
        request_der: &[u8],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
                .map_err(AuthorityError::Request)?;
        self.sign(id, &request.public_key, now, lifetime)
    }

    /// Has `credentials` show a certificate with this name, for a key made now, from now on.
    pub fn introduce(
        &self,
        credentials: &Credentials,
        id: &SpiffeId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(), AuthorityError> {
        let key = LeafKey::generate()?;
        Ok(credentials.set(&self.issue(id, &key, now, lifetime)?, &key.private_key())?)
    }

    fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let mut params = params(now, lifetime);
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match id {
            SpiffeId::Daemon(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            SpiffeId::Node(..) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(Issued { chain: vec![leaf.der().clone(), self.certificate().clone()] })
    }
}

fn params(now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(rand::rng().random::<[u8; 16]>().to_vec()));
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
    params.use_authority_key_identifier_extension = true;
    params
}
