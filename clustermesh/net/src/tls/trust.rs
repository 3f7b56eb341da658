//! The anchors: which authorities vouch for which cluster.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tombolo_mesh_core::trust::Pin;
use tombolo_model::ClusterName;

use super::certificate::pin_of;

/// The authorities of each cluster: the own one, and those that membership distributes. Shared by all TLS
/// configurations; a change holds for every handshake after it.
#[derive(Debug)]
pub struct TrustStore {
    provider: Arc<CryptoProvider>,
    anchors: ArcSwap<BTreeMap<ClusterName, Anchors>>,
}

/// The authorities of one cluster, in the forms that rustls wants.
#[derive(Clone, Debug)]
pub(super) struct Anchors {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

/// Why a bundle of certificates cannot serve as anchors.
#[derive(Debug, thiserror::Error)]
#[error("the CA bundle of cluster {cluster} is not valid: {reason}")]
pub struct AnchorError {
    cluster: ClusterName,
    reason: String,
}

impl Default for TrustStore {
    fn default() -> Self {
        Self { provider: super::config::provider(), anchors: ArcSwap::default() }
    }
}

impl TrustStore {
    /// A store without anchors.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets the authorities of a cluster: one or, while a new one takes over, several certificates (PEM). Gives their
    /// pins.
    pub fn set_pem(&self, cluster: &ClusterName, bundle: &str) -> Result<Vec<Pin>, AnchorError> {
        let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|e| error(cluster, &e))?;
        let pins =
            certificates.iter().map(pin_of).collect::<Result<_, _>>().map_err(|e| error(cluster, &e))?;
        self.set(cluster, &certificates)?;
        Ok(pins)
    }

    /// Sets the authorities of a cluster (DER each).
    pub fn set_der(&self, cluster: &ClusterName, bundle: &[Vec<u8>]) -> Result<(), AnchorError> {
        let certificates: Vec<_> = bundle.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        self.set(cluster, &certificates)
    }

    /// Sets the authorities of a cluster.
    pub fn set(&self, cluster: &ClusterName, bundle: &[CertificateDer<'_>]) -> Result<(), AnchorError> {
        let anchors = Anchors::new(bundle, &self.provider).map_err(|reason| error(cluster, &reason))?;
        self.anchors.rcu(|old| {
            let mut new = BTreeMap::clone(old);
            new.insert(cluster.clone(), anchors.clone());
            new
        });
        Ok(())
    }

    /// Forgets a cluster: its certificates count no more.
    pub fn remove(&self, cluster: &ClusterName) {
        self.anchors.rcu(|old| {
            let mut new = BTreeMap::clone(old);
            new.remove(cluster);
            new
        });
    }

    pub(super) fn get(&self, cluster: &ClusterName) -> Option<Anchors> {
        self.anchors.load().get(cluster).cloned()
    }

    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }
}

impl Anchors {
    pub(super) fn new(bundle: &[CertificateDer<'_>], provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        if bundle.is_empty() {
            return Err("it has no certificate".into());
        }
        let mut roots = RootCertStore::empty();
        for certificate in bundle {
            roots.add(certificate.clone().into_owned()).map_err(|e| e.to_string())?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        Ok(Self { roots, clients: clients.build().map_err(|e| e.to_string())? })
    }
}

fn error(cluster: &ClusterName, reason: &impl ToString) -> AnchorError {
    AnchorError { cluster: cluster.clone(), reason: reason.to_string() }
}
