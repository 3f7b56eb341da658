//! What a certificate says.

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use tombolo_mesh_core::trust::{Pin, SpiffeId, SpiffeIdError};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// What this project reads from a leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whose it is.
    pub id: SpiffeId,
    /// Not valid before: seconds since 1970 (UTC).
    pub not_before: i64,
    /// Not valid after: seconds since 1970 (UTC).
    pub not_after: i64,
}

/// Why a certificate has no usable name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are no certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// A SPIFFE certificate has exactly one URI among its names (X509-SVID, section 2).
    #[error("the certificate has {0} URI names where exactly one is required")]
    Names(usize),
    /// The URI is no name of this mesh.
    #[error("the certificate's name is not valid: {0}")]
    Name(#[from] SpiffeIdError),
}

impl CertificateInfo {
    /// Reads a leaf certificate. Nothing is verified.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        let uris: Vec<&str> = cert
            .extensions()
            .iter()
            .filter_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else { return Err(CertificateError::Names(uris.len())) };
        let validity = cert.validity();
        Ok(Self {
            id: uri.parse()?,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// The pin of a certificate authority's certificate.
pub fn pin_of(der: &CertificateDer<'_>) -> Result<Pin, CertificateError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    let mut pin = [0; 32];
    pin.copy_from_slice(digest(&SHA256, cert.public_key().raw).as_ref());
    Ok(Pin(pin))
}
