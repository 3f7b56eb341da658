//! What the Secret of the authority holds, and the steps by which a new authority takes over from the old one.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use tombolo_mesh_net::tls::{self, CertificateAuthority};
use tombolo_model::ClusterName;

use super::{AuthorityError, CERTIFICATE, KEY, SECRET};

/// The certificate in PEM of the authority that comes next.
const NEXT_CERTIFICATE: &str = "next.crt";
/// Its key.
const NEXT_KEY: &str = "next.key";
/// How long the certificate of an authority made here is valid: ten years.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const END: &str = "-----END CERTIFICATE-----";

/// The entries of the Secret, as text in PEM. It holds keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The certificate that signs, and after a change its predecessor.
    bundle: String,
    key: String,
    /// Certificate and key of the authority that comes next.
    next: Option<(String, String)>,
}

/// How far a change of the authority is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// There is one authority.
    Settled,
    /// The next one is made known; nothing is signed by it yet.
    Announced,
    /// The new one signs; the old one is trusted until nobody needs it any more.
    Retiring,
}

impl Material {
    /// A new authority.
    pub fn generate(cluster: &ClusterName) -> Result<Self, tls::AuthorityError> {
        let authority = CertificateAuthority::generate(cluster, SystemTime::now(), LIFETIME)?;
        Ok(Self { bundle: authority.bundle_pem().to_owned(), key: authority.key_pem(), next: None })
    }

    /// An authority from elsewhere.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, tls::AuthorityError> {
        // It must be one that can sign.
        CertificateAuthority::from_pem(certificate, key)?;
        Ok(Self { bundle: first(certificate).to_owned(), key: key.to_owned(), next: None })
    }

    /// Of the Secret.
    pub fn read(secret: &Secret) -> Result<Self, AuthorityError> {
        let entry = |name: &'static str| {
            let pem = text(secret, name).filter(|text| text.starts_with("-----BEGIN"));
            pem.ok_or(AuthorityError::Incomplete(name))
        };
        let next = match (entry(NEXT_CERTIFICATE), entry(NEXT_KEY)) {
            (Ok(certificate), Ok(key)) => Some((certificate, key)),
            _ => None,
        };
        Ok(Self { bundle: entry(CERTIFICATE)?, key: entry(KEY)?, next })
    }

    /// The Secret.
    pub fn write(&self) -> Secret {
        let mut entries = vec![(CERTIFICATE, &self.bundle), (KEY, &self.key)];
        if let Some((certificate, key)) = &self.next {
            entries.extend([(NEXT_CERTIFICATE, certificate), (NEXT_KEY, key)]);
        }
        let data: BTreeMap<_, _> = entries
            .into_iter()
            .map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())))
            .collect();
        let metadata = kube::api::ObjectMeta { name: Some(SECRET.to_owned()), ..Default::default() };
        Secret { metadata, data: Some(data), ..Secret::default() }
    }

    /// What signs now, with all that is to be trusted.
    pub fn authority(&self) -> Result<CertificateAuthority, tls::AuthorityError> {
        let next = self.next.as_ref().map_or("", |(certificate, _)| first(certificate));
        CertificateAuthority::from_pem(&format!("{}\n{next}", self.bundle.trim_end()), &self.key)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        match (&self.next, self.bundle.matches(END).count()) {
            (Some(_), _) => Phase::Announced,
            (None, 0 | 1) => Phase::Settled,
            (None, _) => Phase::Retiring,
        }
    }

    /// Whether it is, or becomes, the authority with this certificate.
    pub fn leads_to(&self, certificate: &str) -> bool {
        let last = self.next.as_ref().map_or(&self.bundle, |(next, _)| next);
        first(last).trim() == first(certificate).trim()
    }

    /// The certificate that signs.
    pub fn certificate(&self) -> &str {
        first(&self.bundle)
    }

    /// The next authority is to be made known.
    pub fn announce(&self, next: &Self) -> Self {
        Self { next: Some((next.bundle.clone(), next.key.clone())), ..self.clone() }
    }

    /// What comes after this phase.
    pub fn advance(&self) -> Self {
        match &self.next {
            Some((certificate, key)) => Self {
                bundle: format!("{}\n{}\n", first(certificate).trim_end(), first(&self.bundle).trim_end()),
                key: key.clone(),
                next: None,
            },
            None => Self { bundle: first(&self.bundle).to_owned(), ..self.clone() },
        }
    }
}

/// An entry of a Secret that is text.
pub fn text(secret: &Secret, name: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok()
}

/// The first certificate of a text in PEM.
fn first(bundle: &str) -> &str {
    let end = bundle.find(END).map_or(bundle.len(), |at| at + END.len());
    bundle[..end].trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material() -> Material {
        Material::generate(&"east".parse().unwrap()).unwrap()
    }

    fn pins(material: &Material) -> Vec<String> {
        let authority = material.authority().unwrap();
        authority.bundle().iter().map(|der| tls::pin_of(der).unwrap().to_string()).collect()
    }

    #[test]
    fn a_new_authority_takes_over_step_by_step() {
        let (old, new) = (material(), material());
        let ([before], [after]) = (&pins(&old)[..], &pins(&new)[..]) else { panic!("one each") };
        assert_eq!(old.phase(), Phase::Settled);
        let announced = old.announce(&new);
        assert_eq!(
            (announced.phase(), pins(&announced)),
            (Phase::Announced, vec![before.clone(), after.clone()])
        );
        assert!(announced.leads_to(&new.bundle) && !announced.leads_to(&old.bundle));
        let retiring = announced.advance();
        assert_eq!(
            (retiring.phase(), pins(&retiring)),
            (Phase::Retiring, vec![after.clone(), before.clone()])
        );
        let settled = retiring.advance();
        assert_eq!((settled.phase(), pins(&settled)), (Phase::Settled, vec![after.clone()]));
        assert!(settled.leads_to(&new.bundle));
    }

    #[test]
    fn each_step_survives_its_secret() {
        let announced = material().announce(&material());
        for material in [announced.advance(), announced.advance().advance(), announced] {
            assert!(Material::read(&material.write()).unwrap() == material);
        }
    }

    #[test]
    fn what_is_missing_or_foreign_is_named() {
        let mut damaged = material().write();
        damaged.data.as_mut().unwrap().remove(KEY);
        let error = Material::read(&damaged).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
        let error = Material::from_pem(&material().bundle, &material().key).err().unwrap().to_string();
        assert!(error.contains("it does not belong to the certificate"), "{error}");
    }
}
