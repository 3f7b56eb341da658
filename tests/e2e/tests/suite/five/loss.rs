//! Replicas and their storage are lost, under traffic.

use super::*;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};
use tombolo_e2e::{
    Class, Traffic, Window, addresses_of,
    machine::{machines, processes_of_all, signal},
    member,
};

/// Lets something happen under traffic between east and west: nothing may break or be lost.
pub(super) async fn survives(
    namespace: &str,
    fault: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let here = Cluster::attach("east").await?.scope(namespace).await?;
    let away = Cluster::attach("west").await?.named_scope(&here.namespace).await?;
    let traffic = Traffic::start(&here, &away).await?;
    let start = Instant::now();
    fault().await?;
    let took = start.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let window = Window::last(start.elapsed());
    let recording = traffic.finish().await?;
    let [local, between] = [Class::Local, Class::Between].map(|class| recording.worst(class, window));
    say(&format!("{namespace}: {took:.0?}; in the cluster {local}; between clusters {between}"));
    recording.unharmed(window).with_context(|| namespace.to_owned())
}

fn daemons(cluster: &str) -> anyhow::Result<Vec<i32>> {
    processes_of_all(&machines(cluster)?, "tombolo-clustermesh")
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn all_replicas_are_lost_at_once() {
    together().await.unwrap();
    survives("replicas", async || {
        for cluster in ["east", "west"] {
            let dead = daemons(cluster)?;
            signal(&dead, "KILL")?;
            eventually(LIMIT, || async {
                ensure!(
                    !daemons(cluster)?.iter().any(|pid| dead.contains(pid)),
                    "{cluster}: still the old ones"
                );
                mesh_status(cluster).map(drop)
            })
            .await?;
        }
        together().await
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "needs 5 clusters, alone, long; 90 s"]
async fn storage_is_lost() {
    together().await.unwrap();
    let before = member("north", "west").unwrap().incarnation;
    survives("storage", async || {
        let secrets: Api<Secret> = Api::namespaced(Cluster::attach("west").await?.client, SYSTEM);
        secrets.delete("tombolo-membership", &DeleteParams::default()).await?;
        signal(&daemons("west")?, "KILL")?;
        for cluster in FIVE {
            eventually(LIMIT, || async {
                let now = member(cluster, "west")?.incarnation;
                ensure!(now > before, "{cluster} still knows incarnation {now} of west");
                Ok(())
            })
            .await?;
        }
        together().await?;
        ensure!(addresses_of(1, "east")? > 0, "east has lost the addresses of west");
        Ok(())
    })
    .await
    .unwrap();
}
