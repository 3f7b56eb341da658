//! Clusters that do not hear each other: what each of them says, and what its clients notice.

use super::*;
use tombolo_e2e::{member, problem};

/// Waits until nobody says that a cluster is cut off.
async fn whole(cluster: &str) -> anyhow::Result<()> {
    no_problem(cluster).await?;
    for other in FIVE {
        let cut_off_from = member(cluster, other)?.cut_off_from;
        ensure!(cut_off_from.is_empty(), "{cluster}: {other} is cut off from {cut_off_from:?}");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn a_cut_between_two_is_explained_by_all() {
    together().await.unwrap();
    let web = web("apart", &FIVE).await.unwrap();
    let cut = Cuts::new([("north", "south")]).unwrap();
    for cluster in ["east", "west", "cluster-5"] {
        problem(cluster, &["clusters north and south do not hear each other", "UDP port 4240"])
            .await
            .unwrap();
        let cut_off_from = member(cluster, "south").unwrap().cut_off_from;
        assert_eq!(cut_off_from.iter().map(ToString::to_string).collect::<Vec<_>>(), ["north"]);
    }
    problem("north", &["no session with cluster south", "hears it", "UDP port 4240"]).await.unwrap();
    let by = |scope: usize, wanted: &[&str]| {
        let scope = &web.scopes[scope];
        let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        async move {
            eventually(LIMIT, || async {
                let by = tombolo_e2e::answers(scope, 40, Duration::from_millis(500)).await?;
                ensure!(
                    by.len() == wanted.len() && wanted.iter().all(|name| by.contains_key(name)),
                    "{by:?}"
                );
                Ok(())
            })
            .await
        }
    };
    by(0, &FIVE).await.unwrap();
    by(2, &["east", "west", "north", "cluster-5"]).await.unwrap();
    by(3, &["east", "west", "south", "cluster-5"]).await.unwrap();
    // The mesh decides all the same; one of the two that are apart may lead, and the other one must ask elsewhere then.
    succeeds("east", &["token", "create"]).unwrap();
    drop(cut);
    for cluster in FIVE {
        eventually(LIMIT, || whole(cluster)).await.unwrap();
    }
    web.answered_by(&FIVE).await.unwrap();
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn a_dead_cluster_is_taken_out() {
    together().await.unwrap();
    let cut = around("cluster-5").unwrap();
    for cluster in others("cluster-5") {
        problem(
            cluster,
            &["no session with cluster cluster-5", "no other cluster hears it either", "tombolo disconnect"],
        )
        .await
        .unwrap();
    }
    // Who is cut off may neither let anybody in nor take anybody out.
    problem("cluster-5", &["too few members"]).await.unwrap();
    fails("cluster-5", &["token", "create"], &["too few members of the mesh answer"]).unwrap();
    fails("cluster-5", &["disconnect", "--cluster", "east"], &["too few members of the mesh answer"])
        .unwrap();
    succeeds("west", &["disconnect", "--cluster", "cluster-5"]).unwrap();
    without_a_trace("cluster-5", &others("cluster-5")).await.unwrap();
    drop(cut);
    // It comes back, and is told.
    problem("cluster-5", &["this cluster is no member of the mesh", "run `tombolo disconnect` here"])
        .await
        .unwrap();
    succeeds("cluster-5", &["disconnect"]).unwrap();
    members("cluster-5", &["cluster-5"]).await.unwrap();
    together().await.unwrap();
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn a_mesh_without_quorum_is_recovered() {
    together().await.unwrap();
    let web = web("rump", &["east", "west"]).await.unwrap();
    let rest = ["north", "south", "cluster-5"];
    let between = [("north", "south"), ("north", "cluster-5"), ("south", "cluster-5")];
    let cut = Cuts::new(rest.into_iter().flat_map(|r| [("east", r), ("west", r)]).chain(between)).unwrap();
    for cluster in ["east", "west"] {
        problem(cluster, &["too few members", "tombolo mesh recover"]).await.unwrap();
    }
    // What runs goes on without decisions.
    web.answered_by(&["east", "west"]).await.unwrap();
    fails("west", &["token", "create"], &["too few members of the mesh answer"]).unwrap();
    succeeds("east", &["mesh", "recover", "--yes"]).unwrap();
    eventually(LIMIT, || async {
        let status = mesh_status("east")?;
        let lost = status.members.iter().filter(|m| m.state == "lost").count();
        ensure!(
            lost == 4 && status.leader.is_some_and(|l| l.as_str() == "east"),
            "east sees {:?}",
            status.members
        );
        Ok(())
    })
    .await
    .unwrap();
    for gone in others("east") {
        succeeds("east", &["disconnect", "--cluster", gone]).unwrap();
    }
    drop(cut);
    problem("north", &["cluster east says that this cluster is no member", "run `tombolo disconnect` here"])
        .await
        .unwrap();
    for cluster in others("east") {
        // Of those who were left behind each decides for itself, in an order that does not matter.
        succeeds(cluster, &["disconnect"]).unwrap();
        members(cluster, &[cluster]).await.unwrap();
    }
    together().await.unwrap();
    web.answered_by(&["east", "west"]).await.unwrap();
}
