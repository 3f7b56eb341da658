//! A file (redb), for members outside of Kubernetes and for tests.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{ObjectStore, StorageError};

/// Version and bytes of the one object.
const OBJECT: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("object");
const KEY: &str = "membership";

/// One object in a redb file. The file is locked: no two processes have it open.
pub struct FileStore {
    database: Arc<Database>,
}

impl FileStore {
    /// Opens the file or makes it; its directory must exist.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let database = Database::create(path).map_err(unavailable)?;
        Ok(Self { database: Arc::new(database) })
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::Unavailable(Box::new(error))
}

fn load(database: &Database) -> Result<Option<(Vec<u8>, String)>, StorageError> {
    let read = database.begin_read().map_err(unavailable)?;
    let table = match read.open_table(OBJECT) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(unavailable(error)),
    };
    let object = table.get(KEY).map_err(unavailable)?;
    Ok(object.map(|object| {
        let (version, bytes) = object.value();
        (bytes.to_vec(), version.to_string())
    }))
}

fn save(database: &Database, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
    let mut write = database.begin_write().map_err(unavailable)?;
    write.set_durability(Durability::Immediate).map_err(unavailable)?;
    let next;
    {
        let mut table = write.open_table(OBJECT).map_err(unavailable)?;
        let version = table.get(KEY).map_err(unavailable)?.map(|object| object.value().0);
        if version.map(|v| v.to_string()).as_deref() != expected {
            return Err(StorageError::Deposed);
        }
        next = version.unwrap_or(0) + 1;
        table.insert(KEY, (next, bytes)).map_err(unavailable)?;
    }
    write.commit().map_err(unavailable)?;
    Ok(next.to_string())
}

#[async_trait]
impl ObjectStore for FileStore {
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || load(&database)).await.map_err(unavailable)?
    }

    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
        let database = Arc::clone(&self.database);
        let (bytes, expected) = (bytes.to_vec(), expected.map(str::to_owned));
        let work = move || save(&database, &bytes, expected.as_deref());
        tokio::task::spawn_blocking(work).await.map_err(unavailable)?
    }
}
