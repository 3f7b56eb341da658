//! The certificates of a cluster: one authority, one for the aggregation layer, and what they sign.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::layout::{read, write};
use crate::{Error, Result};

/// An authority and the directory that its certificates are written to.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    name: String,
}

/// The files of a key pair.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Private key, PKCS #8 PEM, readable by root only.
    pub key: PathBuf,
}

impl Identity {
    /// The files of this name in a directory.
    pub fn at(directory: &Path, name: &str) -> Self {
        Self {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        }
    }
}

impl Authority {
    /// Makes an authority and writes `<name>.crt` and `<name>.key`. Its certificates do not expire while
    /// a playground can live.
    pub fn create(directory: &Path, name: &str) -> Result<Self> {
        let fail = |cause| Error::Certificate { subject: name.to_owned(), cause };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.self_signed(&key).map_err(fail)?;
        save(directory, name, &certificate.pem(), &key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            directory: directory.to_path_buf(),
            name: name.to_owned(),
        })
    }

    /// The authority that [`Self::create`] has made here.
    pub fn load(directory: &Path, name: &str) -> Result<Self> {
        let fail = |cause| Error::Certificate { subject: name.to_owned(), cause };
        let file = |extension: &str| read(&directory.join(format!("{name}.{extension}")));
        let key = KeyPair::from_pem(&file("key")?).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_pem(&file("crt")?, key).map_err(fail)?;
        Ok(Self { issuer, directory: directory.to_path_buf(), name: name.to_owned() })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{}.crt", self.name))
    }

    /// The authority's key.
    pub fn key(&self) -> PathBuf {
        self.directory.join(format!("{}.key", self.name))
    }

    /// A certificate that servers show: `names` are DNS names and addresses.
    pub fn server(&self, file: &str, subject: &str, names: &[String]) -> Result<Identity> {
        self.issue(file, subject, None, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate that clients show: the API server takes the subject for the user and `group` for
    /// the user's group.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        self.issue(file, user, group, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        file: &str,
        subject: &str,
        group: Option<&str>,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity> {
        let fail = |cause| Error::Certificate { subject: subject.to_owned(), cause };
        let mut params = CertificateParams::new(names).map_err(fail)?;
        params.distinguished_name.push(DnType::CommonName, subject);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        save(&self.directory, file, &certificate.pem(), &key)
    }
}

/// Makes the key pair that signs service account tokens; the certificate file is the bare public key.
pub fn token_key(directory: &Path) -> Result<Identity> {
    let key = KeyPair::generate()
        .map_err(|cause| Error::Certificate { subject: "service account tokens".into(), cause })?;
    save(directory, "service-account", &key.public_key_pem(), &key)
}

fn save(directory: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<Identity> {
    let identity = Identity::at(directory, name);
    write(&identity.certificate, certificate)?;
    write(&identity.key, key.serialize_pem())?;
    fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o600))
        .map_err(Error::io("protect", &identity.key))?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_certificates_are_pem() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), "ca").unwrap();
        let names = ["10.10.0.2".to_owned(), "kubernetes.default.svc".to_owned()];
        let server = authority.server("apiserver", "kube-apiserver", &names).unwrap();
        let client = authority.client("admin", "admin", Some("system:masters")).unwrap();
        for identity in [&server, &client, &token_key(dir.path()).unwrap()] {
            let mode = fs::metadata(&identity.key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(fs::read_to_string(&identity.certificate).unwrap().starts_with("-----BEGIN "));
        }
    }
}
