//! New versions of what runs on the nodes are rolled out under traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tombolo_e2e::{Class, Cluster, SYSTEM, Traffic, UNHARMED, Window, eventually, restarted_now};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 100 s; known to fail: a roll-out of the agents cuts traffic between clusters"]
async fn agents_are_rolled_out_unnoticed() {
    let east = Cluster::attach("east").await.unwrap();
    let here = east.scope("rollout").await.unwrap();
    let away = Cluster::attach("west").await.unwrap().named_scope(&here.namespace).await.unwrap();
    let traffic = Traffic::start(&here, &away).await.unwrap();
    let begin = Instant::now();
    for scope in [&here, &away] {
        roll_out(&scope.cluster).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let window = Window::last(begin.elapsed());
    let recording = traffic.finish().await.unwrap();
    for class in [Class::Local, Class::Outside] {
        assert_eq!(recording.violations(class, window, UNHARMED), [""; 0]);
    }
    let cut = recording.violations(Class::Between, window, UNHARMED);
    assert!(cut.is_empty(), "a roll-out of the agents cuts traffic between clusters:\n{}", cut.join("\n"));
}

/// As `kubectl rollout restart` does it; waits until all pods are new and ready.
async fn roll_out(cluster: &Cluster) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), SYSTEM);
    sets.patch("tombolo-node", &PatchParams::default(), &Patch::Strategic(restarted_now())).await?;
    eventually(LIMIT, || async {
        let set = sets.get("tombolo-node").await?;
        let (wanted, status) = (set.metadata.generation, set.status.context("no status")?);
        let (all, new) = (status.desired_number_scheduled, status.updated_number_scheduled.unwrap_or(0));
        ensure!(
            status.observed_generation >= wanted && new == all && status.number_ready == all,
            "{status:?}"
        );
        Ok(())
    })
    .await
}
