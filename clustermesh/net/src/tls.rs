//! Certificates and TLS: a certificate authority per cluster, leaf certificates named by SPIFFE ids, and TLS 1.3
//! configurations that check them. Anchors and own certificates can be exchanged at run time.
//!
//! A certificate counts only if the authority of the cluster that its name speaks of has signed it, so an authority
//! can vouch for its own cluster only.

mod authority;
mod certificate;
mod config;
mod trust;
mod verify;

pub use authority::{AuthorityError, CertificateAuthority, Issued, LeafKey};
pub use certificate::{CertificateError, CertificateInfo, pin_of};
pub use config::{ConfigError, Credentials, client_config, server_config};
pub use trust::{AnchorError, TrustStore};
pub use verify::{Expected, TrustError};
