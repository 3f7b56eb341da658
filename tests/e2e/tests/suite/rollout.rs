//! New versions of what runs on the nodes are rolled out under traffic.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tombolo_e2e::{
    Bounds, Class, Cluster, Flow, SYSTEM, Traffic, UNHARMED, Window,
    command::succeeds,
    eventually,
    machine::{self, machines},
    restarted_now,
};
use tombolo_playground::layout::checkout;

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

/// What `make image-other-layout` builds: another layout of every map, and another form of what the agents keep on disk.
const OTHER_LAYOUT: &str = "other-layout";
/// An exchange of datagrams within a cluster may pause for so long while maps change hands.
const HANDED_OVER: Bounds = Bounds { lost: 0, longest: Duration::from_millis(200) };

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 90 s"]
async fn another_layout_of_maps_comes_and_goes_unnoticed() {
    let east = Cluster::attach("east").await.unwrap();
    for archive in ["node.tar", "clustermesh.tar"].map(|name| other_images().join(name)) {
        machines("east").unwrap().load_image(&archive).unwrap();
    }
    let nodes = east.nodes().await.unwrap();
    let here = east.scope("layout").await.unwrap();
    let away = Cluster::attach("west").await.unwrap().named_scope(&here.namespace).await.unwrap();
    let traffic = Traffic::start(&here, &away).await.unwrap();
    let begin = Instant::now();
    let mut before = generations(&nodes).unwrap();
    for (tag, stored) in [(OTHER_LAYOUT, true), ("", false)] {
        upgrade(tag).unwrap();
        // The generation before goes when the last of its programs is replaced.
        let now = eventually(LIMIT, || async {
            let now = generations(&nodes)?;
            let changed = |(now, before): (&Vec<String>, &Vec<String>)| now.len() == 1 && now != before;
            ensure!(now.iter().zip(&before).all(changed), "from {before:?} to {now:?}");
            Ok(now)
        });
        before = now.await.unwrap();
        for node in &nodes {
            // A further pod has the agent write what it keeps.
            let name = format!("after-{node}-{}", if stored { "there" } else { "back" });
            here.pod(&name, Some(node), &["pause"]).await.unwrap();
            let record = on_node(node, &["cat", "/run/tombolo/endpoints.json"]).unwrap();
            assert_eq!(record.contains(r#""other":"#), stored, "{node}: {record}");
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let window = Window::last(begin.elapsed());
    let recording = traffic.finish().await.unwrap();
    for class in [Class::Local, Class::Outside] {
        assert_eq!(recording.violations(class, window, UNHARMED), [""; 0]);
    }
    let is_exchange = |flow: &&Flow| flow.class == Class::Local && flow.name.ends_with("/udp");
    let exchanges: Vec<_> = recording.flows.iter().filter(is_exchange).collect();
    assert_eq!(exchanges.len(), 3, "near, far and through the service");
    for flow in exchanges {
        let harm = flow.harm(window, &recording.shared);
        assert!(
            HANDED_OVER.allow(&harm),
            "{}: {harm}, allowed {HANDED_OVER}; {:?}",
            flow.name,
            flow.words(window)
        );
    }
    println!("between clusters: {}", recording.worst(Class::Between, window));
}

fn other_images() -> PathBuf {
    checkout().join("target/images").join(OTHER_LAYOUT)
}

/// Upgrades the cluster to images of this tag, of none to those of the chart, and waits until all runs.
fn upgrade(tag: &str) -> anyhow::Result<()> {
    let tag = format!("image.tag={tag}");
    succeeds("east", &["install", "--cluster-name", "east", "--cluster-id", "1", "--set", &tag])?;
    Ok(())
}

/// The generations of maps on each node.
fn generations(nodes: &[String]) -> anyhow::Result<Vec<Vec<String>>> {
    let of_node = |node: &String| {
        let pins = on_node(node, &["ls", "/sys/fs/bpf/tombolo"])?;
        Ok(pins.lines().filter(|pin| pin.starts_with("generation-")).map(str::to_owned).collect())
    };
    nodes.iter().map(of_node).collect()
}

fn on_node(node: &str, argv: &[&str]) -> anyhow::Result<String> {
    machine::run(&machines("east")?, node, argv)
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
