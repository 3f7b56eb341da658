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
    Changes { start: 1, key: [1; 32], generation, snapshot: None, entries: vec![entry], hard }
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

#[tokio::test]
async fn a_replaced_replica_cannot_write() {
    let shared = MemoryStore::default();
    let mut old = MemberStorage::create(Box::new(shared.clone()), Durable::empty(member())).await.unwrap();
    let mut new = MemberStorage::open(Box::new(shared), cluster()).await.unwrap();
    new.save(&changes(1, 1, 1)).await.unwrap();
    assert!(matches!(old.save(&changes(1, 1, 1)).await, Err(StorageError::Deposed)));
    new.save(&changes(2, 2, 1)).await.unwrap();
}

#[tokio::test]
async fn damage_and_strangers_are_noticed() {
    let shared = MemoryStore::default();
    let mut storage =
        MemberStorage::create(Box::new(shared.clone()), Durable::empty(member())).await.unwrap();
    storage.save(&changes(1, 1, 100)).await.unwrap();
    let good = shared.bytes().unwrap();
    let mut refused = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        shared.set_bytes(bad);
        match MemberStorage::open(Box::new(shared.clone()), cluster()).await {
            Err(StorageError::RejoinNeeded(_)) => refused += 1,
            Err(other) => panic!("{other}"),
            Ok(_) => {}
        }
    }
    assert_eq!(refused, good.len());
    shared.set_bytes(good);
    let stranger = 2.try_into().unwrap();
    let error = MemberStorage::open(Box::new(shared), stranger).await.err().unwrap().to_string();
    assert!(error.contains("it is of member 1/1, this is cluster 2"), "{error}");
}

#[tokio::test]
async fn too_much_is_refused() {
    let shared = MemoryStore::default();
    let mut storage =
        MemberStorage::create(Box::new(shared.clone()), Durable::empty(member())).await.unwrap();
    let before = shared.bytes().unwrap();
    let error = storage.save(&changes(1, 1, MAX_OBJECT_BYTES)).await;
    assert!(matches!(error, Err(StorageError::TooLarge { .. })));
    assert!(shared.bytes().unwrap() == before, "what was stored stays");
}

/// Fails now and then, before or after having stored.
struct Flaky(MemoryStore, u32);

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
    let shared = MemoryStore::default();
    let flaky = Box::new(Flaky(shared.clone(), 0));
    let mut storage = MemberStorage::create(flaky, Durable::empty(member())).await.unwrap();
    for n in 1..=10 {
        storage.save(&changes(n, n, 1)).await.unwrap();
    }
    let stored = MemberStorage::open(Box::new(shared), cluster()).await.unwrap();
    assert_eq!(stored.durable(), storage.durable());
}
