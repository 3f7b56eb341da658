//! The TLS configurations of endpoints.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::PrivateKeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use tombolo_mesh_core::trust::Service;

use super::{
    authority::Issued,
    trust::TrustStore,
    verify::{ClientVerifier, Expected, ServerVerifier},
};

/// The certificate that this process shows, exchangeable at run time: handshakes after a change use the new one.
#[derive(Debug, Default)]
pub struct Credentials(ArcSwapOption<CertifiedKey>);

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Certificate and key do not fit, or TLS refuses them.
    #[error("cannot use the certificate and key: {0}")]
    Tls(#[from] rustls::Error),
    /// The provider of cryptography lacks what QUIC needs.
    #[error("cannot set up QUIC: {0}")]
    Quic(#[from] NoInitialCipherSuite),
}

impl Credentials {
    /// Without a certificate: servers refuse all handshakes, clients stay anonymous.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Shows this certificate from now on.
    pub fn set(&self, issued: &Issued, key: &PrivateKeyDer<'static>) -> Result<(), ConfigError> {
        let key = provider().key_provider.load_private_key(key.clone_key())?;
        let certified = CertifiedKey::new(issued.chain.clone(), key);
        certified.keys_match()?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// For an endpoint that serves every [`Service`].
pub fn server_config(
    credentials: Arc<Credentials>,
    trust: Arc<TrustStore>,
) -> Result<QuicServerConfig, ConfigError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier(trust)))
        .with_cert_resolver(credentials);
    config.alpn_protocols = Service::ALL.map(|s| s.alpn().to_vec()).to_vec();
    // A replayed first flight must not change anything, and a resumed session would skip the check of anchors.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config.try_into()?)
}

/// For a connection to `expected`, for one service.
pub fn client_config(
    credentials: Arc<Credentials>,
    trust: Arc<TrustStore>,
    expected: Expected,
    service: Service,
) -> Result<QuicClientConfig, ConfigError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { trust, expected }))
        .with_client_cert_resolver(credentials);
    config.alpn_protocols = vec![service.alpn().to_vec()];
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config.try_into()?)
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
