//! What a member had stored is lost, damaged or old: it comes back as another member, and nothing is lost meanwhile.

use std::time::Duration;

use tombolo_mesh_net::storage::MemoryStore;

use super::{
    HOUR,
    cluster::{Cluster, Kept, eventually},
    pair,
};

/// Three clusters in one mesh.
async fn three() -> (Cluster, Cluster, Cluster) {
    let (east, west) = pair().await;
    let north = Cluster::start("north", 3, "10.3.0.0/16").await;
    let token = west.mesh.create_token(HOUR).await.unwrap();
    north.mesh.join(&token).await.unwrap();
    eventually("three voters", || east.mesh.status().unwrap().members.iter().all(|m| m.voter)).await;
    eventually("backends of all", || east.backends().len() == 3 && west.backends().len() == 3).await;
    (east, west, north)
}

fn incarnation(seen_from: &Cluster, of: &Cluster) -> u32 {
    let status = seen_from.mesh.status().unwrap();
    status.members.iter().find(|m| m.id == of.id()).map(|m| m.incarnation).unwrap()
}

/// West starts again with what is left; east must never be without its records.
async fn comes_back(kept: Kept, east: &Cluster, expected: u32) -> Cluster {
    let id = kept.id;
    let keeps = || assert_eq!(east.endpoints_of(id).len(), 3, "east has lost records of west");
    let restarted = tokio::spawn(Cluster::restart(kept));
    eventually("a start", || {
        keeps();
        restarted.is_finished()
    })
    .await;
    let west = restarted.await.unwrap();
    eventually("a new member", || {
        keeps();
        incarnation(east, &west) == expected
    })
    .await;
    eventually("in sync", || {
        keeps();
        let status = west.mesh.status();
        status.is_ok_and(|s| {
            s.problems.is_empty() && s.members.iter().all(|m| m.connected && m.synced && m.voter)
        })
    })
    .await;
    keeps();
    eventually("backends of all", || east.backends().len() == 3 && west.backends().len() == 3).await;
    west
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_storage_comes_back() {
    let (east, west, _north) = three().await;
    let mut kept = west.kill().await;
    kept.store = MemoryStore::default();
    let west = comes_back(kept, &east, 2).await;

    let kept = west.kill().await;
    let mut bytes = kept.store.bytes().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    kept.store.set_bytes(bytes);
    let west = comes_back(kept, &east, 3).await;

    let kept = west.kill().await;
    kept.store.set_bytes(Vec::new());
    comes_back(kept, &east, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_on_an_old_backup_begins_anew() {
    let (east, west, north) = three().await;
    // Of the same incarnation: others remember what it has said since.
    let kept = west.kill().await;
    let backup = kept.store.bytes().unwrap();
    let west = Cluster::restart(kept).await;
    for _ in 0..3 {
        west.mesh.create_token(HOUR).await.unwrap();
    }
    let kept = west.kill().await;
    kept.store.set_bytes(backup.clone());
    let west = comes_back(kept, &east, 2).await;

    // Of an earlier one: nobody answers that member any more.
    let kept = west.kill().await;
    kept.store.set_bytes(backup);
    let _west = comes_back(kept, &east, 3).await;
    eventually("north agrees", || north.mesh.status().unwrap().problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_clusters_the_other_one_must_be_told() {
    let (east, west) = pair().await;
    eventually("both vote", || east.mesh.status().unwrap().members.iter().all(|m| m.voter)).await;
    eventually("backends of both", || east.backends().len() == 2).await;
    let mut kept = west.kill().await;
    kept.store = MemoryStore::default();
    let restarted = tokio::spawn(Cluster::restart(kept));
    // Two decide together, and one of them has forgotten what it has agreed to.
    eventually("no quorum", || {
        east.mesh.status().unwrap().problems.iter().any(|p| p.contains("tombolo mesh recover"))
    })
    .await;
    eventually("a session", || east.mesh.status().unwrap().members[1].connected).await;
    // Longer than the drain time: without a session the backends would be gone.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(east.mesh.status().unwrap().members[1].connected, "the session goes on");
    assert_eq!(east.backends().len(), 2, "the session goes on");
    east.mesh.recover().await.unwrap();
    let west = restarted.await.unwrap();
    eventually("together again", || {
        let status = east.mesh.status();
        status.is_ok_and(|s| s.problems.is_empty() && s.members.iter().all(|m| m.voter && m.connected))
    })
    .await;
    // What was asked in vain meanwhile may have counted too.
    assert!(incarnation(&east, &west) >= 2);
    eventually("backends of both", || east.backends().len() == 2 && west.backends().len() == 2).await;
}
