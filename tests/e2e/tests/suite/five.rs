//! Five clusters: what happens to a mesh in its life. Each story begins with all five together, and ends so.

mod change;
mod loss;
mod partition;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tombolo_e2e::{
    Cluster, Cuts, SYSTEM, Web,
    command::{succeeds, tombolo},
    eventually, members, mesh_status, no_problem, say,
};

const FIVE: [&str; 5] = ["east", "west", "north", "south", "cluster-5"];
const LIMIT: Duration = Duration::from_secs(90);

/// Lets whoever is missing join, each by the one before it, the last two at the same moment; waits until all five see
/// all five and nothing is wrong.
async fn together() -> anyhow::Result<()> {
    let known: Vec<_> =
        mesh_status("east")?.members.into_iter().map(|member| member.name.to_string()).collect();
    let missing: Vec<_> = (1..FIVE.len()).filter(|i| !known.iter().any(|name| name == FIVE[*i])).collect();
    let (alone, last) = missing.split_at(missing.len().saturating_sub(2));
    for &i in alone {
        join(FIVE[i - 1], FIVE[i])?;
    }
    std::thread::scope(|scope| {
        // The first of the two may not be a member yet when the second one asks.
        let by = |i: usize| if last.contains(&(i - 1)) { FIVE[i - 2] } else { FIVE[i - 1] };
        let joining: Vec<_> = last.iter().map(|&i| scope.spawn(move || join(by(i), FIVE[i]))).collect();
        joining
            .into_iter()
            .try_for_each(|joined| joined.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
    })?;
    for cluster in FIVE {
        members(cluster, &FIVE).await?;
        no_problem(cluster).await?;
    }
    Ok(())
}

fn join(by: &str, cluster: &str) -> anyhow::Result<()> {
    let token = succeeds(by, &["token", "create"])?;
    succeeds(cluster, &["connect", &token]).map(drop)
}

/// Waits until nobody has an address of a cluster any more.
async fn without_a_trace(gone: &str, in_clusters: &[&str]) -> anyhow::Result<()> {
    let index = FIVE.iter().position(|name| *name == gone).context("one of the five")?;
    for cluster in in_clusters {
        members(cluster, in_clusters).await?;
        eventually(LIMIT, || async {
            let left = tombolo_e2e::addresses_of(index, cluster)?;
            ensure!(left == 0, "{cluster} still has {left} addresses of {gone}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn others(of: &str) -> Vec<&'static str> {
    FIVE.into_iter().filter(|name| *name != of).collect()
}

/// Cuts all links of a cluster.
fn around(cluster: &'static str) -> anyhow::Result<Cuts> {
    Cuts::new(others(cluster).into_iter().map(|other| (cluster, other)))
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn each_joins_by_another_one() {
    let start = Instant::now();
    together().await.unwrap();
    let web = Web::start("five", &FIVE).await.unwrap();
    web.answered_by(&FIVE).await.unwrap();
    let status = mesh_status("cluster-5").unwrap();
    assert!(status.members.iter().all(|m| m.voter && m.membership_behind == Some(0)), "{status:?}");
    say(&format!("five clusters answer together after {:.0?}", start.elapsed()));
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn a_living_cluster_leaves_from_any_side() {
    together().await.unwrap();
    succeeds("east", &["disconnect", "--cluster", "south"]).unwrap();
    without_a_trace("south", &others("south")).await.unwrap();
    members("south", &["south"]).await.unwrap();
    succeeds("cluster-5", &["disconnect"]).unwrap();
    without_a_trace("cluster-5", &["east", "west", "north"]).await.unwrap();
    members("cluster-5", &["cluster-5"]).await.unwrap();
    let status = succeeds("west", &["mesh", "status"]).unwrap();
    assert!(status.contains("gone: cluster south was taken out by east at 20"), "{status}");
    assert!(status.contains("gone: cluster cluster-5 left at 20"), "{status}");
    together().await.unwrap();
    let status = succeeds("west", &["mesh", "status"]).unwrap();
    assert!(!status.contains("gone:"), "{status}");
}

/// A command that must fail with these words.
fn fails(cluster: &str, arguments: &[&str], words: &[&str]) -> anyhow::Result<()> {
    tombolo_e2e::command::refused(&tombolo(cluster, arguments)?, words)
}

async fn web(namespace: &str, clusters: &[&str]) -> anyhow::Result<Web> {
    let web = Web::start(namespace, clusters).await?;
    web.answered_by(clusters).await?;
    Ok(web)
}
