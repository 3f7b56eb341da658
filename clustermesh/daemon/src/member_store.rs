//! Objects of membership, each in a Secret. Its resource version fences a replica that was replaced.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tombolo_mesh_net::storage::{ObjectStore, StorageError};

/// The Secret of the durable state; only the daemon may read or write it.
pub const STATE: &str = "tombolo-membership";
/// The Secret that remembers where the mesh is.
pub const MEMORY: &str = "tombolo-mesh";
/// Its entry.
const ENTRY: &str = "state";

/// See the module.
pub struct SecretStore {
    api: Api<Secret>,
    name: &'static str,
}

impl SecretStore {
    /// The Secret of this name.
    pub fn new(client: Client, namespace: &str, name: &'static str) -> Self {
        Self { api: Api::namespaced(client, namespace), name }
    }
}

#[async_trait]
impl ObjectStore for SecretStore {
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError> {
        let Some(secret) = self.api.get_opt(self.name).await.map_err(unavailable)? else { return Ok(None) };
        // One without the entry is there, and holds nothing.
        let bytes = secret.data.and_then(|mut data| data.remove(ENTRY)).unwrap_or_default();
        Ok(Some((bytes.0, secret.metadata.resource_version.unwrap_or_default())))
    }

    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.to_owned()),
                resource_version: expected.map(str::to_owned),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(bytes.to_vec()))])),
            ..Secret::default()
        };
        let written = match expected {
            Some(_) => self.api.replace(self.name, &PostParams::default(), &secret).await,
            None => self.api.create(&PostParams::default(), &secret).await,
        };
        match written {
            Ok(secret) => Ok(secret.metadata.resource_version.unwrap_or_default()),
            // Conflict: another version, or it exists already. Not found: it was deleted by somebody else.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(StorageError::Deposed),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn unavailable(error: kube::Error) -> StorageError {
    StorageError::Unavailable(Box::new(error))
}
