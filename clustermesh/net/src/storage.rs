//! Where a member keeps its durable state: one versioned object, in a file or in Kubernetes.
//!
//! Every save replaces the object if nobody else has written it since. So a replica that lost its lease cannot
//! overwrite what its successor has stored, and finds out that it is [`StorageError::Deposed`].

mod file;
mod memory;

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use sha2::{Digest, Sha256};
use tombolo_mesh_core::membership::{Changes, Durable, MAX_DURABLE};
use tombolo_model::ClusterId;
use tracing::warn;

pub use self::{file::FileStore, memory::MemoryStore};

/// The most bytes that a stored object has; a Secret ends at 1 MiB (`MaxSecretSize`).
pub const MAX_OBJECT_BYTES: usize = 1000 * 1024;
// Whatever others propose, a member can store it.
const _: () = assert!(MAX_DURABLE + 1024 < MAX_OBJECT_BYTES);

/// One object with a version, written as a whole.
#[async_trait]
pub trait ObjectStore: Send {
    /// The object and its version; none when it does not exist.
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError>;

    /// Replaces the object if it still has this version (none: if it does not exist), and returns the new one,
    /// once nothing can undo it. A [`StorageError::Deposed`] means that it had another version.
    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError>;
}

/// Why durable state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Somebody else has written the object: another replica has taken over.
    #[error("membership data was written by another replica: this one has been replaced and stops")]
    Deposed,
    /// The object does not exist.
    #[error("there is no membership data yet: found a mesh or join one")]
    Empty,
    /// The content cannot be trusted; the member has to begin anew.
    #[error("membership data cannot be used ({0}): the member must rejoin the mesh; rejoin needed")]
    RejoinNeeded(String),
    /// More than fits.
    #[error(
        "membership data has {size} bytes, at most {MAX_OBJECT_BYTES} fit: remove clusters or shorten their records"
    )]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// The place itself fails; trying again may help.
    #[error("membership data cannot be accessed: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A member's durable state and where it is kept.
pub struct MemberStorage {
    store: Box<dyn ObjectStore>,
    version: Option<String>,
    durable: Durable,
}

/// The object: content and checksum, so that damage and editing by hand are noticed.
#[derive(Clone, PartialEq, Message)]
struct Object {
    /// Of this layout; 1.
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
    /// SHA-256 of the content.
    #[prost(bytes = "vec", tag = "3")]
    checksum: Vec<u8>,
}

const FORMAT: u32 = 1;
/// Pauses between attempts to write.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

impl MemberStorage {
    /// Opens what `cluster`'s member has stored; any incarnation will do.
    pub async fn open(mut store: Box<dyn ObjectStore>, cluster: ClusterId) -> Result<Self, StorageError> {
        let (bytes, version) = store.load().await?.ok_or(StorageError::Empty)?;
        let durable = decode(&bytes)?;
        let rejoin = |why: String| Err(StorageError::RejoinNeeded(why));
        if durable.member.cluster() != Some(cluster) {
            return rejoin(format!("it is of member {}, this is cluster {cluster}", durable.member));
        }
        Ok(Self { store, version: Some(version), durable })
    }

    /// Stores the first state of a member; nothing may be stored yet.
    pub async fn create(store: Box<dyn ObjectStore>, durable: Durable) -> Result<Self, StorageError> {
        let mut storage = Self { store, version: None, durable };
        storage.write().await?;
        Ok(storage)
    }

    /// Replaces whatever is stored: for a new incarnation, and for a recovery.
    pub async fn replace(mut store: Box<dyn ObjectStore>, durable: Durable) -> Result<Self, StorageError> {
        let version = store.load().await?.map(|(_, version)| version);
        let mut storage = Self { store, version, durable };
        storage.write().await?;
        Ok(storage)
    }

    /// What is stored.
    pub const fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Stores changes as a whole. After an error nothing is known about them: the member must stop.
    pub async fn save(&mut self, changes: &Changes) -> Result<(), StorageError> {
        self.durable.apply(changes);
        self.write().await
    }

    /// Writes until it is certain whether it is stored. The member waits for as long as its storage is away; no
    /// established traffic depends on it.
    async fn write(&mut self) -> Result<(), StorageError> {
        let bytes = encode(&self.durable)?;
        let mut pause = RETRY_FIRST;
        loop {
            match self.store.save(&bytes, self.version.as_deref()).await {
                Ok(version) => {
                    self.version = Some(version);
                    return Ok(());
                }
                Err(StorageError::Unavailable(error)) => {
                    warn!(%error, "membership cannot store its data, trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
            // The attempt may have been stored although its answer was lost.
            if let Ok(Some((found, version))) = self.store.load().await
                && found == bytes
            {
                self.version = Some(version);
                return Ok(());
            }
        }
    }
}

fn encode(durable: &Durable) -> Result<Vec<u8>, StorageError> {
    let content = durable.encode();
    let checksum = Sha256::digest(&content).to_vec();
    let bytes = Object { format: FORMAT, content, checksum }.encode_to_vec();
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(StorageError::TooLarge { size: bytes.len() });
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Durable, StorageError> {
    if bytes.is_empty() {
        return Err(damaged(&"it is empty"));
    }
    let object = Object::decode(bytes).map_err(|e| damaged(&e))?;
    if object.format != FORMAT {
        return Err(StorageError::RejoinNeeded(format!(
            "its format is {}, known is {FORMAT}",
            object.format
        )));
    }
    if Sha256::digest(&object.content).as_slice() != object.checksum {
        return Err(StorageError::RejoinNeeded("its checksum is wrong".to_owned()));
    }
    Durable::decode(&object.content).map_err(|e| damaged(&e))
}

fn damaged(error: &dyn std::fmt::Display) -> StorageError {
    StorageError::RejoinNeeded(error.to_string())
}

#[cfg(test)]
mod tests;
