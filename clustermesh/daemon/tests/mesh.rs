//! Several clusters' parts in a mesh, on loopback: joining, what crosses, and leaving.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]

#[path = "mesh/authority.rs"]
mod authority;
#[path = "mesh/cluster.rs"]
mod cluster;
#[path = "mesh/hostile.rs"]
mod hostile;
#[path = "mesh/loss.rs"]
mod loss;
#[path = "mesh/puppet.rs"]
mod puppet;
#[path = "mesh/versions.rs"]
mod versions;

use std::time::{Duration, Instant};

use cluster::{Cluster, eventually};
use tombolo_clustermesh::mesh::JoinFailure;
use tombolo_mesh_core::token::Token;

const HOUR: Duration = Duration::from_secs(3600);

async fn pair() -> (Cluster, Cluster) {
    let (east, west) =
        (Cluster::start("east", 1, "10.1.0.0/16").await, Cluster::start("west", 2, "10.2.0.0/16").await);
    let token = east.mesh.create_token(HOUR).await.unwrap();
    let said = west.mesh.join(&token).await.unwrap();
    assert!(said.starts_with("joined mesh ") && said.ends_with(" with east"), "{said}");
    (east, west)
}

async fn refused(cluster: &Cluster, token: &str) -> String {
    let checked = cluster.mesh.check(token).await.unwrap_err();
    let joined = cluster.mesh.join(token).await.unwrap_err();
    assert!(!joined.is_temporary(), "{joined}");
    assert_eq!(checked.to_string(), joined.to_string());
    joined.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_joins_is_seen_and_leaves() {
    let (east, west) = pair().await;
    for (here, there) in [(&east, &west), (&west, &east)] {
        eventually("the records of the other", || here.endpoints_of(there.id()).len() == 3).await;
        eventually("status", || {
            let status = here.mesh.status().unwrap();
            let all =
                status.members.iter().all(|m| m.connected && m.synced && m.voter && m.state == "active");
            all && status.members.len() == 2 && status.leader.is_some() && status.problems.is_empty()
        })
        .await;
    }
    let backends = || east.backends();
    eventually("a global service with the backends of both", || backends().len() == 2).await;

    // A new pod crosses; one outside of the ranges of its cluster does not.
    west.add_pod("late", "10.2.0.77");
    west.add_pod("stray", "10.1.0.99");
    eventually("the new pod", || east.endpoints_of(west.id()).contains(&"late".to_owned())).await;
    eventually("a refusal in the status", || {
        east.mesh.status().unwrap().problems.iter().any(|p| p.contains("west has announced 1 record"))
    })
    .await;
    assert!(!east.endpoints_of(west.id()).contains(&"stray".to_owned()));

    // Joining once more changes nothing.
    let again = east.mesh.create_token(HOUR).await.unwrap();
    assert!(west.mesh.join(&again).await.unwrap().ends_with(" with east"));

    let said = west.mesh.leave(None).await.unwrap();
    assert_eq!(said, "cluster west has left the mesh of east");
    for (here, there) in [(&east, &west), (&west, &east)] {
        eventually("nothing is left of the other", || here.endpoints_of(there.id()).is_empty()).await;
        eventually("alone", || here.mesh.status().is_ok_and(|s| s.members.len() == 1 && s.leader.is_some()))
            .await;
    }
    eventually("own backends only", || backends().len() == 1).await;

    // And comes back, under a new token.
    let token = east.mesh.create_token(HOUR).await.unwrap();
    west.mesh.join(&token).await.unwrap();
    eventually("back", || east.endpoints_of(west.id()).len() == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_join_is_told_why() {
    let (east, west) = pair().await;
    let north = Cluster::start("north", 3, "10.3.0.0/16").await;
    let token = east.mesh.create_token(HOUR).await.unwrap();
    let listed = east.mesh.list_tokens().unwrap();
    assert!(
        listed.contains("made by east: used by west") && listed.contains("made by east: open for"),
        "{listed}"
    );

    let same_name = Cluster::start("west", 9, "10.9.0.0/16").await;
    let why = refused(&same_name, &token).await;
    assert!(why.contains("cluster name west is already used by cluster 2"), "{why}");
    let same_id = Cluster::start("south", 2, "10.9.0.0/16").await;
    let why = refused(&same_id, &token).await;
    assert!(
        why.contains("cluster id 2 is already used by cluster west") && why.contains("3 is free"),
        "{why}"
    );
    let overlapping = Cluster::start("south", 4, "10.2.128.0/17").await;
    let why = refused(&overlapping, &token).await;
    assert!(
        why.contains("10.2.128.0/17 of cluster south overlaps pod range 10.2.0.0/16 of cluster west"),
        "{why}"
    );

    assert!(north.mesh.check(&token).await.unwrap().contains("cluster east would let this cluster"));
    north.mesh.join(&token).await.unwrap();
    let spare = Cluster::start("spare", 5, "10.5.0.0/16").await;
    let why = refused(&spare, &token).await;
    assert!(why.contains("was already used by cluster 3: create a new one"), "{why}");

    // It is a member of that mesh, and of no other one.
    let other = spare.mesh.create_token(HOUR).await.unwrap();
    let why = refused(&west, &other).await;
    assert!(why.contains("already a member of mesh") && why.contains("disconnect it first"), "{why}");
    let why = refused(&spare, &other).await;
    assert!(why.contains("this token was made by this cluster (spare)"), "{why}");

    let revoked = east.mesh.create_token(HOUR).await.unwrap();
    let id = revoked.parse::<Token>().unwrap().id.to_string();
    assert!(east.mesh.revoke_token(&id).await.unwrap().contains("was revoked"));
    assert!(refused(&spare, &revoked).await.contains("was revoked"));
    let brief = east.mesh.create_token(Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(refused(&spare, &brief).await.contains("the token expired"));
    assert!(refused(&spare, &brief[..40]).await.contains("cut short"));

    let nobody = Cluster::start("nobody", 6, "10.6.0.0/16").await;
    let lost = nobody.mesh.create_token(HOUR).await.unwrap();
    drop(nobody);
    let error = spare.mesh.join(&lost).await.unwrap_err();
    assert!(
        matches!(&error, JoinFailure::Unavailable(why) if why.contains("cluster nobody does not answer at 127.0.0.1:")),
        "{error}"
    );
    // Nothing of all this has changed anything.
    assert_eq!(spare.mesh.status().unwrap().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_joins_by_the_second_and_a_replica_takes_over() {
    let (east, west) = pair().await;
    let north = Cluster::start("north", 3, "10.3.0.0/16").await;
    let token = west.mesh.create_token(HOUR).await.unwrap();
    let said = north.mesh.join(&token).await.unwrap();
    assert!(said.ends_with(" with east, west"), "{said}");
    let all = [&east, &west, &north];
    for here in all {
        for there in all.iter().filter(|there| there.id() != here.id()) {
            eventually("everybody sees everybody", || here.endpoints_of(there.id()).len() == 3).await;
        }
    }
    eventually("three voters", || east.mesh.status().unwrap().members.iter().all(|m| m.voter)).await;

    // West's daemon is killed. Its backends are taken out after the drain time, its records stay.
    eventually("backends of all", || east.backends().len() == 3).await;
    let killed = Instant::now();
    let west = west.kill().await;
    eventually("west is drained", || east.backends().len() == 2).await;
    // After the drain time of 3 s since its last word, which may have been a keepalive ago.
    assert!(killed.elapsed() > Duration::from_millis(1500), "drained after {:?}", killed.elapsed());
    assert_eq!(east.endpoints_of(west.id).len(), 3);
    // Another replica, elsewhere, goes on with what the first one stored.
    let west = Cluster::restart(west).await;
    eventually("west is back", || east.backends().len() == 3).await;
    eventually("and knows the others", || {
        west.endpoints_of(east.id()).len() == 3 && west.endpoints_of(north.id()).len() == 3
    })
    .await;

    // North dies, and is taken out by east; with it gone, two are left who decide together.
    let north = north.kill().await;
    let said = east.mesh.leave(Some(&north.name)).await.unwrap();
    assert_eq!(said, "cluster north was taken out of the mesh");
    for here in [&east, &west] {
        eventually("north is gone", || here.endpoints_of(north.id).is_empty()).await;
        eventually("two members", || here.mesh.status().unwrap().members.len() == 2).await;
    }
    // West dies too. East is told that it is gone for good, and goes on alone.
    let west = west.kill().await;
    eventually("no session", || !east.mesh.status().unwrap().members[1].connected).await;
    assert_eq!(east.mesh.leave(Some(&west.name)).await.unwrap(), "cluster west was taken out of the mesh");
    eventually("west is gone", || east.endpoints_of(west.id).is_empty()).await;
    eventually("alone", || east.mesh.status().is_ok_and(|s| s.members.len() == 1 && s.problems.is_empty()))
        .await;
    east.mesh.create_token(HOUR).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_knows_what_was_heard() {
    let (east, west) = pair().await;
    eventually("backends of both", || east.backends().len() == 2 && west.backends().len() == 2).await;
    // Node, identity, service and three pods.
    let held = east.mirrored(6).await;
    west.add_pod("late", "10.2.0.77");
    eventually("the new pod", || east.endpoints_of(west.id()).len() == 4).await;
    let (mut kept, before) = (east.kill().await, west.stats.snapshot());
    kept.held = held;
    let east = Cluster::restart(kept).await;
    eventually("all, and what was missed", || {
        east.endpoints_of(west.id()).len() == 4 && east.mesh.status().is_ok_and(|s| s.problems.is_empty())
    })
    .await;
    let after = west.stats.snapshot();
    assert_eq!(after.snapshots, before.snapshots, "only what differed was sent");
    assert!(after.comparisons > before.comparisons);

    // What was heard is there also while the other cluster is silent.
    let held = east.mirrored(7).await;
    let (_west, mut kept) = (west.kill().await, east.kill().await);
    kept.held = held;
    let east = Cluster::restart(kept).await;
    eventually("what west had said", || east.endpoints_of(2.try_into().unwrap()).len() == 4).await;
    eventually("and is silent about now", || east.backends().len() == 1).await;
}
