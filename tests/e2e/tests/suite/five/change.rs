//! Certificate authorities and versions change, under traffic.

use super::loss::survives;
use super::*;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tombolo_e2e::{machine::machines, member, restarted_now};
use tombolo_playground::layout::checkout;

const IMAGE: &str = "tombolo.io/clustermesh";

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 120 s"]
async fn authorities_are_replaced() {
    together().await.unwrap();
    let before: Vec<_> = FIVE.iter().map(|name| member("south", name).unwrap().ca_pins).collect();
    survives("authorities", async || {
        for cluster in ["east", "west"] {
            let said = succeeds(cluster, &["mesh", "rotate-ca"])?;
            ensure!(
                said.contains(&format!("the certificate authority of cluster {cluster} is sha256:")),
                "{said}"
            );
        }
        // Fresh handshakes, with what is left.
        for cluster in ["east", "west"] {
            patch(cluster, restarted_now()).await?;
        }
        together().await
    })
    .await
    .unwrap();
    for (name, old) in FIVE.iter().zip(before) {
        let now = member("south", name).unwrap().ca_pins;
        assert_eq!(now != old, ["east", "west"].contains(name), "{name}: {old:?}, {now:?}");
        assert_eq!(now.len(), 1, "{name}");
    }
    succeeds("east", &["status", "--wait", "--timeout", "60"]).unwrap();
}

/// The daemons go from the last release to this build, cluster by cluster.
#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 120 s"]
async fn daemons_are_upgraded_from_the_version_before() {
    let archive = checkout().join("target/images/previous/clustermesh.tar");
    assert!(archive.is_file(), "{} is missing: run `make image-previous`", archive.display());
    together().await.unwrap();
    let current = image("east").await.unwrap();
    for cluster in FIVE {
        machines(cluster).unwrap().load_image(&archive).unwrap();
        set_image(cluster, &format!("{IMAGE}:previous")).await.unwrap();
    }
    together().await.unwrap();
    survives("upgrade", async || {
        for cluster in FIVE {
            set_image(cluster, &current).await?;
            // Versions are mixed now, and the mesh decides.
            succeeds("south", &["token", "create", "--ttl", "1m"])?;
        }
        together().await
    })
    .await
    .unwrap();
}

async fn image(cluster: &str) -> anyhow::Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(Cluster::attach(cluster).await?.client, SYSTEM);
    let spec = deployments.get("tombolo-clustermesh").await?.spec.template.spec;
    let container = spec.and_then(|spec| spec.containers.into_iter().next());
    container.and_then(|container| container.image).context("the daemon has no image")
}

async fn set_image(cluster: &str, image: &str) -> anyhow::Result<()> {
    let containers = json!([{"name": "clustermesh", "image": image}]);
    patch(cluster, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await
}

/// Changes the daemon's deployment, and waits until all replicas are new.
async fn patch(cluster: &str, change: serde_json::Value) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(Cluster::attach(cluster).await?.client, SYSTEM);
    deployments.patch("tombolo-clustermesh", &PatchParams::default(), &Patch::Strategic(change)).await?;
    eventually(LIMIT, || async {
        let deployment = deployments.get("tombolo-clustermesh").await?;
        let (wanted, status) = (deployment.metadata.generation, deployment.status.context("no status")?);
        let all = status.replicas.is_some()
            && [status.updated_replicas, status.ready_replicas].iter().all(|n| *n == status.replicas);
        ensure!(status.observed_generation >= wanted && all, "{cluster}: {status:?}");
        Ok(())
    })
    .await?;
    // Ready replicas have read the cluster; the one that leads may still be finding the others.
    eventually(LIMIT, || async { mesh_status(cluster).map(drop) }).await
}
