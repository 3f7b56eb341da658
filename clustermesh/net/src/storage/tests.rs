use std::sync::{Arc, Mutex};

use tombolo_mesh_core::membership::{EntryKind, HardState, LogEntry, MemberId};

use super::*;

fn cluster() -> ClusterId {
    1.try_into().unwrap()
}

fn member() -> MemberId {
    MemberId::new(cluster(), 1)
}

fn changes(generation: u64, index: u64, size: usize) -> Changes {
    let entry = LogEntry { index, term: 1, kind: EntryKind::Proposal, data: vec![1; size] };
    let hard = Some(HardState { term: 1, vote: member().get(), commit: index });
    Changes { start: 1, generation, snapshot: None, entries: vec![entry], hard }
}

#[tokio::test]
async fn a_file_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("membership");
    let open = || Box::new(FileStore::open(&path).unwrap());
    assert!(matches!(MemberStorage::open(open(), cluster()).await, Err(StorageError::Empty)));
    let mut storage = MemberStorage::create(open(), Durable::empty(member())).await.unwrap();
    storage.save(&changes(1, 1, 3)).await.unwrap();
    storage.save(&changes(2, 2, 3)).await.unwrap();
    let durable = storage.durable().clone();
    drop(storage);
    let storage = MemberStorage::open(open(), cluster()).await.unwrap();
    assert_eq!(storage.durable(), &durable);
    assert_eq!((durable.generation, durable.last_index()), (2, 2));
    drop(storage);
    assert!(matches!(MemberStorage::create(open(), durable).await, Err(StorageError::Deposed)));
}

/// Two replicas that use the same object.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Versioned>>>);

type Versioned = (Vec<u8>, u64);

#[async_trait]
impl ObjectStore for Shared {
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError> {
        Ok(self.0.lock().unwrap().clone().map(|(bytes, version)| (bytes, version.to_string())))
    }

    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
        let mut object = self.0.lock().unwrap();
        if object.as_ref().map(|o| o.1.to_string()).as_deref() != expected {
            return Err(StorageError::Deposed);
        }
        let version = object.as_ref().map_or(1, |o| o.1 + 1);
        *object = Some((bytes.to_vec(), version));
        Ok(version.to_string())
    }
}

#[tokio::test]
async fn a_replaced_replica_cannot_write() {
    let shared = Shared::default();
    let mut old = MemberStorage::create(Box::new(shared.clone()), Durable::empty(member())).await.unwrap();
    let mut new = MemberStorage::open(Box::new(shared), cluster()).await.unwrap();
    new.save(&changes(1, 1, 1)).await.unwrap();
    assert!(matches!(old.save(&changes(1, 1, 1)).await, Err(StorageError::Deposed)));
    new.save(&changes(2, 2, 1)).await.unwrap();
}

#[tokio::test]
async fn damage_and_strangers_are_noticed() {
    let shared = Shared::default();
    let mut storage =
        MemberStorage::create(Box::new(shared.clone()), Durable::empty(member())).await.unwrap();
    storage.save(&changes(1, 1, 100)).await.unwrap();
    let good = shared.0.lock().unwrap().clone().unwrap().0;
    let mut refused = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        *shared.0.lock().unwrap() = Some((bad, 1));
        match MemberStorage::open(Box::new(shared.clone()), cluster()).await {
            Err(StorageError::RejoinNeeded(_)) => refused += 1,
            Err(other) => panic!("{other}"),
            Ok(_) => {}
        }
    }
    assert_eq!(refused, good.len());
    *shared.0.lock().unwrap() = Some((good, 1));
    let stranger = 2.try_into().unwrap();
    let error = MemberStorage::open(Box::new(shared), stranger).await.err().unwrap().to_string();
    assert!(error.contains("it is of member 1/1, this is cluster 2"), "{error}");
}

#[tokio::test]
async fn too_much_is_refused() {
    let mut storage =
        MemberStorage::create(Box::new(Shared::default()), Durable::empty(member())).await.unwrap();
    let error = storage.save(&changes(1, 1, MAX_OBJECT_BYTES)).await;
    assert!(matches!(error, Err(StorageError::TooLarge { .. })));
}

/// Fails now and then, before or after having stored.
struct Flaky(Shared, u32);

#[async_trait]
impl ObjectStore for Flaky {
    async fn load(&mut self) -> Result<Option<(Vec<u8>, String)>, StorageError> {
        self.0.load().await
    }

    async fn save(&mut self, bytes: &[u8], expected: Option<&str>) -> Result<String, StorageError> {
        let broken = || StorageError::Unavailable("no route to host".into());
        self.1 += 1;
        match self.1 % 3 {
            0 => self.0.save(bytes, expected).await,
            1 => Err(broken()),
            _ => self.0.save(bytes, expected).await.and(Err(broken())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_and_a_lost_answer_is_no_deposition() {
    let shared = Shared::default();
    let flaky = Box::new(Flaky(shared.clone(), 0));
    let mut storage = MemberStorage::create(flaky, Durable::empty(member())).await.unwrap();
    for n in 1..=10 {
        storage.save(&changes(n, n, 1)).await.unwrap();
    }
    let stored = MemberStorage::open(Box::new(shared), cluster()).await.unwrap();
    assert_eq!(stored.durable(), storage.durable());
}
