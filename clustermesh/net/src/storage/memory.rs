//! Memory, for tests and for clusters that are generated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{ObjectStore, StorageError};

/// One object that lives as long as its clones: they are what several replicas see of the same object.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Option<Versioned>>>);

type Versioned = (Vec<u8>, u64);

impl MemoryStore {
    /// The bytes, as they are.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        self.object().as_ref().map(|object| object.0.clone())
    }

    /// Puts other bytes in their place, as somebody would who edits the object; the version stays.
    pub fn set_bytes(&self, bytes: Vec<u8>) {
        if let Some(object) = self.object().as_mut() {
            object.0 = bytes;
        }
    }

    fn object(&self) -> MutexGuard<'_, Option<Versioned>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError> {
        Ok(self.object().clone().map(|(bytes, version)| (bytes, version.to_string())))
    }

    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
        let mut object = self.object();
        if object.as_ref().map(|object| object.1.to_string()).as_deref() != expected {
            return Err(StorageError::Deposed);
        }
        let version = object.as_ref().map_or(1, |object| object.1 + 1);
        *object = Some((bytes.to_vec(), version));
        Ok(version.to_string())
    }
}
