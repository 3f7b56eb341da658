//! Whether a certificate is good: path validation by webpki, then the name.

use std::sync::Arc;

use rustls::{
    CertificateError as RustlsCertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_mesh_core::trust::{Pin, SpiffeId};

use super::{
    certificate::{CertificateError, CertificateInfo, pin_of},
    trust::{Anchors, TrustStore},
};

/// Who the other end of a connection must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this one, vouched for by an anchor of its cluster.
    Id(SpiffeId),
    /// The daemon of a cluster that is not known yet, whose authority has this pin.
    Pinned(Pin),
}

/// Why a certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read, or has no proper name.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Nobody is known to vouch for its cluster.
    #[error("the certificate is for {0}, whose cluster is not a member of this mesh")]
    UnknownCluster(SpiffeId),
    /// It names somebody else.
    #[error("the certificate is for {got}, but {expected} was expected")]
    WrongName {
        /// Who was expected.
        expected: String,
        /// Who it is.
        got: SpiffeId,
    },
    /// No authority with the pin signed it.
    #[error("no certificate authority with the pin {0} vouches for the certificate")]
    WrongPin(Pin),
    /// It is out of date, or a clock is wrong.
    #[error(
        "the certificate of {id} expired at {not_after} and the clock here says {now}: renew it, or correct the clock"
    )]
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// Its end.
        not_after: String,
        /// The clock here.
        now: String,
    },
    /// It is from the future, or a clock is wrong.
    #[error(
        "the certificate of {id} is valid from {not_before} and the clock here says {now}: correct the clocks"
    )]
    NotYetValid {
        /// Whose it is.
        id: SpiffeId,
        /// Its beginning.
        not_before: String,
        /// The clock here.
        now: String,
    },
    /// Its authority is not the one of its cluster, or it is damaged, or not for this use.
    #[error("the certificate of {id} is not valid: {reason}")]
    Path {
        /// Whose it claims to be.
        id: SpiffeId,
        /// What webpki says.
        reason: String,
    },
}

/// Checks clients: whoever shows a certificate must show a good one; who shows none has none.
#[derive(Debug)]
pub(super) struct ClientVerifier(pub(super) Arc<TrustStore>);

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let info = CertificateInfo::from_der(end_entity).map_err(|e| refuse(e.into()))?;
        let Some(anchors) = self.0.get(info.id.cluster()) else {
            return Err(refuse(TrustError::UnknownCluster(info.id)));
        };
        check_time(&info, now).map_err(refuse)?;
        anchors
            .clients
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|e| refuse(path(info.id, &e)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Checks servers: they must be whom the client meant to reach. The name in the URL or SNI plays no part.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) trust: Arc<TrustStore>,
    pub(super) expected: Expected,
}

impl ServerVerifier {
    fn anchors(&self, info: &CertificateInfo, chain: &[CertificateDer<'_>]) -> Result<Anchors, TrustError> {
        let wrong_name = |expected: String| TrustError::WrongName { expected, got: info.id.clone() };
        match &self.expected {
            Expected::Id(id) if info.id != *id => Err(wrong_name(id.to_string())),
            Expected::Id(id) => {
                self.trust.get(id.cluster()).ok_or_else(|| TrustError::UnknownCluster(id.clone()))
            }
            Expected::Pinned(_) if !matches!(info.id, SpiffeId::Daemon(_)) => {
                Err(wrong_name("the daemon of a cluster".into()))
            }
            Expected::Pinned(pin) => {
                let authority = chain.iter().find(|c| pin_of(c).as_ref() == Ok(pin));
                let authority = authority.ok_or(TrustError::WrongPin(*pin))?;
                Anchors::new(std::slice::from_ref(authority), self.trust.provider())
                    .map_err(|reason| TrustError::Path { id: info.id.clone(), reason })
            }
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let info = CertificateInfo::from_der(end_entity).map_err(|e| refuse(e.into()))?;
        let anchors = self.anchors(&info, intermediates).map_err(refuse)?;
        check_time(&info, now).map_err(refuse)?;
        let algorithms = self.trust.provider().signature_verification_algorithms.all;
        ParsedCertificate::try_from(end_entity)
            .and_then(|cert| {
                verify_server_cert_signed_by_trust_anchor(
                    &cert,
                    &anchors.roots,
                    intermediates,
                    now,
                    algorithms,
                )
            })
            .map_err(|e| refuse(path(info.id, &e)))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Before path validation, whose message about time is meant for machines.
fn check_time(info: &CertificateInfo, now: UnixTime) -> Result<(), TrustError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let id = info.id.clone();
    if now > info.not_after {
        return Err(TrustError::Expired { id, not_after: shown(info.not_after), now: shown(now) });
    }
    if now < info.not_before {
        return Err(TrustError::NotYetValid { id, not_before: shown(info.not_before), now: shown(now) });
    }
    Ok(())
}

fn shown(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok().and_then(|t| t.format(&Rfc3339).ok());
    time.unwrap_or_else(|| format!("{unix} s after 1970"))
}

fn path(id: SpiffeId, error: &Error) -> TrustError {
    TrustError::Path { id, reason: error.to_string() }
}

fn refuse(error: TrustError) -> Error {
    Error::InvalidCertificate(RustlsCertificateError::Other(OtherError(Arc::new(error))))
}
