//! The certificate authority of the cluster: made once, kept in a Secret, its certificate published.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tombolo_mesh_net::tls::{self, CertificateAuthority};
use tombolo_model::ClusterName;

/// The Secret with key and certificate; only the daemon may read it.
pub const SECRET: &str = "tombolo-ca";
/// The ConfigMap with the certificate, for agents.
pub const CONFIG_MAP: &str = "tombolo-ca";
/// The certificate in PEM, in both.
pub const CERTIFICATE: &str = "ca.crt";
/// The key in PEM (PKCS #8), in the Secret.
pub const KEY: &str = "ca.key";

/// How long its certificate is valid: ten years.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The API server refused.
    #[error("cannot read or write Secret {SECRET} or ConfigMap {CONFIG_MAP}: {0}")]
    Api(#[from] kube::Error),
    /// The key or certificate could not be made, or the Secret holds something else.
    #[error("the certificate authority in Secret {SECRET} cannot be used: {0}")]
    Material(#[from] tls::AuthorityError),
    /// The Secret is there, but not as tombolo writes it.
    #[error(
        "Secret {SECRET} has no entry {0} with text in PEM: restore it, or delete the Secret to get a new authority"
    )]
    Incomplete(&'static str),
}

/// Reads the authority, making it first if there is none, and publishes its certificate. Two callers at the same
/// time get the same one: the API server creates an object once only.
///
/// # Errors
/// The API server refuses, or the Secret is damaged.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    cluster: &ClusterName,
) -> Result<CertificateAuthority, AuthorityError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(SECRET).await? {
        Some(secret) => secret,
        None => match secrets.create(&PostParams::default(), &make(cluster)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(SECRET).await?,
            other => other?,
        },
    };
    let authority = read(&secret)?;
    publish(client, namespace, authority.certificate_pem()).await?;
    Ok(authority)
}

fn read(secret: &Secret) -> Result<CertificateAuthority, AuthorityError> {
    let entry = |name: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.filter(|text| text.starts_with("-----BEGIN")).ok_or(AuthorityError::Incomplete(name))
    };
    Ok(CertificateAuthority::from_pem(&entry(CERTIFICATE)?, &entry(KEY)?)?)
}

fn make(cluster: &ClusterName) -> Result<Secret, tls::AuthorityError> {
    let authority = CertificateAuthority::generate(cluster, SystemTime::now(), LIFETIME)?;
    let certificate = authority.certificate_pem().as_bytes().to_vec();
    Ok(Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([
            (CERTIFICATE.to_owned(), ByteString(certificate)),
            (KEY.to_owned(), ByteString(authority.key_pem().into_bytes())),
        ])),
        ..Secret::default()
    })
}

async fn publish(client: &Client, namespace: &str, certificate: &str) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = BTreeMap::from([(CERTIFICATE.to_owned(), certificate.to_owned())]);
    match api.get_opt(CONFIG_MAP).await? {
        Some(map) if map.data.as_ref() == Some(&data) => Ok(()),
        Some(_) => {
            let patch = Patch::Merge(json!({ "data": data }));
            api.patch(CONFIG_MAP, &PatchParams::default(), &patch).await.map(drop)
        }
        None => {
            let metadata = ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            api.create(&PostParams::default(), &map).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read() {
        let secret = make(&"east".parse().unwrap()).unwrap();
        assert!(read(&secret).is_ok());
        let mut damaged = secret;
        damaged.data.as_mut().unwrap().remove(KEY);
        let error = read(&damaged).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
