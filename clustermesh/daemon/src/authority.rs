//! The cluster's certificate authority: made once, kept in a Secret, its certificate published to the nodes, and
//! replaced by a new one without anybody losing a session.

mod material;
mod rotation;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tombolo_mesh_net::tls::{self, CertificateAuthority};
use tombolo_model::ClusterName;

use self::material::Material;
pub use self::rotation::{NodeTrusts, Rotation, RotationHandle};

/// The Secret with key and certificate; only the daemon may read it.
pub const SECRET: &str = "tombolo-ca";
/// The ConfigMap with the certificate, for agents.
pub const CONFIG_MAP: &str = "tombolo-ca";
/// The certificate in PEM, in both.
pub const CERTIFICATE: &str = "ca.crt";
/// The key in PEM (PKCS #8), in the Secret.
pub const KEY: &str = "ca.key";

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
    /// The Secret that the configuration names cannot serve.
    #[error(
        "the certificate authority in Secret {name} (caSecret) cannot be used: {reason}; it needs tls.crt, a CA \
         certificate, and tls.key, its key in PEM (PKCS #8)"
    )]
    Source {
        /// The Secret.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Where the authority is kept.
#[derive(Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    cluster: ClusterName,
    /// The Secret that somebody else, like cert-manager, keeps an authority for this cluster in.
    source: Option<String>,
}

impl Keeper {
    /// In this namespace.
    pub fn new(client: &Client, namespace: &str, cluster: ClusterName, source: Option<String>) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            cluster,
            source,
        }
    }

    /// Reads the authority, making it first if there is none, and publishes its certificate. Two callers at the same
    /// time get the same one: the API server creates an object once only.
    ///
    /// # Errors
    /// The API server refuses, or a Secret is damaged.
    pub async fn ensure(&self) -> Result<CertificateAuthority, AuthorityError> {
        let secret = match self.secrets.get_opt(SECRET).await? {
            Some(secret) => secret,
            None => match self.secrets.create(&PostParams::default(), &self.first().await?.write()).await {
                Err(kube::Error::Api(status)) if status.code == 409 => self.secrets.get(SECRET).await?,
                other => other?,
            },
        };
        let authority = Material::read(&secret)?.authority()?;
        self.publish(authority.bundle_pem()).await?;
        Ok(authority)
    }

    /// The authority as it is kept.
    ///
    /// # Errors
    /// The API server refuses, or the Secret is damaged or does not exist yet.
    pub async fn read(&self) -> Result<CertificateAuthority, AuthorityError> {
        Ok(self.load().await?.0.authority()?)
    }

    async fn first(&self) -> Result<Material, AuthorityError> {
        match self.source().await? {
            Some(material) => Ok(material),
            None => Ok(Material::generate(&self.cluster)?),
        }
    }

    /// The authority that somebody else keeps; none if nobody does.
    async fn source(&self) -> Result<Option<Material>, AuthorityError> {
        let Some(name) = &self.source else { return Ok(None) };
        let bad = |reason: String| AuthorityError::Source { name: name.clone(), reason };
        let secret = self.secrets.get_opt(name).await?.ok_or_else(|| bad("it does not exist".to_owned()))?;
        let entry =
            |name: &str| material::text(&secret, name).ok_or_else(|| bad(format!("it has no entry {name}")));
        let material = Material::from_pem(&entry("tls.crt")?, &entry("tls.key")?);
        material.map(Some).map_err(|error| bad(error.to_string()))
    }

    /// The Secret as it is, with the version that fences other writers.
    async fn load(&self) -> Result<(Material, Secret), AuthorityError> {
        let secret = self.secrets.get(SECRET).await?;
        Ok((Material::read(&secret)?, secret))
    }

    async fn store(&self, material: &Material, before: Secret) -> Result<(), AuthorityError> {
        let secret = Secret { metadata: before.metadata, ..material.write() };
        Ok(self.secrets.replace(SECRET, &PostParams::default(), &secret).await.map(drop)?)
    }

    async fn publish(&self, bundle: &str) -> kube::Result<()> {
        let api = &self.config_maps;
        let data = BTreeMap::from([(CERTIFICATE.to_owned(), bundle.to_owned())]);
        let patch = Patch::Merge(json!({ "data": data }));
        match api.get_opt(CONFIG_MAP).await? {
            Some(map) if map.data.as_ref() == Some(&data) => return Ok(()),
            Some(_) => {}
            None => {
                let metadata = ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                match api.create(&PostParams::default(), &map).await {
                    // Another replica has just made it.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    made => return made.map(drop),
                }
            }
        }
        api.patch(CONFIG_MAP, &PatchParams::default(), &patch).await.map(drop)
    }
}
